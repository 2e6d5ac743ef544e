//! Instructions that interrupt themselves: INT n, INT3, INTO, INT1.

use super::delivery::{Interrupt, deliver_interrupt};
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::{Stop, Vector};

/// Delivers `vector` with the next instruction as the place to return to. The pointer is restored if that faults.
fn interrupt<E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
    vector: u8,
    source: Interrupt,
) -> Result<(), Stop> {
    let rip = p.cpu.rip;
    p.cpu.rip = op.next_rip(&p.cpu);
    let delivered = deliver_interrupt(p, vector, source);
    if delivered.is_err() {
        p.cpu.rip = rip;
    }
    delivered
}

/// INT n: vector in `immediate`.
pub(crate) fn interrupt_n<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    if p.cpu.virtual_8086() && p.cpu.system_flags.iopl() < 3 {
        return Err(p.cpu.general_protection());
    }
    interrupt(p, op, op.immediate as u8, Interrupt::Software)
}

/// INT3.
pub(crate) fn interrupt_3<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    interrupt(p, op, Vector::Bp as u8, Interrupt::Software)
}

/// INTO: an overflow interrupt if OF is set.
pub(crate) fn interrupt_on_overflow<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    if p.cpu.flags.of() {
        interrupt(p, op, Vector::Of as u8, Interrupt::Software)
    } else {
        p.cpu.rip = op.next_rip(&p.cpu);
        Ok(())
    }
}

/// INT1.
pub(crate) fn interrupt_1<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    interrupt(p, op, Vector::Db as u8, Interrupt::Debug)
}
