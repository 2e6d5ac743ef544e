//! Shifts and rotates (APM volume 3: SHL, SHR, SAR, ROL, ROR, RCL, RCR, SHLD, SHRD).
//!
//! OF is defined by the manual for counts of one only; for larger counts the formula for one is used, as processors do.

use crate::cpu::word::RCX;
use crate::cpu::{LazyFlags, Word};
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::Stop;

/// A shift or rotate of `a` by `count`, which is masked already and not zero.
pub trait Shift: 'static {
    /// The result and the new flags.
    fn apply<W: Word>(flags: LazyFlags, a: W, count: u32) -> (W, LazyFlags);
}

#[inline(always)]
const fn bit(value: u64, index: u32) -> bool {
    index < 64 && value >> index & 1 != 0
}

#[inline(always)]
fn top<W: Word>(value: W) -> bool {
    bit(value.zero_extend(), W::BITS - 1)
}

/// SHL.
pub struct Shl;
impl Shift for Shl {
    #[inline(always)]
    fn apply<W: Word>(_: LazyFlags, a: W, count: u32) -> (W, LazyFlags) {
        let a = a.zero_extend();
        let result = W::truncate(a.checked_shl(count).unwrap_or(0));
        let cf = count <= W::BITS && bit(a, W::BITS - count);
        (result, LazyFlags::from_parts(result, cf, top(result) != cf, false))
    }
}

/// SHR.
pub struct Shr;
impl Shift for Shr {
    #[inline(always)]
    fn apply<W: Word>(_: LazyFlags, a: W, count: u32) -> (W, LazyFlags) {
        let wide = a.zero_extend();
        let result = W::truncate(wide.checked_shr(count).unwrap_or(0));
        let cf = bit(wide, count - 1);
        (
            result,
            LazyFlags::from_parts(result, cf, top(result) != bit(result.zero_extend(), W::BITS - 2), false),
        )
    }
}

/// SAR.
pub struct Sar;
impl Shift for Sar {
    #[inline(always)]
    fn apply<W: Word>(_: LazyFlags, a: W, count: u32) -> (W, LazyFlags) {
        let wide = a.sign_extend() as i64;
        let result = W::truncate((wide >> count.min(63)) as u64);
        let cf = wide >> (count - 1).min(63) & 1 != 0;
        (result, LazyFlags::from_parts(result, cf, false, false))
    }
}

#[inline(always)]
fn with_carry_overflow(mut flags: LazyFlags, cf: bool, of: bool) -> LazyFlags {
    flags.set_cf_of(cf, of);
    flags
}

/// ROL.
pub struct Rol;
impl Shift for Rol {
    #[inline(always)]
    fn apply<W: Word>(flags: LazyFlags, a: W, count: u32) -> (W, LazyFlags) {
        let (a, n) = (a.zero_extend(), count % W::BITS);
        let result = W::truncate(if n == 0 { a } else { a << n | a >> (W::BITS - n) });
        let cf = bit(result.zero_extend(), 0);
        (result, with_carry_overflow(flags, cf, top(result) != cf))
    }
}

/// ROR.
pub struct Ror;
impl Shift for Ror {
    #[inline(always)]
    fn apply<W: Word>(flags: LazyFlags, a: W, count: u32) -> (W, LazyFlags) {
        let (a, n) = (a.zero_extend(), count % W::BITS);
        let result = W::truncate(if n == 0 { a } else { a >> n | a << (W::BITS - n) });
        let cf = top(result);
        (result, with_carry_overflow(flags, cf, cf != bit(result.zero_extend(), W::BITS - 2)))
    }
}

/// RCL: rotates through CF.
pub struct Rcl;
impl Shift for Rcl {
    #[inline(always)]
    fn apply<W: Word>(flags: LazyFlags, a: W, count: u32) -> (W, LazyFlags) {
        let n = count % (W::BITS + 1);
        let wide = u128::from(flags.cf()) << W::BITS | u128::from(a.zero_extend());
        let rotated = if n == 0 { wide } else { wide << n | wide >> (W::BITS + 1 - n) };
        let result = W::truncate(rotated as u64);
        let cf = rotated >> W::BITS & 1 != 0;
        (result, with_carry_overflow(flags, cf, top(result) != cf))
    }
}

/// RCR: rotates through CF.
pub struct Rcr;
impl Shift for Rcr {
    #[inline(always)]
    fn apply<W: Word>(flags: LazyFlags, a: W, count: u32) -> (W, LazyFlags) {
        let n = count % (W::BITS + 1);
        let wide = u128::from(flags.cf()) << W::BITS | u128::from(a.zero_extend());
        let rotated = if n == 0 { wide } else { wide >> n | wide << (W::BITS + 1 - n) };
        let result = W::truncate(rotated as u64);
        let cf = rotated >> W::BITS & 1 != 0;
        let of = top(result) != bit(result.zero_extend(), W::BITS - 2);
        (result, with_carry_overflow(flags, cf, of))
    }
}

type Outcome = Result<(), Stop>;

#[inline(always)]
const fn masked<W: Word>(count: u64) -> u32 {
    (count & if W::BITS == 64 { 63 } else { 31 }) as u32
}

#[inline(always)]
fn shift_register<S: Shift, W: Word, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
    count: u32,
) -> Outcome {
    if count == 0 {
        // The register is written all the same, which zero-extends a 32-bit one.
        let same = W::get(&p.cpu.gpr, op.reg);
        W::set(&mut p.cpu.gpr, op.reg, same);
        return Ok(());
    }
    let (result, flags) = S::apply(p.cpu.flags, W::get(&p.cpu.gpr, op.reg), count);
    p.cpu.flags = flags;
    W::set(&mut p.cpu.gpr, op.reg, result);
    Ok(())
}

#[inline(always)]
fn shift_memory<S: Shift, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>, count: u32) -> Outcome {
    let linear = op.linear(p, W::BYTES, true)?;
    let before = p.cpu.flags;
    let mut after = before;
    p.env.update::<W>(&mut p.cpu, op.segment, linear, false, |a| {
        if count == 0 {
            return Some(a);
        }
        let (result, flags) = S::apply(before, a, count);
        after = flags;
        Some(result)
    })?;
    p.cpu.flags = after;
    Ok(())
}

/// Register by immediate.
pub fn shift_ri<S: Shift, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    shift_register::<S, W, E>(p, op, masked::<W>(op.immediate))
}

/// Register by CL.
pub fn shift_rc<S: Shift, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let count = masked::<W>(p.cpu.gpr[RCX]);
    shift_register::<S, W, E>(p, op, count)
}

/// Memory by immediate.
pub fn shift_mi<S: Shift, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    shift_memory::<S, W, E>(p, op, masked::<W>(op.immediate))
}

/// Memory by CL.
pub fn shift_mc<S: Shift, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let count = masked::<W>(p.cpu.gpr[RCX]);
    shift_memory::<S, W, E>(p, op, count)
}

/// SHLD (`LEFT`) or SHRD of `a` by `count` (not zero), filled up from `b`. With 16-bit operands a count above 16, which
/// the manual leaves undefined, goes on into `a` again.
#[inline(always)]
fn double<const LEFT: bool, W: Word>(a: W, b: W, count: u32) -> (W, LazyFlags) {
    let (lo, hi) = (u128::from(a.zero_extend()), u128::from(b.zero_extend()));
    let (bits, old) = (W::BITS, a);
    // The operands side by side, and where `a` lies among them.
    let (wide, position) = match (bits, LEFT) {
        (64, true) => (lo << 64 | hi, 64),
        (64, false) => (hi << 64 | lo, 0),
        (_, true) => (lo << (2 * bits) | hi << bits | lo, 2 * bits),
        (_, false) => (lo << (2 * bits) | hi << bits | lo, 0),
    };
    let (result, carry) =
        if LEFT { (wide >> (position - count), position + bits - count) } else { (wide >> count, count - 1) };
    let cf = wide >> carry & 1 != 0;
    let result = result as u64;
    let result = W::truncate(result);
    (result, LazyFlags::from_parts(result, cf, top(result) != top(old), false))
}

#[inline(always)]
fn double_count<const BY_CL: bool, W: Word, E: Environment>(p: &Processor<E>, op: &Op<E>) -> u32 {
    masked::<W>(if BY_CL { p.cpu.gpr[RCX] } else { op.immediate })
}

/// SHLD and SHRD with a register destination.
pub fn double_r<const LEFT: bool, const BY_CL: bool, W: Word, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
) -> Outcome {
    let count = double_count::<BY_CL, W, E>(p, op);
    let a = W::get(&p.cpu.gpr, op.reg);
    let (result, flags) = match count {
        0 => (a, p.cpu.flags),
        _ => double::<LEFT, W>(a, W::get(&p.cpu.gpr, op.rm), count),
    };
    p.cpu.flags = flags;
    W::set(&mut p.cpu.gpr, op.reg, result);
    Ok(())
}

/// SHLD and SHRD with a memory destination; the source register is `op.rm`.
pub fn double_m<const LEFT: bool, const BY_CL: bool, W: Word, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
) -> Outcome {
    let linear = op.linear(p, W::BYTES, true)?;
    let count = double_count::<BY_CL, W, E>(p, op);
    let b = W::get(&p.cpu.gpr, op.rm);
    let mut after = p.cpu.flags;
    p.env.update::<W>(&mut p.cpu, op.segment, linear, false, |a| {
        if count == 0 {
            return Some(a);
        }
        let (result, flags) = double::<LEFT, W>(a, b, count);
        after = flags;
        Some(result)
    })?;
    p.cpu.flags = after;
    Ok(())
}
