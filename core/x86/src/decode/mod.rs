//! Instruction bytes to operations.
mod op;
pub use op::{Op, OpFlags};
