//! The return cache: where returns find the code behind their calls.
//!
//! A call notes the instruction pointer that it returns to, and its *landing*, a place in its own unit that leads on from
//! there. Which entry that takes depends on where in the stack the return address lies, so a return looks where its call has noted. Both
//! are a CALL and a RET of the host's as well: its processor foresees where they lead as it does for any program.
//!
//! ```text
//!  call                                        return
//!    push the guest's return address             pop the guest's return address
//!    note it, and landing                        is it what the entry says? else the jump table
//!    call over ───────────────┐                  push the entry's landing
//!  landing:                   │                  ret ──▶ landing
//!    note the page, lead on   │
//!  over: drop what the host ◀─┘
//!    pushed, go to the callee
//! ```
//!
//! An entry is valid as long as those of the jump table are, to which the cache belongs: it depends on no stack, and whatever
//! returns to this address is led to the right code.

use std::mem::offset_of;

use super::assembler::*;

/// How many calls are remembered.
const ENTRIES: usize = 256;
/// Return addresses lie so many bytes apart at least, where stacks are aligned as compilers do.
const APART: usize = 16;

const _: () = assert!(ENTRIES.is_power_of_two() && size_of::<Entry>() == APART);

/// A call that was made.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Entry {
    /// Where it returns to.
    rip: u64,
    /// The code that leads on from there.
    landing: *const u8,
}

/// Calls that were made, by where in the stack their return addresses are.
#[derive(Debug)]
#[repr(C)]
pub struct ReturnCache {
    entries: [Entry; ENTRIES],
    /// What leads on from address 0, which empty entries hold: there is no instruction pointer that nothing returns to.
    code_at_zero: *const u8,
}

impl ReturnCache {
    /// Forgets all calls. A return to address 0 is led to `code_at_zero` ([`super::stubs::Stubs::leave_for`]) from now on.
    pub fn make_empty(&mut self, code_at_zero: *const u8) {
        self.code_at_zero = code_at_zero;
        self.forget();
    }

    /// Forgets all calls.
    pub fn forget(&mut self) {
        self.entries = [Entry { rip: 0, landing: self.code_at_zero }; ENTRIES];
    }
}

/// Where the return cache is that code of a view uses: this far from the processor.
#[derive(Debug, Clone, Copy)]
pub struct ReturnPlace(pub i32);

impl ReturnPlace {
    /// Notes that the call that has just pushed `rip` returns to `landing`. The flags, `rip` and `free` are lost.
    pub fn note(self, a: &mut Assembler, rip: Host, free: Host, landing: Label) {
        entry(a, free);
        a.store_table(free, 0, self.field(offset_of!(Entry, rip)), rip);
        a.address_of(rip, landing);
        a.store_table(free, 0, self.field(offset_of!(Entry, landing)), rip);
    }

    /// Where the return leads on that is about to pop R10, into R11; if that is not known goes to `unknown`. The flags are lost.
    pub fn look_up(self, a: &mut Assembler, unknown: Label) {
        entry(a, R11);
        a.cmp_table(R11, 0, self.field(offset_of!(Entry, rip)), R10);
        a.jcc(NOT_EQUAL, unknown);
        a.load_table(R11, R11, 0, self.field(offset_of!(Entry, landing)));
    }

    const fn field(self, offset: usize) -> i32 {
        self.0 + (offset_of!(ReturnCache, entries) + offset) as i32
    }
}

/// How far the entry for the top of the guest's stack is from the first one.
fn entry(a: &mut Assembler, to: Host) {
    a.mov32(to, R9);
    a.and_immediate32(to, ((ENTRIES - 1) * APART) as i32);
}
