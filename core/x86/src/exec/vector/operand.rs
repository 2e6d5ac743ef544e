//! Memory operands of up to 32 bytes on their way to and from the vector unit.
//!
//! 10, 16 and 32 bytes are several accesses where they stay inside one page, because then either all fault or none does.

use crate::cpu::{Cpu, Word};
use crate::decode::Op;
use crate::environment::{Environment, Processor, VectorOperand};
use crate::exception::Stop;

/// Whether `size` bytes at `linear` lie in one 4 KiB page.
#[inline(always)]
pub(super) const fn in_one_page(linear: u64, size: u64) -> bool {
    linear & 0xfff <= 0x1000 - size
}

/// The linear address `offset` bytes behind `linear`: 32 bits wide outside 64-bit code.
pub(super) const fn following(cpu: &Cpu, linear: u64, offset: u64) -> u64 {
    let address = linear.wrapping_add(offset);
    if cpu.code64() { address } else { address & 0xffff_ffff }
}

/// Makes sure that `size` bytes (at most a page) at `linear` can be written.
pub(super) fn probe<E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
    linear: u64,
    size: u64,
) -> Result<(), Stop> {
    let second = (!in_one_page(linear, size)).then(|| 0x1000 - (linear & 0xfff));
    for offset in [Some(0), second].into_iter().flatten() {
        let address = following(&p.cpu, linear, offset);
        p.env.update::<u8>(&mut p.cpu, op.segment, address, false, |_| None)?;
    }
    Ok(())
}

/// Makes sure that an operand of `SIZE` bytes at `linear` can be written, in the accesses that [`store`] would make.
pub(super) fn probe_operand<const SIZE: u8, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
    linear: u64,
) -> Result<(), Stop> {
    match SIZE {
        2 => p.env.update::<u16>(&mut p.cpu, op.segment, linear, false, |_| None).map(drop),
        4 => p.env.update::<u32>(&mut p.cpu, op.segment, linear, false, |_| None).map(drop),
        8 => p.env.update::<u64>(&mut p.cpu, op.segment, linear, false, |_| None).map(drop),
        10 if in_one_page(linear, 10) => {
            p.env.update::<u64>(&mut p.cpu, op.segment, linear, false, |_| None).map(drop)
        }
        _ => probe(p, op, linear, u64::from(SIZE)),
    }
}

/// Reads `SIZE` bytes: 1, 2, 4, 8, 10, 16 or 32.
#[inline(always)]
pub(super) fn load<const SIZE: u8, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
    linear: u64,
    operand: &mut VectorOperand,
) -> Result<(), Stop> {
    match SIZE {
        1 => load_word::<u8, E>(p, op, linear, operand, 0),
        2 => load_word::<u16, E>(p, op, linear, operand, 0),
        4 => load_word::<u32, E>(p, op, linear, operand, 0),
        8 => load_word::<u64, E>(p, op, linear, operand, 0),
        16 if linear.is_multiple_of(16) => {
            let value = p.env.load_16_bytes(&mut p.cpu, op.segment, linear)?;
            operand.0[..16].copy_from_slice(&value.to_le_bytes());
            Ok(())
        }
        _ if !in_one_page(linear, u64::from(SIZE)) => {
            p.env.load_bytes(&mut p.cpu, op.segment, linear, &mut operand.0[..usize::from(SIZE)])
        }
        10 => {
            load_word::<u64, E>(p, op, linear, operand, 0)?;
            load_word::<u16, E>(p, op, linear, operand, 8)
        }
        _ => {
            for at in (0..usize::from(SIZE)).step_by(8) {
                load_word::<u64, E>(p, op, linear, operand, at)?;
            }
            Ok(())
        }
    }
}

/// Writes `SIZE` bytes: 1, 2, 4, 8, 10, 16 or 32; all or none.
#[inline(always)]
pub(super) fn store<const SIZE: u8, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
    linear: u64,
    operand: &VectorOperand,
) -> Result<(), Stop> {
    match SIZE {
        1 => store_word::<u8, E>(p, op, linear, operand, 0),
        2 => store_word::<u16, E>(p, op, linear, operand, 0),
        4 => store_word::<u32, E>(p, op, linear, operand, 0),
        8 => store_word::<u64, E>(p, op, linear, operand, 0),
        16 if linear.is_multiple_of(16) => {
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&operand.0[..16]);
            p.env.store_16_bytes(&mut p.cpu, op.segment, linear, u128::from_le_bytes(bytes))
        }
        _ if !in_one_page(linear, u64::from(SIZE)) => {
            p.env.store_bytes(&mut p.cpu, op.segment, linear, &operand.0[..usize::from(SIZE)])
        }
        10 => {
            store_word::<u64, E>(p, op, linear, operand, 0)?;
            store_word::<u16, E>(p, op, linear, operand, 8)
        }
        _ => {
            for at in (0..usize::from(SIZE)).step_by(8) {
                store_word::<u64, E>(p, op, linear, operand, at)?;
            }
            Ok(())
        }
    }
}

#[inline(always)]
fn load_word<W: Word, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
    linear: u64,
    operand: &mut VectorOperand,
    at: usize,
) -> Result<(), Stop> {
    let value = p.env.load::<W>(&mut p.cpu, op.segment, linear.wrapping_add(at as u64))?;
    let size = usize::from(W::BYTES);
    operand.0[at..at + size].copy_from_slice(&value.zero_extend().to_le_bytes()[..size]);
    Ok(())
}

#[inline(always)]
fn store_word<W: Word, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
    linear: u64,
    operand: &VectorOperand,
    at: usize,
) -> Result<(), Stop> {
    let size = usize::from(W::BYTES);
    let mut bytes = [0; 8];
    bytes[..size].copy_from_slice(&operand.0[at..at + size]);
    let value = W::truncate(u64::from_le_bytes(bytes));
    p.env.store::<W>(&mut p.cpu, op.segment, linear.wrapping_add(at as u64), value)
}
