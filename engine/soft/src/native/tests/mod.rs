//! Stubs against the processor itself: every instruction that is executed natively, on seeded random states.

mod behaviour;
mod bytes;
mod every_instruction;
mod hardware;
mod random;
mod state_management;
