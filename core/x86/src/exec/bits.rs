//! Bit tests, bit scans, POPCNT, CRC32 (APM volume 3).

use crate::cpu::{LazyFlags, Word};
use crate::decode::{Op, OpFlags};
use crate::environment::{Environment, Processor};
use crate::exception::Stop;
use crate::state::Rflags;

type Outcome = Result<(), Stop>;

/// What a bit-test instruction does to the bit.
pub trait BitChange: 'static {
    /// BT only looks.
    const WRITES: bool = true;
    /// The operand with the bit under `mask` changed.
    fn apply(value: u64, mask: u64) -> u64;
}

/// BT.
pub struct Bt;
impl BitChange for Bt {
    const WRITES: bool = false;
    fn apply(value: u64, _: u64) -> u64 {
        value
    }
}
/// BTS.
pub struct Bts;
impl BitChange for Bts {
    fn apply(value: u64, mask: u64) -> u64 {
        value | mask
    }
}
/// BTR.
pub struct Btr;
impl BitChange for Btr {
    fn apply(value: u64, mask: u64) -> u64 {
        value & !mask
    }
}
/// BTC.
pub struct Btc;
impl BitChange for Btc {
    fn apply(value: u64, mask: u64) -> u64 {
        value ^ mask
    }
}

#[inline(always)]
const fn mask<W: Word>(index: u64) -> u64 {
    1 << (index & (W::BITS as u64 - 1))
}

#[inline(always)]
fn test_register<B: BitChange, W: Word, E: Environment>(p: &mut Processor<E>, reg: u8, index: u64) {
    let value = W::get(&p.cpu.gpr, reg).zero_extend();
    p.cpu.flags.set_cf(value & mask::<W>(index) != 0);
    if B::WRITES {
        W::set(&mut p.cpu.gpr, reg, W::truncate(B::apply(value, mask::<W>(index))));
    }
}

/// Register, bit number in a register.
pub fn bit_rr<B: BitChange, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let index = W::get(&p.cpu.gpr, op.rm).zero_extend();
    test_register::<B, W, E>(p, op.reg, index);
    Ok(())
}

/// Register, immediate bit number.
pub fn bit_ri<B: BitChange, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    test_register::<B, W, E>(p, op.reg, op.immediate);
    Ok(())
}

#[inline(always)]
fn test_memory<B: BitChange, W: Word, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
    linear: u64,
    index: u64,
) -> Outcome {
    let mask = mask::<W>(index);
    let old = if B::WRITES {
        let locked = op.flags.contains(OpFlags::LOCK);
        p.env.update::<W>(&mut p.cpu, op.segment, linear, locked, |a| {
            Some(W::truncate(B::apply(a.zero_extend(), mask)))
        })?
    } else {
        p.env.load::<W>(&mut p.cpu, op.segment, linear)?
    };
    p.cpu.flags.set_cf(old.zero_extend() & mask != 0);
    Ok(())
}

/// Memory, bit number in a register: the bit may lie anywhere, before or behind the operand.
pub fn bit_mr<B: BitChange, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let index = W::get(&p.cpu.gpr, op.reg).sign_extend() as i64;
    let words = index >> W::BITS.trailing_zeros();
    let offset = op.effective_address(&p.cpu).wrapping_add((words as u64).wrapping_mul(u64::from(W::BYTES)))
        & op.address_mask();
    let linear = p.cpu.linear(op.segment, offset, u64::from(W::BYTES), B::WRITES)?;
    test_memory::<B, W, E>(p, op, linear, index as u64)
}

/// Memory, immediate bit number: within the operand.
pub fn bit_mi<B: BitChange, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, W::BYTES, B::WRITES)?;
    test_memory::<B, W, E>(p, op, linear, op.immediate)
}

#[inline(always)]
fn scan<const REVERSE: bool, W: Word, E: Environment>(p: &mut Processor<E>, reg: u8, source: W) {
    let value = source.zero_extend();
    // The destination stays as it is for a source of zero (APM volume 3). The other flags are undefined: they stay.
    if value != 0 {
        let index = if REVERSE { 63 - value.leading_zeros() } else { value.trailing_zeros() };
        W::set(&mut p.cpu.gpr, reg, W::truncate(u64::from(index)));
    }
    p.cpu.flags.set_zf(value == 0);
}

/// BSF or BSR register, register.
pub fn scan_rr<const REVERSE: bool, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let source = W::get(&p.cpu.gpr, op.rm);
    scan::<REVERSE, W, E>(p, op.reg, source);
    Ok(())
}

/// BSF or BSR register, memory.
pub fn scan_rm<const REVERSE: bool, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, W::BYTES, false)?;
    let source = p.env.load::<W>(&mut p.cpu, op.segment, linear)?;
    scan::<REVERSE, W, E>(p, op.reg, source);
    Ok(())
}

fn popcnt<W: Word, E: Environment>(p: &mut Processor<E>, reg: u8, source: W) {
    let value = source.zero_extend();
    W::set(&mut p.cpu.gpr, reg, W::truncate(u64::from(value.count_ones())));
    p.cpu.flags = LazyFlags::from_bits(if value == 0 { Rflags::ZF } else { Rflags::empty() });
}

/// POPCNT register, register.
pub fn popcnt_rr<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let source = W::get(&p.cpu.gpr, op.rm);
    popcnt(p, op.reg, source);
    Ok(())
}

/// POPCNT register, memory.
pub fn popcnt_rm<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, W::BYTES, false)?;
    let source = p.env.load::<W>(&mut p.cpu, op.segment, linear)?;
    popcnt(p, op.reg, source);
    Ok(())
}

/// CRC-32C (the polynomial 0x1edc6f41, reflected) of each byte value.
const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut n = 0;
    while n < 256 {
        let mut crc = n as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 != 0 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[n] = crc;
        n += 1;
    }
    table
};

fn crc32<W: Word, E: Environment>(p: &mut Processor<E>, reg: u8, source: W) {
    let bytes = source.zero_extend().to_le_bytes();
    let mut crc = p.cpu.gpr[usize::from(reg & 15)] as u32;
    for &byte in &bytes[..usize::from(W::BYTES)] {
        crc = crc >> 8 ^ CRC_TABLE[usize::from(crc as u8 ^ byte)];
    }
    u32::set(&mut p.cpu.gpr, reg, crc);
}

/// CRC32 register, register of width `W`.
pub fn crc32_rr<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let source = W::get(&p.cpu.gpr, op.rm);
    crc32(p, op.reg, source);
    Ok(())
}

/// CRC32 register, memory of width `W`.
pub fn crc32_rm<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, W::BYTES, false)?;
    let source = p.env.load::<W>(&mut p.cpu, op.segment, linear)?;
    crc32(p, op.reg, source);
    Ok(())
}
