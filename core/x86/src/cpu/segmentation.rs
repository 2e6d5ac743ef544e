//! Segmentation: effective to linear addresses, and what follows from the loaded segments (APM volume 2, chapter 4).

use super::{Cpu, Mode};
use crate::cpuid::InstructionSets;
use crate::exception::{Exception, Stop};
use crate::state::{Attributes, Segment, SegmentRegister};

/// Whether a 64-bit address is canonical for 48-bit linear addresses.
#[must_use]
pub const fn canonical(address: u64) -> bool {
    ((address << 16) as i64 >> 16) as u64 == address
}

impl Cpu {
    /// Recomputes [`Cpu::mode`] and [`Cpu::address_base`]. To be called after every change of CS, another segment, EFER,
    /// CR0.PE or RFLAGS.VM.
    pub fn derive_mode(&mut self) {
        let cs = self.segment(SegmentRegister::Cs).attributes;
        let long = self.long_mode() && cs.contains(Attributes::LONG);
        let mut mode = Mode::empty();
        if long {
            mode |= Mode::LONG;
        } else {
            mode.set(Mode::CODE32, cs.contains(Attributes::DEFAULT_BIG));
            let ss = self.segment(SegmentRegister::Ss).attributes;
            mode.set(Mode::STACK32, ss.contains(Attributes::DEFAULT_BIG));
            mode.set(Mode::FLAT, self.protected() && self.flat());
        }
        mode.set(Mode::TZCNT, self.instruction_sets.contains(InstructionSets::BMI1));
        mode.set(Mode::LZCNT, self.instruction_sets.contains(InstructionSets::LZCNT));
        self.mode = mode;
        for (base, segment) in self.address_base.iter_mut().zip(&self.segments) {
            *base = segment.base;
        }
        if long {
            self.address_base[..4].fill(0);
        }
    }

    fn flat(&self) -> bool {
        use SegmentRegister::{Cs, Ds, Es, Ss};
        [Es, Cs, Ss, Ds].into_iter().all(|register| {
            let Segment { attributes: a, limit, base, .. } = *self.segment(register);
            let writable = a.contains(Attributes::WRITABLE_OR_READABLE)
                && (register == Cs || !a.contains(Attributes::CODE))
                && (a.contains(Attributes::CODE) || !a.contains(Attributes::EXPAND_DOWN_OR_CONFORMING));
            base == 0 && limit == u32::MAX && a.contains(Attributes::PRESENT) && writable
        })
    }

    /// The linear address of `size` bytes at `offset` in a segment, outside 64-bit code: checks presence, type and limit.
    ///
    /// # Errors
    /// #SS(0) for the stack segment, #GP(0) for the others.
    pub fn legacy_linear(
        &mut self,
        register: SegmentRegister,
        offset: u64,
        size: u64,
        write: bool,
    ) -> Result<u64, Stop> {
        let segment = self.segment(register);
        let a = segment.attributes;
        let protected = self.protected();
        let code = a.contains(Attributes::CODE);
        let forbidden = protected
            && (!a.contains(Attributes::PRESENT)
                || if write {
                    code || !a.contains(Attributes::WRITABLE_OR_READABLE)
                } else {
                    code && !a.contains(Attributes::WRITABLE_OR_READABLE)
                });
        let last = offset.wrapping_add(size - 1);
        let limit = u64::from(segment.limit);
        let outside = if !code && a.contains(Attributes::EXPAND_DOWN_OR_CONFORMING) {
            let top = if a.contains(Attributes::DEFAULT_BIG) { 0xffff_ffff } else { 0xffff };
            offset <= limit || last > top
        } else {
            last > limit
        };
        let base = segment.base;
        if forbidden || outside {
            return Err(self.raise(match register {
                SegmentRegister::Ss => Exception::stack(0),
                _ => Exception::general_protection(0),
            }));
        }
        Ok(base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// The linear address of `size` bytes at `offset` in a segment, in any mode. In 64-bit code the address is not
    /// checked here: the translation refuses what is not canonical.
    ///
    /// # Errors
    /// As [`Cpu::legacy_linear`].
    #[inline]
    pub fn linear(
        &mut self,
        register: SegmentRegister,
        offset: u64,
        size: u64,
        write: bool,
    ) -> Result<u64, Stop> {
        if self.code64() {
            Ok(self.address_base[register as usize].wrapping_add(offset))
        } else {
            self.legacy_linear(register, offset, size, write)
        }
    }

    /// Whether `size` bytes from the instruction pointer on lie within CS. 64-bit code and flat segments have no limit.
    #[must_use]
    #[inline(always)]
    pub fn code_is_within_limit(&self, size: u64) -> bool {
        let limit = self.segments[SegmentRegister::Cs as usize].limit;
        self.mode.intersects(Mode::LONG.union(Mode::FLAT))
            || self.rip.saturating_add(size) <= u64::from(limit) + 1
    }

    /// The linear address of the next instruction.
    #[must_use]
    #[inline(always)]
    pub fn linear_rip(&self) -> u64 {
        if self.code64() {
            self.rip
        } else {
            self.segments[SegmentRegister::Cs as usize].base.wrapping_add(self.rip) & 0xffff_ffff
        }
    }

    /// Records an exception and gives the error that stands for it.
    #[cold]
    pub fn raise(&mut self, exception: Exception) -> Stop {
        self.exception = exception;
        Stop::Exception
    }

    /// Records #GP(0).
    #[cold]
    pub fn general_protection(&mut self) -> Stop {
        self.raise(Exception::general_protection(0))
    }

    /// Records #UD.
    #[cold]
    pub fn undefined_opcode(&mut self) -> Stop {
        self.raise(Exception::UNDEFINED_OPCODE)
    }
}
