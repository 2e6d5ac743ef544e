//! A stack in use by a transfer: the present one, or the one of another privilege level before it is switched to.

use crate::cpu::word::RSP;
use crate::cpu::{Cpu, canonical};
use crate::environment::{Environment, Processor};
use crate::exception::{Exception, Stop};
use crate::state::{Attributes, Segment, SegmentRegister};

/// A stack whose pointer moves on its own until [`Stack::commit`].
#[derive(Debug, Clone, Copy)]
pub(super) struct Stack {
    segment: Segment,
    pointer: u64,
    mask: u64,
    /// 64-bit code runs on it: neither base nor limit.
    long: bool,
    /// It belongs to a more privileged level than the current one.
    inner: bool,
    /// What an access outside of it raises.
    fault: Exception,
}

/// The mask of the stack pointer for a stack segment under 64-bit or other code.
const fn pointer_mask(segment: &Segment, long: bool) -> u64 {
    if long {
        u64::MAX
    } else if segment.attributes.contains(Attributes::DEFAULT_BIG) {
        0xffff_ffff
    } else {
        0xffff
    }
}

impl Stack {
    /// The present stack.
    pub(super) fn current(cpu: &Cpu) -> Self {
        let segment = *cpu.segment(SegmentRegister::Ss);
        let long = cpu.code64();
        let mask = cpu.stack_mask();
        Self { segment, pointer: cpu.gpr[RSP], mask, long, inner: false, fault: Exception::stack(0) }
    }

    /// The stack of another level, or the present one seen by 64-bit code. `inner` says that it is more privileged.
    pub(super) const fn other(
        segment: Segment,
        pointer: u64,
        long: bool,
        inner: bool,
        fault: Exception,
    ) -> Self {
        Self { segment, pointer, mask: pointer_mask(&segment, long), long, inner, fault }
    }

    /// The same stack with another exception for accesses outside of it.
    pub(super) const fn with_fault(self, fault: Exception) -> Self {
        Self { fault, ..self }
    }

    fn linear<E: Environment>(&self, p: &mut Processor<E>, offset: u64, size: u64) -> Result<u64, Stop> {
        if self.long {
            if !canonical(offset) || !canonical(offset.wrapping_add(size - 1)) {
                return Err(p.cpu.raise(self.fault));
            }
            return Ok(offset);
        }
        let (a, limit) = (self.segment.attributes, u64::from(self.segment.limit));
        let last = offset + (size - 1);
        let inside = if !a.contains(Attributes::CODE) && a.contains(Attributes::EXPAND_DOWN_OR_CONFORMING) {
            let top = if a.contains(Attributes::DEFAULT_BIG) { 0xffff_ffff } else { 0xffff };
            offset > limit && last <= top
        } else {
            last <= limit
        };
        if inside {
            Ok(self.segment.base.wrapping_add(offset) & 0xffff_ffff)
        } else {
            Err(p.cpu.raise(self.fault))
        }
    }

    /// Pushes the low `size` (2, 4 or 8) bytes of `value`.
    ///
    /// # Errors
    /// The stack's fault, #PF. Bytes below the old stack pointer may have been written.
    pub(super) fn push<E: Environment>(
        &mut self,
        p: &mut Processor<E>,
        size: u8,
        value: u64,
    ) -> Result<(), Stop> {
        let pointer = self.pointer.wrapping_sub(u64::from(size)) & self.mask;
        let linear = self.linear(p, pointer, u64::from(size))?;
        let Processor { cpu, env } = p;
        // Truncation to the operand size is the meaning of a push.
        match (self.inner, size) {
            (false, 2) => env.store(cpu, SegmentRegister::Ss, linear, value as u16)?,
            (false, 4) => env.store(cpu, SegmentRegister::Ss, linear, value as u32)?,
            (false, _) => env.store(cpu, SegmentRegister::Ss, linear, value)?,
            (true, 2) => env.store_system(cpu, linear, value as u16)?,
            (true, 4) => env.store_system(cpu, linear, value as u32)?,
            (true, _) => env.store_system(cpu, linear, value)?,
        }
        self.pointer = pointer;
        Ok(())
    }

    /// Pops `size` (2, 4 or 8) bytes, zero-extended.
    ///
    /// # Errors
    /// The stack's fault, #PF.
    pub(super) fn pop<E: Environment>(&mut self, p: &mut Processor<E>, size: u8) -> Result<u64, Stop> {
        let pointer = self.pointer & self.mask;
        let linear = self.linear(p, pointer, u64::from(size))?;
        let Processor { cpu, env } = p;
        let value = match size {
            2 => u64::from(env.load::<u16>(cpu, SegmentRegister::Ss, linear)?),
            4 => u64::from(env.load::<u32>(cpu, SegmentRegister::Ss, linear)?),
            _ => env.load::<u64>(cpu, SegmentRegister::Ss, linear)?,
        };
        self.skip(u64::from(size));
        Ok(value)
    }

    /// Drops bytes without reading them.
    pub(super) const fn skip(&mut self, bytes: u64) {
        self.pointer = self.pointer.wrapping_add(bytes);
    }

    /// Makes the moved pointer the stack pointer. SS is the caller's business.
    pub(super) fn commit(&self, cpu: &mut Cpu) {
        set_stack_pointer(cpu, self.pointer, self.mask);
    }
}

/// Writes the part of RSP that a stack of the given mask has; 32-bit stacks clear the upper half.
fn set_stack_pointer(cpu: &mut Cpu, pointer: u64, mask: u64) {
    let kept = if mask == 0xffff { cpu.gpr[RSP] & !mask } else { 0 };
    cpu.gpr[RSP] = kept | pointer & mask;
}

/// Writes the stack pointer after a return to code with the given stack segment.
pub(super) fn switch_stack(cpu: &mut Cpu, segment: Segment, pointer: u64, long: bool) {
    set_stack_pointer(cpu, pointer, pointer_mask(&segment, long));
    cpu.segments[SegmentRegister::Ss as usize] = segment;
}
