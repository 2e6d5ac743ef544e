//! LDMXCSR, STMXCSR, MASKMOVQ and MASKMOVDQU (APM volumes 4 and 5).

use super::operand::{following, in_one_page};
use super::unit::{Mmx, Sse, Unit};
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::Stop;
use crate::vector::{self, MaskedMove};

type Outcome = Result<(), Stop>;

/// LDMXCSR.
pub fn ldmxcsr<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    Sse::available(&mut p.cpu)?;
    let linear = op.linear(p, 4, false)?;
    let value = p.env.load::<u32>(&mut p.cpu, op.segment, linear)?;
    vector::ldmxcsr(&mut p.cpu.fpu, value).map_err(|exception| p.cpu.raise(exception))
}

/// STMXCSR.
pub fn stmxcsr<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    Sse::available(&mut p.cpu)?;
    let linear = op.linear(p, 4, true)?;
    let value = vector::stmxcsr(&p.cpu.fpu);
    p.env.store::<u32>(&mut p.cpu, op.segment, linear, value)
}

/// MASKMOVQ: `op.reg` is the source, `op.rm` the mask.
pub fn maskmovq<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    Mmx::available(&mut p.cpu)?;
    let moved = vector::maskmovq(&p.cpu.fpu, usize::from(op.reg & 7), usize::from(op.rm & 7));
    store_selected::<8, E>(p, op, &moved)?;
    vector::enter_mmx(&mut p.cpu.fpu);
    Ok(())
}

/// MASKMOVDQU: `op.reg` is the source, `op.rm` the mask.
pub fn maskmovdqu<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    Sse::available(&mut p.cpu)?;
    let moved = vector::maskmovdqu(&p.cpu.fpu, usize::from(op.reg & 15), usize::from(op.rm & 15));
    store_selected::<16, E>(p, op, &moved)
}

/// Stores the selected ones of `SIZE` bytes: all of them, or none if a page refuses one.
fn store_selected<const SIZE: u8, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
    moved: &MaskedMove,
) -> Outcome {
    let linear = op.linear(p, SIZE, true)?;
    let selected = || (0..SIZE).filter(|&n| moved.selected >> n & 1 != 0);
    if !in_one_page(linear, u64::from(SIZE)) {
        // If both pages are concerned, the outermost bytes are on different ones.
        for n in selected().next().into_iter().chain(selected().next_back()) {
            let address = following(&p.cpu, linear, u64::from(n));
            p.env.update::<u8>(&mut p.cpu, op.segment, address, false, |_| None)?;
        }
    }
    for n in selected() {
        let address = following(&p.cpu, linear, u64::from(n));
        p.env.store::<u8>(&mut p.cpu, op.segment, address, moved.bytes[usize::from(n)])?;
    }
    Ok(())
}
