//! PUSH, POP and LEAVE of 64 bits: host registers hold the guest's stack pointer and what is pushed, so these are
//! loads and stores like others, but for the order: nothing changes before the access is checked.

use iced_x86::OpKind;

use super::memory::Access;
use super::{Emitter, Guest, host};
use crate::translator::assembler::*;
use crate::translator::frame;

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
                let stack = super::copy::by_stack(instruction);
                let access = Access { size: 8, write: false, alignment: 1, stack };
                let (memory, _) = self.operand(guest, access, live);
                self.a.load_guest(R11, memory);
                self.scratch.lose(R11);
                self.a.store(frame::PUSHED, R11);
                Some(Source::Pushed)
            }
            _ => None,
        };
        let (memory, site) = self.stack(guest, R9, -8, true, live);
        let free = free_beside(memory);
        match source {
            Some(Source::Guest(number)) => {
                let register = self.fetch(number, free);
                self.a.store_guest(memory, register);
            }
            Some(Source::Pushed) => {
                self.a.load(free, frame::PUSHED);
                self.scratch.lose(free);
                self.a.store_guest(memory, free);
            }
            None => self.a.store_guest_immediate(memory, instruction.immediate(0) as i64 as i32),
        }
        self.a.lea(R9, R9, -8);
        self.stored(guest, memory.after_moving(-8), site, 8, guest.live_after);
    }

    /// POP to a register.
    pub fn pop(&mut self, guest: &Guest) {
        let number = guest.instruction.op0_register().full_register().number();
        let (memory, _) = self.stack(guest, R9, 0, false, guest.live_before());
        match host(number) {
            // The popped stack pointer is not moved any more.
            Some(R9) => self.a.load_guest(R9, memory),
            Some(register) => {
                self.a.load_guest(register, memory);
                self.a.lea(R9, R9, 8);
            }
            None => {
                let free = free_beside(memory);
                self.a.load_guest(free, memory);
                self.a.store(frame::gpr(number), free);
                self.scratch.hold_guest(free, number);
                self.a.lea(R9, R9, 8);
            }
        }
    }

    /// LEAVE.
    pub fn leave(&mut self, guest: &Guest) {
        let (memory, _) = self.stack(guest, RBP, 0, false, guest.live_before());
        self.a.lea(R9, RBP, 8);
        self.a.load_guest(RBP, memory);
    }
}

/// The scratch register that an access leaves free.
pub const fn free_beside(memory: Memory) -> Host {
    match memory {
        Memory::Checked => R11,
        Memory::Grouped { .. } => R10,
    }
}
