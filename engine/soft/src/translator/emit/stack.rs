//! PUSH, POP and LEAVE of the code's own width: host registers hold the guest's stack pointer and what is pushed, so these are
//! loads and stores like others, but for the order: nothing changes before the access is checked.

use iced_x86::OpKind;

use super::memory::Access;
use super::{Emitter, Guest, host};
use crate::translator::assembler::*;
use crate::translator::frame;
use crate::translator::operands::by_stack;

/// What a PUSH pushes that is no immediate.
enum Source {
    /// A guest register.
    Guest(usize),
    /// What was loaded, and is at [`frame::PUSHED`].
    Pushed,
}

impl Emitter<'_> {
    /// PUSH.
    pub fn push(&mut self, guest: &Guest) {
        let (instruction, live) = (&guest.instruction, guest.live_before());
        let source = match instruction.op0_kind() {
            OpKind::Register => {
                let number = instruction.op0_register().full_register().number();
                Some(Source::Guest(number))
            }
            OpKind::Memory => {
                let stack = by_stack(instruction);
                let access = Access { size: self.word(), write: false, alignment: 1, stack };
                let (memory, _) = self.operand(guest, access, live);
                self.a.load_guest(R11, memory, self.wide);
                self.scratch.lose(R11);
                self.a.store(frame::PUSHED, R11);
                Some(Source::Pushed)
            }
            _ => None,
        };
        let word = self.word();
        let moved = -(word as i32);
        let (memory, site) = self.stack(guest, R9, moved, true, live);
        let free = free_beside(memory);
        match source {
            Some(Source::Guest(number)) => {
                let register = self.fetch(number, free);
                self.a.store_guest(memory, register, self.wide);
            }
            Some(Source::Pushed) => {
                self.a.load(free, frame::PUSHED);
                self.scratch.lose(free);
                self.a.store_guest(memory, free, self.wide);
            }
            None => {
                let value = instruction.immediate(0) as i64 as i32;
                self.a.store_guest_immediate(memory, value, self.wide);
            }
        }
        self.pointer(R9, R9, moved);
        self.stored(guest, memory.after_moving(moved), site, word, guest.live_after);
    }

    /// POP to a register.
    pub fn pop(&mut self, guest: &Guest) {
        let number = guest.instruction.op0_register().full_register().number();
        let word = self.word() as i32;
        let (memory, _) = self.stack(guest, R9, 0, false, guest.live_before());
        match host(number) {
            // The popped stack pointer is not moved any more.
            Some(R9) => self.a.load_guest(R9, memory, self.wide),
            Some(register) => {
                self.a.load_guest(register, memory, self.wide);
                self.pointer(R9, R9, word);
            }
            None => {
                let free = free_beside(memory);
                self.a.load_guest(free, memory, self.wide);
                self.a.store(frame::gpr(number), free);
                self.scratch.hold_guest(free, number);
                self.pointer(R9, R9, word);
            }
        }
    }

    /// LEAVE.
    pub fn leave(&mut self, guest: &Guest) {
        let (memory, _) = self.stack(guest, RBP, 0, false, guest.live_before());
        self.pointer(R9, RBP, self.word() as i32);
        self.a.load_guest(RBP, memory, self.wide);
    }
}

/// The scratch register that an access leaves free.
pub const fn free_beside(memory: Memory) -> Host {
    match memory {
        Memory::Based { delta: R11, .. } => R10,
        Memory::Checked | Memory::Based { .. } => R11,
    }
}
