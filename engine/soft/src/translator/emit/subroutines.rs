//! CALL and RET, which go by the return cache ([`super::super::returns`]).

use super::super::calls::{Accessor, Otherwise};
use super::cold::Cold;
use super::stack::free_beside;
use super::{Emitter, Guest, enter_page};
use crate::ram::PAGE;
use crate::translator::assembler::*;
use crate::translator::flags::FlagSet;
use crate::translator::frame;

impl Emitter<'_> {
    /// CALL of a known place.
    pub fn call(&mut self, guest: &Guest, target: i64) {
        self.spare_flags(guest.live_before());
        let Ok(displacement) = i32::try_from(target) else { return self.interpret(guest) };
        self.require_canonical(guest.offset(), target);
        self.charge_before(guest);
        if self.target.several_processors {
            self.a.load(R11, frame::PAGE_BASE);
            self.pointer(R11, R11, displacement);
            self.a.store(frame::LEADS_TO, R11);
        }
        self.push_return(guest);
        self.go(target);
    }

    /// Pushes the address behind the instruction, before control goes to where the frame says, notes where it is returned to, and emits
    /// the landing there, and the host's call around it. What follows goes on to the callee. Flags are lost.
    fn push_return(&mut self, guest: &Guest) {
        let word = self.word();
        let moved = -(word as i32);
        let (memory, site) = self.stack(guest, R9, moved, true, FlagSet::empty());
        let free = free_beside(memory);
        self.load_return_address(guest, free);
        self.a.store_guest(memory, free, self.wide);
        self.pointer(R9, R9, moved);
        // Other pages are the jump table's.
        let lands = self.target.linked && guest.next_offset() < PAGE as usize;
        if self.target.several_processors {
            self.look_for_code(Accessor::jumping(word), memory.after_moving(moved), site);
            if lands {
                self.load_return_address(guest, free);
            }
        }
        if lands {
            let (landing, over) = (self.a.label(), self.a.label());
            let other = if free == R10 { R11 } else { R10 };
            frame::jump_table(self.target.view).returns.note(&mut self.a, free, other, landing);
            self.a.call(over);
            self.a.place(landing);
            enter_page(&mut self.a);
            self.go(guest.next_offset() as i64);
            self.a.place(over);
            self.a.lea(RSP, RSP, 8);
        }
    }

    /// The address behind the instruction into a register. Flags are kept.
    fn load_return_address(&mut self, guest: &Guest, to: Host) {
        self.a.load(to, frame::PAGE_BASE);
        self.a.lea(to, to, guest.next_offset() as i32);
    }

    /// CALL of what a register or memory holds.
    pub fn call_indirect(&mut self, guest: &Guest) {
        if !self.look_up_indirect(guest) {
            return;
        }
        self.a.store(frame::LEADS_TO, R10);
        self.a.store(frame::CALLED, R11);
        self.push_return(guest);
        self.a.load(R10, frame::LEADS_TO);
        self.a.jmp_frame(frame::CALLED);
    }

    /// RET.
    pub fn return_near(&mut self, guest: &Guest, drop: u16) {
        self.spare_flags(FlagSet::all());
        if !self.target.linked {
            return self.interpret(guest);
        }
        self.charge_before(guest);
        let (memory, _) = self.stack(guest, R9, 0, false, FlagSet::empty());
        self.a.load_guest(R10, memory, self.wide);
        let (at, back) = (self.a.label(), self.a.label());
        frame::jump_table(self.target.view).returns.look_up(&mut self.a, at);
        self.a.place(back);
        self.cold.push(Cold::ResolveReturn { at, back, otherwise: Otherwise::interpret(guest.offset()) });
        self.pointer(R9, R9, self.word() as i32 + i32::from(drop));
        self.a.push(R11);
        self.a.ret();
    }
}
