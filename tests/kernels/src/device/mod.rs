//! Instruction sequences, in 64-bit mode, that set up interrupt controllers and timers.

pub mod apic;
pub mod pic;
