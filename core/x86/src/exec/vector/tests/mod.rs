//! Vector instructions from their bytes on, around a vector unit that does what each test says.

mod bench;
mod native;
mod state;
mod unit;

use crate::cpu::Cpu;
use crate::environment::VectorOperand;
use crate::exception::Stop;

/// A vector unit that does nothing.
fn idle(_: &mut Cpu, _: &mut VectorOperand) -> Result<(), Stop> {
    Ok(())
}
