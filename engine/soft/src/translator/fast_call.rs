//! SYSCALL and SYSRET from translated code to translated code, without the interpreter.
//!
//! Both change a few things of the processor, and what they do to them is known beforehand ([`FastCalls`]). Wherever anything
//! else must be looked at, the interpreter executes them ([`super::calls::transfer`]). Vectors and x87 registers stay where they
//! are.

use std::mem::offset_of;

use tern_x86::cpu::Cpu;
use tern_x86::cpu::word::{R11 as GUEST_R11, RCX as GUEST_RCX};
use tern_x86::exec::system::{syscall_segments, sysret_segments};
use tern_x86::state::{Efer, Rflags, Segment, SegmentRegister};

use super::assembler::*;
use super::calls::Otherwise;
use super::frame;
use crate::tlb::{REMEMBERED, View};

/// What SYSCALL and SYSRET do to the processor.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[repr(C)]
pub struct FastCalls {
    /// STAR, SFMASK and EFER, which the rest follows from.
    registers: [u64; 3],
    /// CS and SS behind SYSCALL and behind SYSRET to 64-bit code.
    segments: [[Segment; 2]; 2],
    /// Of RFLAGS without the arithmetic flags, what SYSCALL keeps.
    keeps: u64,
    /// The same of the arithmetic flags, as [`frame::RunState::flags`] has them.
    keeps_arithmetic: u64,
    /// They work as here.
    ready: bool,
}

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FastCall {
    /// SYSCALL.
    Call = 0,
    /// SYSRET to 64-bit code.
    Return = 1,
}

impl FastCalls {
    /// Adapts to the processor's registers.
    #[inline]
    pub fn update(&mut self, cpu: &Cpu) {
        let registers = [cpu.msrs.star, cpu.msrs.sfmask, cpu.efer.bits()];
        if registers != self.registers {
            *self = Self::new(cpu, registers);
        }
    }

    #[cold]
    fn new(cpu: &Cpu, registers: [u64; 3]) -> Self {
        let kept = Rflags::from_bits_truncate(!cpu.msrs.sfmask) - Rflags::RF;
        let segments = [syscall_segments(cpu.msrs.star), sysret_segments(cpu.msrs.star, true)];
        Self {
            registers,
            segments: segments.map(|(cs, ss)| [cs, ss]),
            keeps: (kept - Rflags::STATUS).bits(),
            keeps_arithmetic: frame::pack(kept).into(),
            ready: cpu.efer.contains(Efer::SCE | Efer::LMA),
        }
    }
}

/// Where a part of [`FastCalls`] is; `field` is its distance from the start.
const fn place(field: usize) -> i32 {
    frame::fast_calls(field)
}

/// Jumped to with the operation's address in R11, for SYSCALL with the offset behind it in R10. The flags are in memory, the
/// instructions counted, and the code is 64-bit code in [`View::User`] or [`View::Supervisor`].
pub fn fast_call(a: &mut Assembler, call: FastCall, transfer: u32, resolve: &[u32; REMEMBERED]) {
    let otherwise = a.label();
    a.cmp_byte_zero(place(offset_of!(FastCalls, ready)));
    a.jcc(EQUAL, otherwise);
    let (view, cpl) = match call {
        FastCall::Call => (View::Supervisor, 0),
        FastCall::Return => (View::User, 3),
    };
    a.cmp_byte_zero(frame::jumps_are_wide(view));
    a.jcc(EQUAL, otherwise);
    a.cmp_immediate32(frame::BUDGET, 0);
    a.jcc(LESS_OR_EQUAL, otherwise);
    match call {
        FastCall::Call => begin_call(a, otherwise),
        FastCall::Return => begin_return(a, otherwise),
    }
    const WORDS: usize = size_of::<Segment>() / 8;
    const { assert!(size_of::<Segment>() == 8 * WORDS && align_of::<Segment>() == 8) };
    for (n, register) in [SegmentRegister::Cs, SegmentRegister::Ss].into_iter().enumerate() {
        let from = offset_of!(FastCalls, segments) + (2 * call as usize + n) * size_of::<Segment>();
        for word in 0..WORDS {
            a.load(R10, place(from + 8 * word));
            a.store(frame::segment(register) + 8 * word as i32, R10);
        }
    }
    a.store_byte(frame::CPL, cpl);
    a.store_immediate32(frame::VIEW, view as u32);
    match call {
        FastCall::Call => a.load(R10, frame::LSTAR),
        FastCall::Return => a.mov(R10, RCX),
    }
    let unknown = a.label();
    frame::jump_table(view).look_up(a, unknown);
    a.jmp_register(R11);
    a.place(unknown);
    a.mov_immediate(R11, Otherwise::jump().bits());
    a.call_out(resolve[view as usize]);
    a.jmp_register(R11);
    a.place(otherwise);
    a.jmp_out(transfer);
}

/// What SYSCALL does to RCX, R11 and RFLAGS. A program that has set AC, whose kernel might keep it, is the interpreter's.
fn begin_call(a: &mut Assembler, otherwise: Label) {
    a.test_frame_byte(frame::SYSTEM_FLAGS + 2, (Rflags::AC.bits() >> 16) as u8);
    a.jcc(NOT_EQUAL, otherwise);
    a.mov(RCX, R10);
    a.add_frame(RCX, frame::PAGE_BASE);
    a.load(R10, frame::SYSTEM_FLAGS);
    a.and_immediate(R10, !(Rflags::RF.bits() as i32));
    frame::store_rflags(a, frame::gpr(GUEST_R11));
    a.and_frame(R10, place(offset_of!(FastCalls, keeps)));
    a.or_immediate32(R10, Rflags::FIXED.bits() as i32);
    a.store(frame::SYSTEM_FLAGS, R10);
    a.load(R10, place(offset_of!(FastCalls, keeps_arithmetic)));
    a.and_frame_word(frame::FLAGS, R10);
}

/// What SYSRET does to RFLAGS. Flags that ask for more, and interrupts that wait, are the interpreter's.
fn begin_return(a: &mut Assembler, otherwise: Label) {
    const SIMPLE: Rflags = Rflags::STATUS.union(Rflags::IF).union(Rflags::FIXED);
    a.cmp_byte_zero(frame::CPL);
    a.jcc(NOT_EQUAL, otherwise);
    frame::jump_if_waiting(a, otherwise);
    a.load(R10, frame::gpr(GUEST_R11));
    a.and_immediate(R10, !(SIMPLE.bits() as i32));
    a.jcc(NOT_EQUAL, otherwise);
    a.load(R10, frame::gpr(GUEST_R11));
    a.mov(R11, R10);
    a.and_immediate32(R11, Rflags::IF.bits() as i32);
    a.or_immediate32(R11, Rflags::FIXED.bits() as i32);
    a.store(frame::SYSTEM_FLAGS, R11);
    a.mov(R11, R10);
    a.and_immediate32(R11, frame::LOW_FLAGS);
    a.store_byte_of(frame::FLAGS + 1, R11);
    a.shr32(R10, frame::OVERFLOW_SHIFT);
    a.and_immediate32(R10, 1);
    a.store_byte_of(frame::FLAGS, R10);
    const _: () = assert!(GUEST_RCX == RCX.0 as usize);
}
