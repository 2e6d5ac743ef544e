//! From a scanned unit to host code.
//!
//! ```text
//!  entry for jumps by table    R10 is the instruction pointer: note its page
//!  entry for links             an instruction in two pages: jump by table, which knows where its second page is
//!                              vectors loaded?
//!  guest instructions          each with the check of its memory access before, branches out of the unit between
//!  taken branches              where they lead
//!  - - -                       apart from all this:
//!  cold parts                  what seldom happens: misses, faults, links that are not made yet, time that is up
//! ```
//!
//! | file | what it emits |
//! |---|---|
//! | `copy` | instructions that stay what they are, and those that the interpreter executes |
//! | `memory` | addresses and their checks |
//! | `stack` | PUSH, POP, LEAVE |
//! | `x87` | where x87 registers are needed, and control words |
//! | `system` | system instructions that only change the processor |
//! | `control` | branches, and how units lead to each other |
//! | `subroutines` | CALL and RET |
//! | `cold` | the cold parts |
//! | `scratch` | what the scratch registers hold between guest instructions |

mod cold;
mod control;
mod copy;
mod memory;
mod scratch;
mod stack;
mod subroutines;
mod system;
mod x87;

use iced_x86::Encoder;

use super::assembler::*;
use super::calls::Operations;
use super::flags::FlagSet;
use super::frame::{self, Vectors};
use super::groups::Groups;
use super::kinds::Kind;
use super::scan::{Guest, Unit};
use super::sites::Sites;
use super::stubs::Stubs;
use crate::tlb::View;
use cold::{Cold, Taken};
use memory::GroupFinder;
use scratch::Scratch;

/// Bytes from a unit's entry for jumps by table to its entry for links.
pub const LINK_ENTRY: u32 = 16;

/// Where the guest's arithmetic flags are, as far as they are live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flags {
    /// In the host's.
    Host,
    /// In memory; the host's mean nothing.
    Memory,
}

/// How the accesses of a unit are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checks {
    /// One by one: a group would reach into a second page.
    Single,
    /// Groups by one check for all, as in most code.
    Grouped,
    /// The same, and all have sites, as in code that most of the time is spent in.
    Sited,
}

/// What a unit is emitted for.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Who accesses memory.
    pub view: View,
    /// Other processors may decode code from pages that this one writes.
    pub several_processors: bool,
    /// Checks that find their page are counted.
    pub counts_hits: bool,
    /// Units may lead to each other directly.
    pub linked: bool,
    /// How accesses are checked.
    pub checks: Checks,
}

/// What units are emitted with, one after the other. It keeps its memory.
pub struct Tools {
    assembler: Assembler,
    encoder: Encoder,
    cold: Vec<Cold>,
    taken: Vec<Taken>,
    groups_known: Vec<Known>,
}

impl Default for Tools {
    fn default() -> Self {
        Self {
            assembler: Assembler::default(),
            encoder: Encoder::new(64),
            cold: Vec::new(),
            taken: Vec::new(),
            groups_known: Vec::new(),
        }
    }
}

/// Emits a unit: its code, whose first byte is the entry for jumps by table; what its code refers to goes to `operations`. Its
/// accesses get their sites from `sites` if they are to have some, but for those of the instructions at offsets that are
/// restless. `None` if there can be no such code.
pub fn emit<'a>(
    tools: &'a mut Tools,
    unit: &Unit<'_>,
    target: Target,
    stubs: &Stubs,
    sites: &mut Sites,
    is_restless: &dyn Fn(usize) -> bool,
    operations: &mut Operations,
) -> Option<Code<'a>> {
    let mut a = std::mem::take(&mut tools.assembler);
    a.clear();
    sites.begin_unit();
    let by_table = a.label();
    if unit.crosses {
        a.jmp(by_table);
    } else {
        enter_page(&mut a);
    }
    while a.len() < LINK_ENTRY as usize {
        a.raw(&[0x90]);
    }
    let entry = a.here();
    let mut emitter = Emitter {
        a,
        encoder: &mut tools.encoder,
        stubs,
        target,
        sites,
        is_restless,
        operations,
        flags: Flags::Memory,
        cold: std::mem::take(&mut tools.cold),
        taken: std::mem::take(&mut tools.taken),
        entry,
        start: unit.instructions[0].offset(),
        count: 0,
        in_shadow: false,
        present: 0,
        groups: match target.checks {
            Checks::Grouped | Checks::Sited if unit.wide => Groups::find(unit.instructions),
            // An address of 32 bits may wrap between a group's members.
            _ => Groups::default(),
        },
        groups_known: std::mem::take(&mut tools.groups_known),
        scratch: Scratch::new(),
        has_x87: false,
        wide: unit.wide,
    };
    emitter.groups_known.clear();
    emitter.groups_known.resize(emitter.groups.count, Known { finder: None, aligned: None });
    if unit.crosses {
        emitter.jump_by_table();
        emitter.a.place(by_table);
        enter_page(&mut emitter.a);
    }
    emitter.unit(unit);
    let Emitter { a, cold, taken, groups_known, .. } = emitter;
    tools.assembler = a;
    (tools.cold, tools.taken, tools.groups_known) = (cold, taken, groups_known);
    tools.assembler.finish()
}

/// Notes the page of the instruction pointer in R10.
fn enter_page(a: &mut Assembler) {
    a.and_immediate(R10, -4096);
    a.store(frame::PAGE_BASE, R10);
}

struct Emitter<'a> {
    a: Assembler,
    encoder: &'a mut Encoder,
    stubs: &'a Stubs,
    target: Target,
    sites: &'a mut Sites,
    is_restless: &'a dyn Fn(usize) -> bool,
    operations: &'a mut Operations,
    flags: Flags,
    cold: Vec<Cold>,
    taken: Vec<Taken>,
    /// The entry for links.
    entry: Label,
    /// The unit's offset in its page.
    start: usize,
    /// Guest instructions up to the present one, itself included.
    count: i8,
    /// The instruction before was STI.
    in_shadow: bool,
    /// The present instruction's number in its unit.
    present: usize,
    groups: Groups,
    groups_known: Vec<Known>,
    scratch: Scratch,
    /// The present instruction finds x87 registers loaded.
    has_x87: bool,
    /// It is 64-bit code; else code of 32 bits.
    wide: bool,
}

/// What is known of a group behind its first member.
#[derive(Debug, Clone, Copy)]
struct Known {
    /// Who found its page, once its first member has been emitted.
    finder: Option<GroupFinder>,
    /// Where a member was found to be aligned, and to what.
    aligned: Option<(i64, u8)>,
}

impl Emitter<'_> {
    fn unit(&mut self, unit: &Unit<'_>) {
        let (any, wide) = unit.uses_vectors();
        if any {
            let (load, back) = (self.a.label(), self.a.label());
            let needed = if wide { Vectors::Ymm } else { Vectors::Xmm };
            self.a.cmp_byte(frame::VECTORS_LOADED, needed as u8);
            self.a.jcc(BELOW, load);
            self.a.place(back);
            self.cold.push(Cold::LoadVectors { at: load, back, offset: self.start, wide });
        }
        for (n, guest) in unit.instructions.iter().enumerate() {
            self.count += 1;
            self.present = n;
            let ends_shadow = self.in_shadow;
            let keeps_scratch = keeps_scratch(guest.kind);
            if !keeps_scratch {
                self.scratch.forget();
            }
            self.need_x87(guest);
            self.guest(guest, unit.instructions.get(n + 1));
            if !keeps_scratch {
                self.scratch.forget();
            }
            if ends_shadow {
                self.end_shadow();
            }
        }
        if unit.instructions.last().is_some_and(|last| !last.kind.ends()) {
            self.lead_to(unit.next as i64, unit.live_at_end);
        }
        self.cold_parts();
    }

    fn guest(&mut self, guest: &Guest, next: Option<&Guest>) {
        match guest.kind {
            Kind::Copy | Kind::Vector { .. } | Kind::X87 { .. } => self.copy(guest),
            Kind::LoadControl(control) => self.load_control(guest, control),
            Kind::Lea => self.lea(guest),
            Kind::Divide => self.divide(guest),
            Kind::Nothing => {}
            Kind::Push => self.push(guest),
            Kind::Pop => self.pop(guest),
            Kind::Leave => self.leave(guest),
            Kind::Branch(target) => self.branch(guest, target),
            Kind::Jump(target) => self.jump(guest.offset(), target, guest.live_after),
            Kind::Call(target) => self.call(guest, target),
            Kind::JumpIndirect => self.jump_indirect(guest),
            Kind::CallIndirect => self.call_indirect(guest),
            Kind::Return(drop) => self.return_near(guest, drop),
            Kind::System => self.system(guest),
            Kind::Sti => self.sti(guest, next.is_some_and(|next| next.kind.surely_completes())),
            Kind::PushFlags => self.push_flags(guest),
            Kind::TimeStamp => self.time_stamp(guest),
            Kind::ReadSegment => self.read_segment(guest),
            Kind::BitString => self.bit_string(guest),
            Kind::Operation => self.operation(guest),
            Kind::FastCall(call) => self.fast_call(guest, call),
            Kind::Transfer => {
                self.spare_flags(FlagSet::all());
                self.transfer(guest);
            }
        }
    }

    /// Bytes of what is pushed and popped.
    const fn word(&self) -> usize {
        if self.wide { 8 } else { 4 }
    }

    /// `base + displacement` as an instruction or stack pointer: it wraps where they do. Flags are kept.
    fn pointer(&mut self, to: Host, base: Host, displacement: i32) {
        if self.wide {
            self.a.lea(to, base, displacement);
        } else {
            self.a.lea32_sum(to, Some(base), None, displacement);
        }
    }

    /// Before the host's flags are overwritten: saves the guest's, if `live` ones are there.
    fn spare_flags(&mut self, live: FlagSet) {
        if self.flags == Flags::Host && !live.is_empty() {
            self.scratch.lose(R11);
            self.a.save_flags(frame::FLAGS, R11);
        }
        self.flags = Flags::Memory;
    }

    /// As [`Emitter::need_flags`] where R11 is in use. R10 is a host address, and kept too.
    fn need_flags_keeping_r11(&mut self, needed: FlagSet) {
        if self.flags == Flags::Memory && !needed.is_empty() {
            self.a.store(frame::scratch(1), R10);
            self.a.restore_flags(frame::FLAGS, R10);
            self.a.load(R10, frame::scratch(1));
            self.flags = Flags::Host;
        }
    }

    /// Before a guest instruction that depends on `needed` flags. `free` is changed.
    fn need_flags(&mut self, needed: FlagSet, free: Host) {
        if self.flags == Flags::Memory && !needed.is_empty() {
            self.scratch.lose(free);
            self.a.restore_flags(frame::FLAGS, free);
            self.flags = Flags::Host;
        }
    }
}

/// Whether what is emitted for this kind keeps account of what the scratch registers hold.
const fn keeps_scratch(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::Copy
            | Kind::Vector { .. }
            | Kind::X87 { .. }
            | Kind::Lea
            | Kind::Nothing
            | Kind::Push
            | Kind::Pop
            | Kind::Leave
            | Kind::Branch(_)
    )
}

/// The host register that holds a guest register; `None` for those in memory.
pub const fn host(number: usize) -> Option<Host> {
    match number {
        4 => Some(R9),
        9..=11 => None,
        _ => Some(Host(number as u8)),
    }
}
