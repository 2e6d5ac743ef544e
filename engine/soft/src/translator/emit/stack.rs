//! PUSH, POP and LEAVE of 64 bits: host registers hold the guest's stack pointer and what is pushed, so these are
//! loads and stores like others, but for the order: nothing changes before the access is checked.

use iced_x86::OpKind;

use super::memory::Access;
use super::{Emitter, Guest, host};
use crate::translator::assembler::*;
use crate::translator::frame;

impl Emitter<'_> {
    /// PUSH.
    pub fn push(&mut self, guest: &Guest) {
        let (instruction, live) = (&guest.instruction, guest.live_before());
        self.spare_flags(live);
        let source = match instruction.op0_kind() {
            OpKind::Register => {
                let number = instruction.op0_register().full_register().number();
                Some(host(number).ok_or(frame::gpr(number)))
            }
            OpKind::Memory => {
                let stack = super::copy::by_stack(instruction);
                self.operand(guest, Access { size: 8, write: false, aligned: false, stack }, live);
                self.a.load_guest(R11);
                self.a.store(frame::scratch(1), R11);
                Some(Err(frame::scratch(1)))
            }
            _ => None,
        };
        self.a.lea(R10, R9, -8);
        let site = self.check(guest, Access::stack(true));
        match source {
            Some(Ok(register)) => self.a.store_guest(register),
            Some(Err(slot)) => {
                self.a.load(R11, slot);
                self.a.store_guest(R11);
            }
            None => self.a.store_guest_immediate(instruction.immediate(0) as i64 as i32),
        }
        self.a.lea(R9, R9, -8);
        self.stored(guest, site, 8, guest.live_after);
    }

    /// POP to a register.
    pub fn pop(&mut self, guest: &Guest) {
        let number = guest.instruction.op0_register().full_register().number();
        self.spare_flags(guest.live_before());
        self.a.mov(R10, R9);
        self.check(guest, Access::stack(false));
        match host(number) {
            // The popped stack pointer is not moved any more.
            Some(R9) => self.a.load_guest(R9),
            Some(register) => {
                self.a.load_guest(register);
                self.a.lea(R9, R9, 8);
            }
            None => {
                self.a.load_guest(R11);
                self.a.store(frame::gpr(number), R11);
                self.a.lea(R9, R9, 8);
            }
        }
    }

    /// LEAVE.
    pub fn leave(&mut self, guest: &Guest) {
        self.spare_flags(guest.live_before());
        self.a.mov(R10, RBP);
        self.check(guest, Access::stack(false));
        self.a.lea(R9, RBP, 8);
        self.a.load_guest(RBP);
    }
}
