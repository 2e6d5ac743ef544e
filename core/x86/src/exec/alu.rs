//! Two-operand arithmetic and logic, and their one-operand relatives (APM volume 3: ADD, ADC, SUB, SBB, CMP, AND, OR,
//! XOR, TEST, INC, DEC, NEG, NOT, XADD, CMPXCHG).

use crate::cpu::{LazyFlags, Word};
use crate::decode::{Op, OpFlags};
use crate::environment::{Environment, Processor};
use crate::exception::Stop;

/// An arithmetic or logical function of two operands.
pub trait Binary: 'static {
    /// Whether the result is written to the destination.
    const WRITES: bool = true;
    /// The result and the new flags.
    fn apply<W: Word>(flags: LazyFlags, a: W, b: W) -> (W, LazyFlags);
}

/// Bit `i` is the carry out of bit `i` of an addition that gave `sum`.
#[inline(always)]
const fn carries(a: u64, b: u64, sum: u64) -> u64 {
    a & b | (a | b) & !sum
}

/// Bit `i` is the borrow out of bit `i` of a subtraction that gave `difference`.
#[inline(always)]
const fn borrows(a: u64, b: u64, difference: u64) -> u64 {
    !a & b | (!a | b) & difference
}

#[inline(always)]
fn add<W: Word>(a: W, b: W, carry: u64) -> (W, LazyFlags) {
    let (a, b) = (a.zero_extend(), b.zero_extend());
    let sum = a.wrapping_add(b).wrapping_add(carry);
    let result = W::truncate(sum);
    (result, LazyFlags::arithmetic(result, carries(a, b, sum)))
}

#[inline(always)]
fn subtract<W: Word>(a: W, b: W, borrow: u64) -> (W, LazyFlags) {
    let (a, b) = (a.zero_extend(), b.zero_extend());
    let difference = a.wrapping_sub(b).wrapping_sub(borrow);
    let result = W::truncate(difference);
    (result, LazyFlags::arithmetic(result, borrows(a, b, difference)))
}

macro_rules! binary {
    ($(#[$doc:meta])* $name:ident, $writes:expr, |$flags:ident, $a:ident, $b:ident| $body:expr) => {
        $(#[$doc])*
        pub struct $name;
        impl Binary for $name {
            const WRITES: bool = $writes;
            #[inline(always)]
            fn apply<W: Word>($flags: LazyFlags, $a: W, $b: W) -> (W, LazyFlags) {
                $body
            }
        }
    };
}

#[inline(always)]
fn logic<W: Word>(value: u64) -> (W, LazyFlags) {
    let result = W::truncate(value);
    (result, LazyFlags::logic(result))
}

binary!(/// ADD.
    Add, true, |_flags, a, b| add(a, b, 0));
binary!(/// ADC.
    Adc, true, |flags, a, b| add(a, b, u64::from(flags.cf())));
binary!(/// SUB.
    Sub, true, |_flags, a, b| subtract(a, b, 0));
binary!(/// SBB.
    Sbb, true, |flags, a, b| subtract(a, b, u64::from(flags.cf())));
binary!(/// CMP.
    Cmp, false, |_flags, a, b| subtract(a, b, 0));
binary!(/// AND.
    And, true, |_flags, a, b| logic(a.zero_extend() & b.zero_extend()));
binary!(/// OR.
    Or, true, |_flags, a, b| logic(a.zero_extend() | b.zero_extend()));
binary!(/// XOR.
    Xor, true, |_flags, a, b| logic(a.zero_extend() ^ b.zero_extend()));
binary!(/// TEST.
    Test, false, |_flags, a, b| logic(a.zero_extend() & b.zero_extend()));

/// A function of one operand that is written back to it.
pub trait Unary: 'static {
    /// The result and the new flags.
    fn apply<W: Word>(flags: LazyFlags, a: W) -> (W, LazyFlags);
}

macro_rules! unary {
    ($(#[$doc:meta])* $name:ident, |$flags:ident, $a:ident| $body:expr) => {
        $(#[$doc])*
        pub struct $name;
        impl Unary for $name {
            #[inline(always)]
            fn apply<W: Word>($flags: LazyFlags, $a: W) -> (W, LazyFlags) {
                $body
            }
        }
    };
}

#[inline(always)]
fn keep_carry<W: Word>((result, mut flags): (W, LazyFlags), before: LazyFlags) -> (W, LazyFlags) {
    flags.set_cf(before.cf());
    (result, flags)
}

unary!(/// INC: as ADD 1, but CF stays.
    Inc, |flags, a| keep_carry(add(a, W::truncate(1), 0), flags));
unary!(/// DEC: as SUB 1, but CF stays.
    Dec, |flags, a| keep_carry(subtract(a, W::truncate(1), 0), flags));
unary!(/// NEG.
    Neg, |_flags, a| subtract(W::truncate(0), a, 0));
unary!(/// NOT: leaves the flags.
    Not, |flags, a| (W::truncate(!a.zero_extend()), flags));

type Outcome = Result<(), Stop>;

/// Register, register.
pub fn binary_rr<A: Binary, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let (a, b) = (W::get(&p.cpu.gpr, op.reg), W::get(&p.cpu.gpr, op.rm));
    let (result, flags) = A::apply(p.cpu.flags, a, b);
    p.cpu.flags = flags;
    if A::WRITES {
        W::set(&mut p.cpu.gpr, op.reg, result);
    }
    Ok(())
}

/// Register, immediate.
pub fn binary_ri<A: Binary, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let (a, b) = (W::get(&p.cpu.gpr, op.reg), W::truncate(op.immediate));
    let (result, flags) = A::apply(p.cpu.flags, a, b);
    p.cpu.flags = flags;
    if A::WRITES {
        W::set(&mut p.cpu.gpr, op.reg, result);
    }
    Ok(())
}

/// Register, memory.
pub fn binary_rm<A: Binary, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, W::BYTES, false)?;
    let b = p.env.load::<W>(&mut p.cpu, op.segment, linear)?;
    let (result, flags) = A::apply(p.cpu.flags, W::get(&p.cpu.gpr, op.reg), b);
    p.cpu.flags = flags;
    if A::WRITES {
        W::set(&mut p.cpu.gpr, op.reg, result);
    }
    Ok(())
}

#[inline(always)]
fn binary_memory<A: Binary, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>, b: W) -> Outcome {
    let linear = op.linear(p, W::BYTES, A::WRITES)?;
    let before = p.cpu.flags;
    let mut after = before;
    if A::WRITES {
        let locked = op.flags.contains(OpFlags::LOCK);
        p.env.update::<W>(&mut p.cpu, op.segment, linear, locked, |a| {
            let (result, flags) = A::apply(before, a, b);
            after = flags;
            Some(result)
        })?;
    } else {
        let a = p.env.load::<W>(&mut p.cpu, op.segment, linear)?;
        after = A::apply(before, a, b).1;
    }
    p.cpu.flags = after;
    Ok(())
}

/// Memory, register.
pub fn binary_mr<A: Binary, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let b = W::get(&p.cpu.gpr, op.reg);
    binary_memory::<A, W, E>(p, op, b)
}

/// Memory, immediate.
pub fn binary_mi<A: Binary, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    binary_memory::<A, W, E>(p, op, W::truncate(op.immediate))
}

/// One register.
pub fn unary_r<A: Unary, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let (result, flags) = A::apply(p.cpu.flags, W::get(&p.cpu.gpr, op.reg));
    p.cpu.flags = flags;
    W::set(&mut p.cpu.gpr, op.reg, result);
    Ok(())
}

/// One memory operand.
pub fn unary_m<A: Unary, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, W::BYTES, true)?;
    let before = p.cpu.flags;
    let mut after = before;
    let locked = op.flags.contains(OpFlags::LOCK);
    p.env.update::<W>(&mut p.cpu, op.segment, linear, locked, |a| {
        let (result, flags) = A::apply(before, a);
        after = flags;
        Some(result)
    })?;
    p.cpu.flags = after;
    Ok(())
}

/// XADD register, register.
pub fn xadd_rr<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let (a, b) = (W::get(&p.cpu.gpr, op.reg), W::get(&p.cpu.gpr, op.rm));
    let (sum, flags) = add(a, b, 0);
    p.cpu.flags = flags;
    W::set(&mut p.cpu.gpr, op.rm, a);
    W::set(&mut p.cpu.gpr, op.reg, sum);
    Ok(())
}

/// XADD memory, register.
pub fn xadd_mr<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, W::BYTES, true)?;
    let b = W::get(&p.cpu.gpr, op.reg);
    let locked = op.flags.contains(OpFlags::LOCK);
    let a = p.env.update::<W>(&mut p.cpu, op.segment, linear, locked, |a| Some(add(a, b, 0).0))?;
    p.cpu.flags = add(a, b, 0).1;
    W::set(&mut p.cpu.gpr, op.reg, a);
    Ok(())
}

/// CMPXCHG register, register.
pub fn cmpxchg_rr<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let (destination, expected) = (W::get(&p.cpu.gpr, op.reg), W::get(&p.cpu.gpr, 0));
    p.cpu.flags = subtract(expected, destination, 0).1;
    if destination == expected {
        let source = W::get(&p.cpu.gpr, op.rm);
        W::set(&mut p.cpu.gpr, op.reg, source);
    } else {
        W::set(&mut p.cpu.gpr, 0, destination);
    }
    Ok(())
}

/// CMPXCHG memory, register.
pub fn cmpxchg_mr<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, W::BYTES, true)?;
    let (source, expected) = (W::get(&p.cpu.gpr, op.reg), W::get(&p.cpu.gpr, 0));
    let locked = op.flags.contains(OpFlags::LOCK);
    let old = p
        .env
        .update::<W>(&mut p.cpu, op.segment, linear, locked, |old| (old == expected).then_some(source))?;
    p.cpu.flags = subtract(expected, old, 0).1;
    if old != expected {
        W::set(&mut p.cpu.gpr, 0, old);
    }
    Ok(())
}

/// CMPXCHG8B.
pub fn cmpxchg8b<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, 8, true)?;
    let pair =
        |high: usize, low: usize, gpr: &crate::cpu::Registers| gpr[high] << 32 | gpr[low] & 0xffff_ffff;
    let (expected, new) = (pair(2, 0, &p.cpu.gpr), pair(1, 3, &p.cpu.gpr));
    let locked = op.flags.contains(OpFlags::LOCK);
    let old = p
        .env
        .update::<u64>(&mut p.cpu, op.segment, linear, locked, |old| (old == expected).then_some(new))?;
    p.cpu.flags.set_zf(old == expected);
    if old != expected {
        p.cpu.gpr[0] = old & 0xffff_ffff;
        p.cpu.gpr[2] = old >> 32;
    }
    Ok(())
}

/// CMPXCHG16B.
pub fn cmpxchg16b<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, 16, true)?;
    if !linear.is_multiple_of(16) {
        return Err(p.cpu.general_protection());
    }
    let pair = |high: usize, low: usize, gpr: &crate::cpu::Registers| {
        u128::from(gpr[high]) << 64 | u128::from(gpr[low])
    };
    let (expected, new) = (pair(2, 0, &p.cpu.gpr), pair(1, 3, &p.cpu.gpr));
    let old =
        p.env.update_16_bytes(&mut p.cpu, op.segment, linear, |old| (old == expected).then_some(new))?;
    p.cpu.flags.set_zf(old == expected);
    if old != expected {
        p.cpu.gpr[0] = old as u64;
        p.cpu.gpr[2] = (old >> 64) as u64;
    }
    Ok(())
}
