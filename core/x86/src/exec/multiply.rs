//! MUL, IMUL, DIV, IDIV (APM volume 3). SF, ZF, AF and PF, undefined after a multiplication, follow its low half.

use crate::cpu::word::{HIGH_BYTE, RAX, RDX};
use crate::cpu::{LazyFlags, Word};
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::{Exception, Stop};

type Outcome = Result<(), Stop>;

/// Where the upper half of a product or dividend lives: AH for bytes, rDX for the others.
#[inline(always)]
const fn upper<W: Word>() -> u8 {
    if W::BYTES == 1 { HIGH_BYTE | RAX as u8 } else { RDX as u8 }
}

#[inline(always)]
fn signed<W: Word>(value: W) -> i128 {
    i128::from(value.sign_extend() as i64)
}

#[inline(always)]
fn unsigned<W: Word>(value: W) -> u128 {
    u128::from(value.zero_extend())
}

#[inline(always)]
fn operand_m<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<W, Stop> {
    let linear = op.linear(p, W::BYTES, false)?;
    p.env.load::<W>(&mut p.cpu, op.segment, linear)
}

#[inline(always)]
fn store_product<W: Word, E: Environment>(p: &mut Processor<E>, product: u128, overflow: bool) {
    let low = W::truncate(product as u64);
    W::set(&mut p.cpu.gpr, upper::<W>(), W::truncate((product >> W::BITS) as u64));
    W::set(&mut p.cpu.gpr, RAX as u8, low);
    p.cpu.flags = LazyFlags::from_parts(low, overflow, overflow, false);
}

#[inline(always)]
fn multiply_wide<const SIGNED: bool, W: Word, E: Environment>(p: &mut Processor<E>, b: W) {
    let a = W::get(&p.cpu.gpr, RAX as u8);
    if SIGNED {
        let product = signed(a) * signed(b);
        let low = W::truncate(product as u64);
        store_product::<W, E>(p, product as u128, signed(low) != product);
    } else {
        let product = unsigned(a) * unsigned(b);
        store_product::<W, E>(p, product, product >> W::BITS != 0);
    }
}

/// MUL or one-operand IMUL by a register.
pub fn multiply_r<const SIGNED: bool, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let b = W::get(&p.cpu.gpr, op.reg);
    multiply_wide::<SIGNED, W, E>(p, b);
    Ok(())
}

/// MUL or one-operand IMUL by memory.
pub fn multiply_m<const SIGNED: bool, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let b = operand_m::<W, E>(p, op)?;
    multiply_wide::<SIGNED, W, E>(p, b);
    Ok(())
}

#[inline(always)]
fn multiply_narrow<W: Word, E: Environment>(p: &mut Processor<E>, reg: u8, a: W, b: W) {
    let product = signed(a) * signed(b);
    let low = W::truncate(product as u64);
    let overflow = signed(low) != product;
    W::set(&mut p.cpu.gpr, reg, low);
    p.cpu.flags = LazyFlags::from_parts(low, overflow, overflow, false);
}

/// IMUL register, register.
pub fn imul_rr<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let (a, b) = (W::get(&p.cpu.gpr, op.reg), W::get(&p.cpu.gpr, op.rm));
    multiply_narrow(p, op.reg, a, b);
    Ok(())
}

/// IMUL register, memory.
pub fn imul_rm<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let b = operand_m::<W, E>(p, op)?;
    let a = W::get(&p.cpu.gpr, op.reg);
    multiply_narrow(p, op.reg, a, b);
    Ok(())
}

/// IMUL register, register, immediate.
pub fn imul_rri<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let a = W::get(&p.cpu.gpr, op.rm);
    multiply_narrow(p, op.reg, a, W::truncate(op.immediate));
    Ok(())
}

/// IMUL register, memory, immediate.
pub fn imul_rmi<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let a = operand_m::<W, E>(p, op)?;
    multiply_narrow(p, op.reg, a, W::truncate(op.immediate));
    Ok(())
}

#[inline(always)]
fn divide<const SIGNED: bool, W: Word, E: Environment>(p: &mut Processor<E>, divisor: W) -> Outcome {
    let high = W::get(&p.cpu.gpr, upper::<W>());
    let low = W::get(&p.cpu.gpr, RAX as u8);
    let error = Exception::DIVIDE_ERROR;
    if divisor.zero_extend() == 0 {
        return Err(p.cpu.raise(error));
    }
    let (quotient, remainder) = if SIGNED {
        let dividend = signed(high) << W::BITS | unsigned(low) as i128;
        let divisor = signed(divisor);
        // Only the most negative 128-bit dividend by -1 wraps, and its quotient does not fit anyway.
        let quotient = dividend.wrapping_div(divisor);
        if signed(W::truncate(quotient as u64)) != quotient {
            return Err(p.cpu.raise(error));
        }
        (quotient as u64, dividend.wrapping_rem(divisor) as u64)
    } else if high.zero_extend() == 0 {
        let (dividend, divisor) = (low.zero_extend(), divisor.zero_extend());
        (dividend / divisor, dividend % divisor)
    } else {
        let dividend = unsigned(high) << W::BITS | unsigned(low);
        let divisor = unsigned(divisor);
        if high.zero_extend() as u128 >= divisor {
            return Err(p.cpu.raise(error));
        }
        ((dividend / divisor) as u64, (dividend % divisor) as u64)
    };
    W::set(&mut p.cpu.gpr, RAX as u8, W::truncate(quotient));
    W::set(&mut p.cpu.gpr, upper::<W>(), W::truncate(remainder));
    Ok(())
}

/// DIV or IDIV by a register.
pub fn divide_r<const SIGNED: bool, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let divisor = W::get(&p.cpu.gpr, op.reg);
    divide::<SIGNED, W, E>(p, divisor)
}

/// DIV or IDIV by memory.
pub fn divide_m<const SIGNED: bool, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let divisor = operand_m::<W, E>(p, op)?;
    divide::<SIGNED, W, E>(p, divisor)
}
