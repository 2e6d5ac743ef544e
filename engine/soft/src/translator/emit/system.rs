//! System instructions that are executed all the time, and that only change the processor.
//!
//! Where they are not allowed, the interpreter raises what they raise there.

use std::mem::offset_of;

use iced_x86::Mnemonic;
use tern_engine::TickLine;

use super::cold::Cold;
use super::{Emitter, Guest, host};
use crate::tlb::View;
use crate::translator::assembler::*;
use crate::translator::fast_call::FastCall;
use crate::translator::flags::FlagSet;
use crate::translator::frame;

/// IF in the second byte of RFLAGS.
const INTERRUPTS: u8 = 1 << 1;
/// DF in the second byte of RFLAGS.
const DIRECTION: u8 = 1 << 2;
/// RFLAGS as PUSHF shows them: without RF and VM, which are bits 16 and 17.
const PUSHED: i32 = !(3 << 16);

impl Emitter<'_> {
    /// The interpreter executes the instruction unless the level is 0. Flags are lost.
    fn require_cpl0(&mut self, guest: &Guest) {
        let at = self.a.label();
        self.a.cmp_byte_zero(frame::CPL);
        self.a.jcc(NOT_EQUAL, at);
        self.cold.push(Cold::Interpret { at, offset: guest.offset(), count: self.count });
    }

    /// SWAPGS, CLI and CLD.
    pub fn system(&mut self, guest: &Guest) {
        self.spare_flags(guest.live_before());
        match guest.instruction.mnemonic() {
            Mnemonic::Swapgs => {
                self.require_cpl0(guest);
                self.a.load(R10, frame::GS_BASE);
                self.a.load(R11, frame::KERNEL_GS_BASE);
                self.a.store(frame::KERNEL_GS_BASE, R10);
                self.a.store(frame::GS_BASE, R11);
                self.a.store(frame::segment_base(tern_x86::state::SegmentRegister::Gs as usize), R11);
            }
            Mnemonic::Cli => {
                self.require_cpl0(guest);
                self.a.and_byte(frame::SYSTEM_FLAGS + 1, !INTERRUPTS);
            }
            _ => self.a.and_byte(frame::SYSTEM_FLAGS + 1, !DIRECTION),
        }
    }

    /// STI before an instruction that surely executes, or faults: `plain`. What waits for it, or has just come, is the run loop's.
    pub fn sti(&mut self, guest: &Guest, plain: bool) {
        self.spare_flags(FlagSet::all());
        if !plain || !self.target.linked {
            return self.transfer(guest);
        }
        let at = self.a.label();
        self.require_cpl0(guest);
        frame::jump_if_waiting(&mut self.a, at);
        self.cold.push(Cold::Interpret { at, offset: guest.offset(), count: self.count });
        self.a.or_byte(frame::SYSTEM_FLAGS + 1, INTERRUPTS);
        self.a.store_byte(frame::INTERRUPT_SHADOW, 1);
        self.in_shadow = true;
    }

    /// The instruction behind STI is done.
    pub fn end_shadow(&mut self) {
        self.a.store_byte(frame::INTERRUPT_SHADOW, 0);
        self.in_shadow = false;
    }

    /// RDTSC and RDTSCP. Where there is no line, or it holds no longer, the interpreter executes them, and finds the next one. There is
    /// none where they fault.
    pub fn time_stamp(&mut self, guest: &Guest) {
        if !self.target.linked {
            return self.operation(guest);
        }
        self.spare_flags(guest.live_before());
        let operation = self.add_operation(guest, false);
        let (at, back) = (self.a.label(), self.a.label());
        self.cold.push(Cold::Operation { at, back, operation });
        let line = frame::time_stamps;
        self.a.cmp_zero(line(offset_of!(TickLine, ticks)));
        self.a.jcc(EQUAL, at);
        let processor = guest.instruction.mnemonic() == Mnemonic::Rdtscp;
        if processor {
            // It waits for what is before it. Not every host has RDTSCP.
            self.a.lfence();
        }
        self.a.rdtsc();
        self.a.shl(RDX, 32);
        self.a.or(RAX, RDX);
        self.a.sub_frame(RAX, line(offset_of!(TickLine, begin)));
        self.a.cmp_frame(RAX, line(offset_of!(TickLine, ticks)));
        self.a.jcc(ABOVE_OR_EQUAL, at);
        self.a.multiply_frame(RAX, line(offset_of!(TickLine, multiplier)));
        self.a.shr(RAX, TickLine::FRACTION);
        self.a.add_frame(RAX, line(offset_of!(TickLine, shows)));
        self.a.mov(RDX, RAX);
        self.a.shr(RDX, 32);
        self.a.mov32(RAX, RAX);
        if processor {
            self.a.load32(RCX, frame::TSC_AUX);
        }
        self.a.place(back);
    }

    /// MOV of a segment register to a general one: a selector, and zeroes above it.
    pub fn read_segment(&mut self, guest: &Guest) {
        let number = guest.instruction.op0_register().full_register().number();
        let segment = guest.instruction.op1_register().number();
        let to = host(number).unwrap_or(R10);
        self.a.load_word(to, frame::selector(segment));
        if host(number).is_none() {
            self.a.store(frame::gpr(number), to);
        }
    }

    /// SYSCALL or SYSRET of 64-bit code, which lead to the other view of memory than the unit's.
    pub fn fast_call(&mut self, guest: &Guest, call: FastCall) {
        self.spare_flags(FlagSet::all());
        let from = match call {
            FastCall::Call => View::User,
            FastCall::Return => View::Supervisor,
        };
        if !self.target.linked || self.target.view != from {
            return self.transfer(guest);
        }
        let operation = self.add_operation(guest, true);
        self.a.sub_immediate32(frame::BUDGET, self.count);
        self.a.mov_immediate(R11, operation);
        self.a.mov_immediate(R10, guest.next_offset() as u64);
        self.a.jmp_out(self.stubs.fast_calls[call as usize]);
    }

    /// PUSHF of the code's own width.
    pub fn push_flags(&mut self, guest: &Guest) {
        self.spare_flags(FlagSet::all());
        let value = frame::PUSHED;
        self.a.load(R10, frame::SYSTEM_FLAGS);
        self.a.and_immediate(R10, PUSHED);
        frame::store_rflags(&mut self.a, value);
        let word = self.word();
        let moved = -(word as i32);
        let (memory, site) = self.stack(guest, R9, moved, true, FlagSet::empty());
        let free = super::stack::free_beside(memory);
        self.a.load(free, value);
        self.a.store_guest(memory, free, self.wide);
        self.pointer(R9, R9, moved);
        self.stored(guest, memory.after_moving(moved), site, word, FlagSet::empty());
    }
}
