//! VMASKMOV and its kin, and gathers (APM volume 4): only elements whose mask has its top bit set are accessed, and only they
//! can fault.
//!
//! `op.reg` is the destination, or what is stored; `op.rm` the mask.

use super::operand::in_one_page;
use super::unit::{Avx, Unit};
use crate::cpu::{Cpu, Word};
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::Stop;

type Outcome = Result<(), Stop>;

/// Whether element `n` of width `W` is selected.
fn is_selected<W: Word>(mask: &[u8; 32], n: usize) -> bool {
    let bytes = usize::from(W::BYTES);
    mask[n * bytes + bytes - 1] & 0x80 != 0
}

fn set<W: Word>(value: &mut [u8; 32], n: usize, element: W) {
    let bytes = usize::from(W::BYTES);
    value[n * bytes..][..bytes].copy_from_slice(&element.zero_extend().to_le_bytes()[..bytes]);
}

fn get<W: Word>(value: &[u8; 32], n: usize) -> W {
    let bytes = usize::from(W::BYTES);
    let mut wide = [0; 8];
    wide[..bytes].copy_from_slice(&value[n * bytes..][..bytes]);
    W::truncate(u64::from_le_bytes(wide))
}

/// The linear address of element `n` of the memory operand.
fn place<W: Word, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
    n: usize,
    write: bool,
) -> Result<u64, Stop> {
    let offset =
        op.effective_address(&p.cpu).wrapping_add(n as u64 * u64::from(W::BYTES)) & op.address_mask();
    p.cpu.linear(op.segment, offset, u64::from(W::BYTES), write)
}

/// VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ from memory; `SIZE` bytes, 16 or 32, in elements of width `W`.
pub fn masked_load<const SIZE: usize, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    Avx::available(&mut p.cpu)?;
    let mask = p.cpu.fpu.vector(usize::from(op.rm & 15));
    let mut value = [0; 32];
    for n in (0..SIZE / usize::from(W::BYTES)).filter(|&n| is_selected::<W>(&mask, n)) {
        let linear = place::<W, E>(p, op, n, false)?;
        set(&mut value, n, p.env.load::<W>(&mut p.cpu, op.segment, linear)?);
    }
    p.cpu.fpu.set_vector(usize::from(op.reg & 15), &value);
    Ok(())
}

/// The same to memory: all selected elements or none.
pub fn masked_store<const SIZE: usize, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    Avx::available(&mut p.cpu)?;
    let mask = p.cpu.fpu.vector(usize::from(op.rm & 15));
    let value = p.cpu.fpu.vector(usize::from(op.reg & 15));
    let selected = || (0..SIZE / usize::from(W::BYTES)).filter(|&n| is_selected::<W>(&mask, n));
    let Some(first) = selected().next() else { return Ok(()) };
    let start = place::<W, E>(p, op, first, true)?;
    if !in_one_page(start, (SIZE - first * usize::from(W::BYTES)) as u64) {
        for n in selected() {
            let linear = place::<W, E>(p, op, n, true)?;
            p.env.update::<W>(&mut p.cpu, op.segment, linear, false, |_| None)?;
        }
    }
    for n in selected() {
        let linear = place::<W, E>(p, op, n, true)?;
        p.env.store::<W>(&mut p.cpu, op.segment, linear, get(&value, n))?;
    }
    Ok(())
}

/// The linear address of the element that index `n`, of width `I` in register `op.index`, leads to.
fn indexed<I: Word, W: Word, E: Environment>(
    cpu: &mut Cpu,
    op: &Op<E>,
    indices: &[u8; 32],
    n: usize,
) -> Result<u64, Stop> {
    let index = get::<I>(indices, n).sign_extend();
    let offset = cpu.gpr[usize::from(op.base & 31)]
        .wrapping_add(index << (op.scale & 3))
        .wrapping_add(op.displacement)
        & op.address_mask();
    cpu.linear(op.segment, offset, u64::from(W::BYTES), false)
}

/// A gather of `COUNT` elements of width `W` by indices of width `I`. A fault leaves the elements before its own complete, and
/// their masks clear, so that the instruction goes on behind them.
pub fn gather<const COUNT: usize, I: Word, W: Word, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
) -> Outcome {
    Avx::available(&mut p.cpu)?;
    let (destination, mask_register) = (usize::from(op.reg & 15), usize::from(op.rm & 15));
    let indices = p.cpu.fpu.vector(usize::from(op.index & 15));
    let mut mask = p.cpu.fpu.vector(mask_register);
    let mut value = p.cpu.fpu.vector(destination);
    for n in 0..COUNT {
        if !is_selected::<W>(&mask, n) {
            continue;
        }
        let loaded = indexed::<I, W, E>(&mut p.cpu, op, &indices, n)
            .and_then(|linear| p.env.load::<W>(&mut p.cpu, op.segment, linear));
        match loaded {
            Ok(element) => set(&mut value, n, element),
            Err(stop) => {
                // What needs an answer from outside is executed again from its start.
                if stop == Stop::Exception {
                    p.cpu.fpu.set_vector(destination, &value);
                    p.cpu.fpu.set_vector(mask_register, &mask);
                }
                return Err(stop);
            }
        }
        set(&mut mask, n, W::truncate(0));
    }
    value[COUNT * usize::from(W::BYTES)..].fill(0);
    p.cpu.fpu.set_vector(destination, &value);
    p.cpu.fpu.set_vector(mask_register, &[0; 32]);
    Ok(())
}
