//! Cold parts: what seldom happens, out of the way of what often does.

use std::mem::offset_of;

use super::super::calls::{Accessor, Otherwise};
use super::{Emitter, Flags};
use crate::ram::PAGE;
use crate::tlb::Site;
use crate::translator::assembler::*;
use crate::translator::flags::FlagSet;
use crate::translator::frame;

/// A cold part, and where it is entered from.
#[derive(Debug, Clone, Copy)]
pub enum Cold {
    /// A site does not know the page of the address that R10 plus the site's tag are. Back there R11 is what is at `r11`.
    Miss { at: Label, back: Label, accessor: Accessor, write: bool, r11: Option<i32> },
    /// A group's site does not know the page of the address that R10 plus the site's tag are.
    GroupMiss { at: Label, back: Label, accessor: Accessor, write: bool, count: i8 },
    /// The table does not know an access's page. R10 is the address less the entry's tag, R11 the entry's index; back
    /// there R10 is the host address.
    TableMiss { at: Label, back: Label, accessor: Accessor, write: bool },
    /// The same for a group.
    GroupTableMiss { at: Label, back: Label, accessor: Accessor, write: bool, count: i8 },
    /// The interpreter executes the instruction at `offset`, which is number `count`.
    Interpret { at: Label, offset: usize, count: i8 },
    /// The branch at `offset`, which is number `count`, leads to `target`, an offset from the page's start, and perhaps out of the
    /// canonical addresses: then the interpreter executes it.
    NearEdge { at: Label, back: Label, offset: usize, target: i64, count: i8 },
    /// A jump table does not know the instruction pointer in R10.
    Resolve { at: Label, back: Label, otherwise: Otherwise },
    /// The return cache does not know the instruction pointer in R10.
    ResolveReturn { at: Label, back: Label, otherwise: Otherwise },
    /// Time is up: goes on at `target`, an offset from the page's start, by way of Rust.
    TimeUp { at: Label, target: i64 },
    /// As [`Cold::TimeUp`] before an instruction that the interpreter executes then.
    TimeUpBefore { at: Label, offset: usize },
    /// Goes on at `target`, an offset from the page's start, by way of Rust, but asks for the distance at `jump`, which led here, to be led to the target's code.
    Link { at: Label, jump: usize, target: i64 },
    /// The guest's vectors are needed, YMM registers if they are to be `wide`. The unit is at `offset`.
    LoadVectors { at: Label, back: Label, offset: usize, wide: bool },
    /// The guest's x87 registers are needed by the instruction at `offset`, which is number `count`; if they cannot be had, the
    /// interpreter executes it.
    LoadX87 { at: Label, back: Label, offset: usize, count: i8 },
    /// The interpreter executes an operation, at this address. It reads no register that may have been written on the way here, and
    /// writes all of these.
    Operation { at: Label, back: Label, operation: u64 },
    /// A store hit a page with code.
    CodeWritten { at: Label, back: Label, accessor: Accessor },
}

/// A branch at `offset` that is taken, and leads to `target` after `count` instructions.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    pub at: Label,
    pub offset: usize,
    pub target: i64,
    pub live: FlagSet,
    pub flags: Flags,
    pub count: i8,
}

impl Emitter<'_> {
    /// Emits all parts that are out of the way: taken branches, and apart from them what really is cold.
    pub fn cold_parts(&mut self) {
        while let Some(Taken { at, offset, target, live, flags, count }) = self.taken.pop() {
            self.a.place(at);
            (self.flags, self.count) = (flags, count);
            self.jump(offset, target, live);
        }
        self.a.begin_cold();
        while let Some(cold) = self.cold.pop() {
            self.cold_part(cold);
        }
    }

    /// Asks by `stub` for the distance at `jump` to be led elsewhere.
    fn call_link(&mut self, stub: u32, jump: usize) {
        self.a.call_out(stub);
        self.a.place_of(jump);
    }

    fn call_miss(&mut self, accessor: Accessor, write: bool) {
        self.a.mov_immediate(R11, u64::from(accessor.0));
        self.a.call_out(self.stubs.miss[self.target.view as usize][usize::from(write)]);
    }

    fn call_table_miss(&mut self, accessor: Accessor, write: bool) {
        self.a.mov_immediate(R11, u64::from(accessor.0));
        self.a.call_out(self.stubs.table_miss[usize::from(write)]);
    }

    /// Where it jumps to if a group at R10 lies in two pages: the bit above a page's tells. R11 is lost.
    fn leads_to_two_pages(&mut self, accessor: Accessor) -> Label {
        let two_pages = self.a.label();
        self.a.lea(R11, R10, accessor.size() as i32 - 1);
        self.a.xor(R11, R10);
        self.a.and_immediate32(R11, PAGE as i32);
        self.a.jcc(NOT_EQUAL, two_pages);
        two_pages
    }

    /// From `at`, goes on in code whose accesses are checked one by one.
    fn plain(&mut self, at: Label, accessor: Accessor, count: i8) {
        self.a.place(at);
        self.a.sub_immediate32(frame::BUDGET, count - 1);
        if !self.target.linked {
            self.a.mov_immediate(R10, accessor.offset());
            self.a.jmp_out(self.stubs.interpret);
            return;
        }
        let plain = self.a.label();
        self.a.jmp(plain);
        let jump = self.a.len() - 4;
        self.a.place(plain);
        self.a.mov_immediate(R10, accessor.offset());
        self.call_link(self.stubs.plain, jump);
    }

    fn cold_part(&mut self, cold: Cold) {
        match cold {
            Cold::Miss { at, back, accessor, write, r11 } => {
                self.a.place(at);
                self.a.add_frame(R10, frame::site(accessor.site(), offset_of!(Site, tag)));
                self.call_miss(accessor, write);
                if let Some(r11) = r11 {
                    self.a.load(R11, r11);
                }
                self.a.jmp(back);
            }
            Cold::GroupMiss { at, back, accessor, write, count } => {
                self.a.place(at);
                self.a.add_frame(R10, frame::site(accessor.site(), offset_of!(Site, tag)));
                let two_pages = self.leads_to_two_pages(accessor);
                self.call_miss(accessor, write);
                self.a.jmp(back);
                self.plain(two_pages, accessor, count);
            }
            Cold::GroupTableMiss { at, back, accessor, write, count } => {
                self.a.place(at);
                self.a.add_table(R10, R11, 3, frame::tags(self.target.view, write));
                let two_pages = self.leads_to_two_pages(accessor);
                self.call_table_miss(accessor, write);
                self.a.jmp(back);
                self.plain(two_pages, accessor, count);
            }
            Cold::TableMiss { at, back, accessor, write } => {
                self.a.place(at);
                self.a.add_table(R10, R11, 3, frame::tags(self.target.view, write));
                self.call_table_miss(accessor, write);
                self.a.jmp(back);
            }
            Cold::Interpret { at, offset, count } => {
                self.a.place(at);
                self.a.sub_immediate32(frame::BUDGET, count - 1);
                self.a.mov_immediate(R10, offset as u64);
                self.a.jmp_out(self.stubs.interpret);
            }
            Cold::NearEdge { at, back, offset, target, count } => {
                let at_branch = self.a.label();
                self.a.place(at);
                self.a.mov_immediate(R10, target as u64);
                self.a.add_frame(R10, frame::PAGE_BASE);
                // Bits 63 to 47 are all the same in a canonical address: as a number of these, it is 0 or -1.
                self.a.sar(R10, 47);
                self.a.add_immediate(R10, 1);
                self.a.cmp_immediate(R10, 1);
                self.a.jcc(BELOW_OR_EQUAL, back);
                self.cold_part(Cold::Interpret { at: at_branch, offset, count });
            }
            Cold::Resolve { at, back, otherwise } => {
                self.a.place(at);
                self.a.mov_immediate(R11, otherwise.bits());
                self.a.call_out(self.stubs.resolve[self.target.view as usize]);
                self.a.jmp(back);
            }
            Cold::ResolveReturn { at, back, otherwise } => {
                let unknown = self.a.label();
                self.a.place(at);
                frame::jump_table(self.target.view).look_up(&mut self.a, unknown);
                self.a.jmp(back);
                self.cold_part(Cold::Resolve { at: unknown, back, otherwise });
            }
            Cold::TimeUp { at, target } => {
                self.a.place(at);
                self.a.mov_immediate(R10, target as u64);
                self.a.call_out(self.stubs.time_up);
            }
            Cold::TimeUpBefore { at, offset } => {
                self.a.place(at);
                self.a.mov_immediate(R10, offset as u64);
                self.a.call_out(self.stubs.time_up_before);
            }
            Cold::Link { at, jump, target } => {
                self.a.place(at);
                self.a.mov_immediate(R10, target as u64);
                self.call_link(self.stubs.link, jump);
            }
            Cold::LoadVectors { at, back, offset, wide } => {
                self.a.place(at);
                self.a.mov_immediate(R10, offset as u64);
                self.a.call_out(self.stubs.load_vectors[usize::from(wide)]);
                self.a.jmp(back);
            }
            Cold::LoadX87 { at, back, offset, count } => {
                let refused = self.a.label();
                self.a.place(at);
                self.a.call_out(self.stubs.load_x87);
                self.a.cmp_immediate(R10, 0);
                self.a.jcc(NOT_EQUAL, back);
                self.cold_part(Cold::Interpret { at: refused, offset, count });
            }
            Cold::Operation { at, back, operation } => {
                self.a.place(at);
                self.a.mov_immediate(R11, operation);
                self.a.call_out(self.stubs.operation);
                self.a.jmp(back);
            }
            Cold::CodeWritten { at, back, accessor } => {
                self.a.place(at);
                self.a.push_immediate(accessor.0 as i32);
                self.a.call_out(self.stubs.code_written);
                self.a.lea(RSP, RSP, 8);
                self.a.jmp(back);
            }
        }
    }
}
