//! A driver's side of a device: what a guest does, for tests and fuzzing. It keeps no rule that its user does not.

mod function;
mod ring;

pub use function::{Interrupted, PciDriver, register, session};
pub use ring::{INDIRECT, NEXT, RING_SIZE, Ring, WRITE};
