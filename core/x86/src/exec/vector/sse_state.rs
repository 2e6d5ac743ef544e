//! LDMXCSR, STMXCSR, MASKMOVQ and MASKMOVDQU, and those that VEX encodes (APM volumes 4 and 5).

use super::operand::{following, probe_operand};
use super::unit::{Mmx, Unit};
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::Stop;
use crate::vector::{self, MaskedMove};

type Outcome = Result<(), Stop>;

/// LDMXCSR, or VLDMXCSR.
pub fn ldmxcsr<U: Unit, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    U::available(&mut p.cpu)?;
    let linear = op.linear(p, 4, false)?;
    let value = p.env.load::<u32>(&mut p.cpu, op.segment, linear)?;
    vector::ldmxcsr(&mut p.cpu.fpu, value).map_err(|exception| p.cpu.raise(exception))
}

/// STMXCSR, or VSTMXCSR.
pub fn stmxcsr<U: Unit, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    U::available(&mut p.cpu)?;
    let linear = op.linear(p, 4, true)?;
    let value = vector::stmxcsr(&p.cpu.fpu);
    p.env.store::<u32>(&mut p.cpu, op.segment, linear, value)
}

/// MASKMOVQ: `op.reg` is the source, `op.rm` the mask.
pub fn maskmovq<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    Mmx::available(&mut p.cpu)?;
    let moved = vector::maskmovq(&p.cpu.fpu, usize::from(op.reg & 7), usize::from(op.rm & 7));
    // Processors do this also if the store faults.
    vector::enter_mmx(&mut p.cpu.fpu);
    store_selected::<8, E>(p, op, &moved)
}

/// MASKMOVDQU, or VMASKMOVDQU: `op.reg` is the source, `op.rm` the mask.
pub fn maskmovdqu<U: Unit, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    U::available(&mut p.cpu)?;
    let moved = vector::maskmovdqu(&p.cpu.fpu, usize::from(op.reg & 15), usize::from(op.rm & 15));
    store_selected::<16, E>(p, op, &moved)
}

/// Stores the selected ones of `SIZE` bytes. All of them must be writable, also those that are not selected.
fn store_selected<const SIZE: u8, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
    moved: &MaskedMove,
) -> Outcome {
    let linear = op.linear(p, SIZE, true)?;
    probe_operand::<SIZE, E>(p, op, linear)?;
    for n in (0..SIZE).filter(|&n| moved.selected >> n & 1 != 0) {
        let address = following(&p.cpu, linear, u64::from(n));
        p.env.store::<u8>(&mut p.cpu, op.segment, address, moved.bytes[usize::from(n)])?;
    }
    Ok(())
}
