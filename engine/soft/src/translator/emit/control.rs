//! Branches, and how units lead to each other.
//!
//! Inside a page a unit jumps straight to its successor's code, once that exists (a *link*): the same page stays where it is
//! as long as control does. Other pages and indirect branches are looked up by the linear address in a
//! [`super::super::jumps::JumpTable`]. So are instructions that lie in two pages: the table is forgotten when either page's
//! translation or code changes. Each way out of a unit first counts the instructions that led to it.

use super::super::calls::Otherwise;
use super::cold::{Cold, Taken};
use super::memory::Access;
use super::{Checks, Emitter, Flags, Guest, host};
use crate::ram::PAGE;
use crate::translator::assembler::*;
use crate::translator::flags::FlagSet;
use crate::translator::frame;
use crate::translator::operands::by_stack;

impl Emitter<'_> {
    /// Counts the instructions so far; when time is up, goes on at `target` by way of Rust. Flags are lost.
    fn charge(&mut self, target: i64) {
        let at = self.a.label();
        self.a.sub_immediate32(frame::BUDGET, self.count);
        self.a.jcc(SIGN, at);
        self.cold.push(Cold::TimeUp { at, target });
    }

    /// As [`Emitter::charge`] before an instruction that the interpreter executes when time is up.
    pub fn charge_before(&mut self, guest: &Guest) {
        let at = self.a.label();
        self.a.sub_immediate32(frame::BUDGET, self.count);
        self.a.jcc(SIGN, at);
        self.cold.push(Cold::TimeUpBefore { at, offset: guest.offset() });
    }

    /// A relative branch goes to `target`, an offset from the page's start, where `live` flags may be read.
    pub fn jump(&mut self, offset: usize, target: i64, live: FlagSet) {
        self.spare_flags(live);
        self.require_canonical(offset, target);
        self.lead_to(target, live);
    }

    /// The interpreter executes the branch at `offset` if it would lead to an address that is not canonical: that is its own fault,
    /// and not one of what would be fetched there. Flags and R10 are lost.
    ///
    /// No branch leads farther than 2 GiB, so it can only be in the last 4 GiB of the lower half, or the first of the upper one.
    pub fn require_canonical(&mut self, offset: usize, target: i64) {
        const LAST: u32 = 0x7fff;
        const FIRST: u32 = 0xffff_8000;
        // Every address of 32 bits is canonical.
        if (0..PAGE as i64).contains(&target) || !self.wide {
            return;
        }
        let (at, back) = (self.a.label(), self.a.label());
        self.scratch.lose(R10);
        self.a.cmp_immediate32(frame::PAGE_BASE + 4, if target < 0 { FIRST } else { LAST });
        self.a.jcc(EQUAL, at);
        self.a.place(back);
        self.cold.push(Cold::NearEdge { at, back, offset, target, count: self.count });
    }

    /// Goes on at `target`, an offset from the page's start, where `live` flags may be read.
    pub fn lead_to(&mut self, target: i64, live: FlagSet) {
        self.spare_flags(live);
        self.charge(target);
        self.go(target);
    }

    /// As [`Emitter::lead_to`], with the flags spared and the instructions counted.
    pub fn go(&mut self, target: i64) {
        let same_page = (0..PAGE as i64).contains(&target);
        let at = self.a.label();
        match (same_page, self.target.linked) {
            // Where accesses were checked one by one, the next time their groups may lie in one page again.
            (true, true) if target == self.start as i64 && self.target.checks != Checks::Single => {
                let entry = self.entry;
                self.a.jmp(entry);
            }
            (true, true) => {
                self.a.jmp(at);
                self.cold.push(Cold::Link { at, jump: self.a.len() - 4, target });
            }
            (false, true) if let Ok(target) = i32::try_from(target) => self.jump_by_table_to(target),
            _ => {
                self.a.mov_immediate(R10, target as u64);
                self.a.jmp_out(self.stubs.jump);
            }
        }
    }

    /// Goes to the unit's own beginning, as to another page.
    pub fn jump_by_table(&mut self) {
        self.jump_by_table_to(self.start as i32);
    }

    /// Goes on at `target`, an offset from the page's start, as to another page. Flags are lost.
    fn jump_by_table_to(&mut self, target: i32) {
        self.a.load(R10, frame::PAGE_BASE);
        self.pointer(R10, R10, target);
        self.look_up(Otherwise::jump());
        self.a.jmp_register(R11);
    }

    /// The address of the code for the instruction pointer in R10 into R11.
    fn look_up(&mut self, otherwise: Otherwise) {
        let (at, back) = (self.a.label(), self.a.label());
        self.scratch.forget();
        frame::jump_table(self.target.view).look_up(&mut self.a, at);
        self.a.place(back);
        self.cold.push(Cold::Resolve { at, back, otherwise });
    }

    /// A conditional branch.
    pub fn branch(&mut self, guest: &Guest, target: i64) {
        self.need_flags(guest.flags.reads, R11);
        let condition = Condition((guest.instruction.condition_code() as u8).wrapping_sub(1) & 15);
        let (flags, live, scratch) = (self.flags, guest.live_taken, self.scratch);
        let at = self.a.label();
        if (0..=guest.offset() as i64).contains(&target) {
            // A loop's: most often taken.
            self.a.jcc(condition.negated(), at);
            self.jump(guest.offset(), target, live);
            (self.flags, self.scratch) = (flags, scratch);
            self.a.place(at);
        } else {
            self.a.jcc(condition, at);
            self.taken.push(Taken { at, offset: guest.offset(), target, live, flags, count: self.count });
        }
    }

    /// Where an indirect branch leads into R10. Flags are lost.
    fn indirect_target(&mut self, guest: &Guest) {
        let instruction = &guest.instruction;
        if instruction.op0_kind() == iced_x86::OpKind::Register {
            let number = instruction.op0_register().full_register().number();
            match host(number) {
                Some(register) if self.wide => self.a.mov(R10, register),
                Some(register) => self.a.mov32(R10, register),
                None => self.a.load(R10, frame::gpr(number)),
            }
        } else {
            let (size, stack) = (self.word(), by_stack(instruction));
            let access = Access { size, write: false, alignment: 1, stack };
            let (memory, _) = self.operand(guest, access, FlagSet::empty());
            self.a.load_guest(R10, memory, self.wide);
        }
    }

    /// The address of the code where an indirect branch leads into R11, and the instruction pointer into R10. The interpreter executes
    /// the branch where the table does not know that. Returns whether translated code goes on at all.
    pub fn look_up_indirect(&mut self, guest: &Guest) -> bool {
        self.spare_flags(FlagSet::all());
        if !self.target.linked {
            self.interpret(guest);
            return false;
        }
        self.charge_before(guest);
        self.indirect_target(guest);
        self.look_up(Otherwise::interpret(guest.offset()));
        true
    }

    /// JMP to what a register or memory holds.
    pub fn jump_indirect(&mut self, guest: &Guest) {
        if self.look_up_indirect(guest) {
            self.a.jmp_register(R11);
        }
    }

    /// Leaves an instruction, and what follows it, to the interpreter. The flags are spared.
    pub fn interpret(&mut self, guest: &Guest) {
        debug_assert!(self.flags == Flags::Memory);
        self.a.sub_immediate32(frame::BUDGET, self.count - 1);
        self.a.mov_immediate(R10, guest.offset() as u64);
        self.a.jmp_out(self.stubs.interpret);
    }
}
