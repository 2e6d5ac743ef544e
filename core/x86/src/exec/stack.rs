//! The stack: PUSH, POP, PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE (APM volume 3).

use crate::cpu::word::{RBP, RSP};
use crate::cpu::{Cpu, Word};
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::Stop;
use crate::state::{Rflags, SegmentRegister};

type Outcome = Result<(), Stop>;
const SS: SegmentRegister = SegmentRegister::Ss;

impl Cpu {
    /// Writes a register through an address-size mask: 32 bits zero-extend, 16 bits keep the rest.
    #[inline(always)]
    pub fn set_masked(&mut self, slot: usize, value: u64, mask: u64) {
        let kept = if mask == 0xffff { !mask } else { 0 };
        self.gpr[slot] = self.gpr[slot] & kept | value & mask;
    }

    /// Moves the stack pointer up by `bytes`.
    #[inline(always)]
    pub fn release_stack(&mut self, bytes: u64) {
        let value = self.gpr[RSP].wrapping_add(bytes);
        self.set_masked(RSP, value, self.stack_mask());
    }
}

/// Pushes one value.
///
/// # Errors
/// The stack segment or its page refuses; RSP is unchanged then.
#[inline(always)]
pub fn push<W: Word, E: Environment>(p: &mut Processor<E>, value: W) -> Outcome {
    let mask = p.cpu.stack_mask();
    let rsp = p.cpu.gpr[RSP].wrapping_sub(u64::from(W::BYTES)) & mask;
    let linear = p.cpu.linear(SS, rsp, u64::from(W::BYTES), true)?;
    p.env.store::<W>(&mut p.cpu, SS, linear, value)?;
    p.cpu.set_masked(RSP, rsp, mask);
    Ok(())
}

/// The value `depth` bytes above the stack pointer, without popping it.
///
/// # Errors
/// The stack segment or its page refuses.
#[inline(always)]
pub fn peek<W: Word, E: Environment>(p: &mut Processor<E>, depth: u64) -> Result<W, Stop> {
    let rsp = p.cpu.gpr[RSP].wrapping_add(depth) & p.cpu.stack_mask();
    let linear = p.cpu.linear(SS, rsp, u64::from(W::BYTES), false)?;
    p.env.load::<W>(&mut p.cpu, SS, linear)
}

/// Pops one value.
///
/// # Errors
/// The stack segment or its page refuses; RSP is unchanged then.
#[inline(always)]
pub fn pop<W: Word, E: Environment>(p: &mut Processor<E>) -> Result<W, Stop> {
    let value = peek::<W, E>(p, 0)?;
    p.cpu.release_stack(u64::from(W::BYTES));
    Ok(value)
}

/// PUSH register.
pub fn push_r<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let value = W::get(&p.cpu.gpr, op.reg);
    push::<W, E>(p, value)
}

/// PUSH immediate.
pub fn push_i<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    push::<W, E>(p, W::truncate(op.immediate))
}

/// PUSH memory.
pub fn push_m<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, W::BYTES, false)?;
    let value = p.env.load::<W>(&mut p.cpu, op.segment, linear)?;
    push::<W, E>(p, value)
}

/// PUSH of segment register `op.reg`. A 32-bit push writes 16 bits only, as processors do.
pub fn push_segment<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let selector = p.cpu.segments[usize::from(op.reg % 6)].selector;
    if W::BYTES != 4 {
        return push::<W, E>(p, W::truncate(u64::from(selector)));
    }
    let mask = p.cpu.stack_mask();
    let rsp = p.cpu.gpr[RSP].wrapping_sub(4) & mask;
    let linear = p.cpu.linear(SS, rsp, 2, true)?;
    p.env.store::<u16>(&mut p.cpu, SS, linear, selector)?;
    p.cpu.set_masked(RSP, rsp, mask);
    Ok(())
}

/// POP register.
pub fn pop_r<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let value = pop::<W, E>(p)?;
    W::set(&mut p.cpu.gpr, op.reg, value);
    Ok(())
}

/// POP memory: the address is computed with the stack pointer as it is after the pop.
pub fn pop_m<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let rsp = p.cpu.gpr[RSP];
    let value = pop::<W, E>(p)?;
    let stored = op
        .linear(p, W::BYTES, true)
        .and_then(|linear| p.env.store::<W>(&mut p.cpu, op.segment, linear, value));
    if stored.is_err() {
        p.cpu.gpr[RSP] = rsp;
    }
    stored
}

/// PUSHA, PUSHAD.
pub fn pusha<W: Word, E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    let rsp = p.cpu.gpr[RSP];
    // Writing the lowest slot first makes a fault leave the stack pointer and everything above it alone.
    for slot in (0..8u8).rev() {
        let value = W::get(&p.cpu.gpr, slot);
        let depth = u64::from(slot + 1) * u64::from(W::BYTES);
        let address = rsp.wrapping_sub(depth) & p.cpu.stack_mask();
        let linear = p.cpu.linear(SS, address, u64::from(W::BYTES), true)?;
        p.env.store::<W>(&mut p.cpu, SS, linear, value)?;
    }
    p.cpu.release_stack(0u64.wrapping_sub(8 * u64::from(W::BYTES)));
    Ok(())
}

/// POPA, POPAD: the stack pointer's slot is skipped.
pub fn popa<W: Word, E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    let mut values = [W::truncate(0); 8];
    for (slot, value) in values.iter_mut().enumerate() {
        *value = peek::<W, E>(p, (7 - slot as u64) * u64::from(W::BYTES))?;
    }
    for (slot, value) in (0u8..).zip(values) {
        if usize::from(slot) != RSP {
            W::set(&mut p.cpu.gpr, slot, value);
        }
    }
    p.cpu.release_stack(8 * u64::from(W::BYTES));
    Ok(())
}

/// PUSHF, PUSHFD, PUSHFQ.
pub fn pushf<W: Word, E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    if p.cpu.virtual_8086() && p.cpu.rflags().iopl() < 3 {
        return Err(p.cpu.general_protection());
    }
    let flags = p.cpu.rflags() & !(Rflags::RF | Rflags::VM);
    push::<W, E>(p, W::truncate(flags.bits()))
}

/// POPF, POPFD, POPFQ.
pub fn popf<W: Word, E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    let old = p.cpu.rflags();
    if p.cpu.virtual_8086() && old.iopl() < 3 {
        return Err(p.cpu.general_protection());
    }
    let popped = Rflags::from_bits_truncate(pop::<W, E>(p)?.zero_extend());
    let mut changeable = Rflags::STATUS | Rflags::TF | Rflags::DF | Rflags::NT;
    if W::BYTES > 2 {
        changeable |= Rflags::AC | Rflags::ID | Rflags::RF;
    }
    if p.cpu.cpl <= old.iopl() {
        changeable |= Rflags::IF;
    }
    if p.cpu.cpl == 0 {
        changeable |= Rflags::IOPL;
    }
    let new = old & !changeable | popped & changeable & !Rflags::RF;
    p.cpu.set_rflags(new);
    if (old ^ new).contains(Rflags::AC) {
        p.env.forget(&p.cpu, crate::environment::Stale::Privilege);
    }
    Ok(())
}

/// LEAVE.
pub fn leave<W: Word, E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    let mask = p.cpu.stack_mask();
    let frame = p.cpu.gpr[RBP] & mask;
    let linear = p.cpu.linear(SS, frame, u64::from(W::BYTES), false)?;
    let value = p.env.load::<W>(&mut p.cpu, SS, linear)?;
    p.cpu.set_masked(RSP, frame.wrapping_add(u64::from(W::BYTES)), mask);
    W::set(&mut p.cpu.gpr, RBP as u8, value);
    Ok(())
}

/// ENTER: frame size in the low 16 bits of the immediate, nesting level above.
pub fn enter<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let size = op.immediate & 0xffff;
    let level = op.immediate >> 16 & 31;
    let (rsp, bytes) = (p.cpu.gpr[RSP], u64::from(W::BYTES));
    let entered = (|| {
        let mask = p.cpu.stack_mask();
        let rbp = W::get(&p.cpu.gpr, RBP as u8);
        push::<W, E>(p, rbp)?;
        let frame = p.cpu.gpr[RSP];
        for n in 1..level {
            let address = p.cpu.gpr[RBP].wrapping_sub(n * bytes) & mask;
            let linear = p.cpu.linear(SS, address, bytes, false)?;
            let pointer = p.env.load::<W>(&mut p.cpu, SS, linear)?;
            push::<W, E>(p, pointer)?;
        }
        if level > 0 {
            push::<W, E>(p, W::truncate(frame))?;
        }
        p.cpu.release_stack(0u64.wrapping_sub(size));
        // The manual requires that the new top of the stack be writable.
        let top = p.cpu.gpr[RSP] & mask;
        let linear = p.cpu.linear(SS, top, bytes, true)?;
        p.env.update::<W>(&mut p.cpu, SS, linear, false, |_| None)?;
        W::set(&mut p.cpu.gpr, RBP as u8, W::truncate(frame));
        Ok(())
    })();
    if entered.is_err() {
        p.cpu.gpr[RSP] = rsp;
    }
    entered
}
