//! What each instruction does.
//!
//! A handler gets the processor and a decoded operation, and either does all of it or, if it returns an error, nothing
//! that the guest could see. Handlers are generic over the operand width and over the environment, so that an engine gets
//! straight code without a decision left to make. The instruction pointer is the run loop's business, except for branches.

pub mod alu;
pub mod bit_fields;
pub mod bits;
pub mod bound;
pub mod branch;
pub mod condition;
pub mod flag;
pub mod mov;
pub mod multiply;
pub mod port;
pub mod shift;
pub mod stack;
pub mod string;
pub mod system;
pub mod transfer;
pub mod vector;

use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::Stop;

/// #UD.
pub fn undefined<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    Err(p.cpu.undefined_opcode())
}

/// More than 15 bytes: #GP(0).
pub fn too_long<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    Err(p.cpu.general_protection())
}
