//! Near branches (APM volume 3: Jcc, JMP, CALL, RET, LOOP, JCXZ). Far ones are in [`super::transfer`].
//!
//! `op.displacement` is the target relative to the block's start, `op.immediate` the mask of the new instruction
//! pointer (its operand size).

use super::alu::Binary;
use super::condition::holds;
use super::stack::{pop, push};
use crate::cpu::word::{BLOCK, RCX, RSP};
use crate::cpu::{Mode, Word, canonical};
use crate::decode::{Op, OpFlags};
use crate::environment::{Environment, Processor};
use crate::exception::Stop;
use crate::state::SegmentRegister;

type Outcome = Result<(), Stop>;

/// Checks that code can be fetched at `rip`: canonical in 64-bit code, within CS elsewhere.
pub(super) fn check_target<E: Environment>(p: &mut Processor<E>, rip: u64) -> Outcome {
    let ok = if p.cpu.mode.contains(Mode::LONG) {
        canonical(rip)
    } else {
        rip <= u64::from(p.cpu.segments[SegmentRegister::Cs as usize].limit)
    };
    if ok { Ok(()) } else { Err(p.cpu.general_protection()) }
}

/// Where a relative branch leads, checked: a target that is none is a fault of the branch.
#[inline(always)]
fn relative_target<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<u64, Stop> {
    let target = p.cpu.gpr[BLOCK].wrapping_add(op.displacement);
    if !op.flags.contains(OpFlags::PLAIN) {
        let target = target & op.immediate;
        check_target(p, target)?;
        return Ok(target);
    }
    if canonical(target) { Ok(target) } else { Err(p.cpu.general_protection()) }
}

#[inline(always)]
fn jump_relative<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    p.cpu.rip = relative_target(p, op)?;
    Ok(())
}

#[inline(always)]
fn branch<E: Environment>(p: &mut Processor<E>, op: &Op<E>, taken: bool) -> Outcome {
    if taken {
        jump_relative(p, op)
    } else {
        let next = op.next_rip(&p.cpu);
        p.cpu.rip = if op.flags.contains(OpFlags::PLAIN) { next } else { next & p.cpu.rip_mask() };
        Ok(())
    }
}

/// Jcc.
pub fn jcc<const CODE: u8, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let taken = holds::<CODE>(p.cpu.flags);
    branch(p, op, taken)
}

/// CMP, TEST, ADD… of two registers and the Jcc behind it, as one operation.
pub fn fused_rr<A: Binary, const CODE: u8, W: Word, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
) -> Outcome {
    let (a, b) = (W::get(&p.cpu.gpr, op.reg), W::get(&p.cpu.gpr, op.rm));
    let (_, flags) = A::apply(p.cpu.flags, a, b);
    p.cpu.flags = flags;
    branch(p, op, holds::<CODE>(flags))
}

/// CMP or TEST of a register with an immediate and the Jcc behind it, as one operation. The immediate is in `op.extra`,
/// to be sign-extended.
pub fn fused_ri<A: Binary, const CODE: u8, W: Word, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
) -> Outcome {
    let (a, b) = (W::get(&p.cpu.gpr, op.reg), W::truncate(op.extra as i32 as i64 as u64));
    let (_, flags) = A::apply(p.cpu.flags, a, b);
    p.cpu.flags = flags;
    branch(p, op, holds::<CODE>(flags))
}

/// JMP relative.
pub fn jmp<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    jump_relative(p, op)
}

/// JMP to a register's value.
pub fn jmp_r<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let target = W::get(&p.cpu.gpr, op.reg).zero_extend();
    check_target(p, target)?;
    p.cpu.rip = target;
    Ok(())
}

/// JMP to a value in memory.
pub fn jmp_m<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, W::BYTES, false)?;
    let target = p.env.load::<W>(&mut p.cpu, op.segment, linear)?.zero_extend();
    check_target(p, target)?;
    p.cpu.rip = target;
    Ok(())
}

/// CALL relative; `W` is the width of the return address.
pub fn call<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let target = relative_target(p, op)?;
    let next = op.next_rip(&p.cpu);
    push::<W, E>(p, W::truncate(next))?;
    p.cpu.rip = target;
    Ok(())
}

#[inline(always)]
fn call_to<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>, target: u64) -> Outcome {
    check_target(p, target)?;
    let next = op.next_rip(&p.cpu);
    push::<W, E>(p, W::truncate(next))?;
    p.cpu.rip = target;
    Ok(())
}

/// CALL to a register's value.
pub fn call_r<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let target = W::get(&p.cpu.gpr, op.reg).zero_extend();
    call_to::<W, E>(p, op, target)
}

/// CALL to a value in memory.
pub fn call_m<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, W::BYTES, false)?;
    let target = p.env.load::<W>(&mut p.cpu, op.segment, linear)?.zero_extend();
    call_to::<W, E>(p, op, target)
}

/// RET, releasing `op.immediate` further bytes of stack.
pub fn ret<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let rsp = p.cpu.gpr[RSP];
    let target = pop::<W, E>(p)?.zero_extend();
    if let Err(stop) = check_target(p, target) {
        p.cpu.gpr[RSP] = rsp;
        return Err(stop);
    }
    p.cpu.release_stack(op.immediate);
    p.cpu.rip = target;
    Ok(())
}

/// LOOP (`KIND` 2), LOOPE (1) and LOOPNE (0): the counter's width is the address size.
pub fn loop_counter<const KIND: u8, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let mask = op.address_mask();
    let count = p.cpu.gpr[RCX].wrapping_sub(1) & mask;
    let condition = match KIND {
        0 => !p.cpu.flags.zf(),
        1 => p.cpu.flags.zf(),
        _ => true,
    };
    branch(p, op, count != 0 && condition)?;
    p.cpu.set_masked(RCX, count, mask);
    Ok(())
}

/// JCXZ, JECXZ, JRCXZ.
pub fn jcxz<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let taken = p.cpu.gpr[RCX] & op.address_mask() == 0;
    branch(p, op, taken)
}
