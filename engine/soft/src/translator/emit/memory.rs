//! Addresses of memory operands and the checks before they are accessed.
//!
//! ```text
//!   lea r10, [address]
//!   mov r11d, r10d
//!   shr r11d, 12
//!   and r11d, ENTRIES - 1      the page's entry in the table
//!   sub r10, [tags + 8*r11]    the access's offset in the page
//!   cmp r10, 4096 - size       another page, or across its end? then ask
//!   ja  cold
//!   add r10, [hosts + 8*r11]
//!   OP  [r10]
//! ```
//!
//! In code that most of the time is spent in, the instruction has a site, which is an entry of its own:
//!
//! ```text
//!   lea r10, [base + index + displacement]
//!   sub r10, [site.tag]        the access's offset in the page that the instruction accessed last
//!   cmp r10, [site.limit]      another page, or across its end? then ask
//!   jae cold
//!   mov r10, [site.delta]      how far host addresses are from linear ones there
//!   add r10, index             if there is one
//!   OP  [base + r10 + displacement]
//! ```
//!
//! so that the access, for which others wait, need not wait for the check. Else R10 becomes the host address: where a part of the address
//! lies in memory or is no register, in a segment with a base, in 32 bits, and where other processors' code is looked for behind a store.
//!
//! The first access of a group checks for all of them, and each of them is
//!
//! ```text
//!   mov r11, [delta]           how far host addresses are from linear ones
//!   OP  [base + r11 + displacement]
//! ```

use std::mem::offset_of;

use iced_x86::{Instruction, Register};

use super::super::calls::Accessor;
use super::cold::Cold;
use super::scratch::Holds;
use super::{Checks, Emitter, Guest, host};
use crate::tlb::{ENTRIES, Site as TlbSite};
use crate::translator::assembler::*;
use crate::translator::flags::FlagSet;
use crate::translator::frame;
use crate::translator::groups::{Member, Part};
use crate::translator::operands::{has_narrow_address, has_segment_base};
use crate::translator::sites::{Extent, Sites};

/// A memory access to be checked.
#[derive(Debug, Clone, Copy)]
pub struct Access {
    /// Bytes.
    pub size: usize,
    /// It writes, or reads and writes.
    pub write: bool,
    /// Its address must be a multiple of this: 1, 16 or 32.
    pub alignment: u8,
    /// A non-canonical address is a stack fault.
    pub stack: bool,
}

impl Access {
    /// A word of the stack, of `size` bytes.
    pub const fn stack(size: usize, write: bool) -> Self {
        Self { size, write, alignment: 1, stack: true }
    }
}

/// Who found an access's page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finder {
    /// A site of the TLB.
    Site(usize),
    /// The table, for this access alone.
    Table,
    /// A group's first access, for all of them.
    Group(GroupFinder),
}

impl Finder {
    /// Where it says which page of code was written.
    const fn code(self) -> i32 {
        match self {
            Self::Site(site) | Self::Group(GroupFinder::Site(site)) => {
                frame::site(site, offset_of!(TlbSite, code))
            }
            Self::Group(GroupFinder::Table(group)) => frame::group(group).code,
            Self::Table => frame::WRITTEN,
        }
    }
}

/// Who found a group's page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupFinder {
    /// A site of the TLB.
    Site(usize),
    /// The table: the group's place in the frame has what it found.
    Table(usize),
}

impl GroupFinder {
    /// Where it is told how far host addresses are from linear ones.
    const fn delta(self) -> i32 {
        match self {
            Self::Site(site) => frame::site(site, offset_of!(TlbSite, delta)),
            Self::Table(group) => frame::group(group).delta,
        }
    }
}

/// An access that one check serves together with others.
#[derive(Debug, Clone, Copy)]
pub struct Grouped {
    group: usize,
    /// Where it is, from where the group's distances count.
    at: i64,
    /// The base register.
    pub base: Host,
    turn: Turn,
}

/// Which of its group an access is.
#[derive(Debug, Clone, Copy)]
enum Turn {
    /// It checks for all: from this far from the base register, so many bytes.
    First { from: i32, extent: usize },
    /// It relies on what the first one found.
    Later(GroupFinder),
}

/// The parts of an address, each in a host register. R10 and R11 may be among them.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    /// The base.
    pub base: Option<Host>,
    /// The index and the logarithm of its scale.
    pub index: Option<(Host, u8)>,
    /// The displacement.
    pub displacement: i32,
    /// The sum has 32 bits.
    pub narrow: bool,
}

/// An address whose parts are all in host registers of their own, which keep them until it was accessed.
#[derive(Debug, Clone, Copy)]
pub struct Sum {
    /// The base.
    pub base: Host,
    /// The index and the logarithm of its scale.
    index: Option<(Host, u8)>,
    displacement: i32,
}

impl Emitter<'_> {
    /// Gets the parts of the memory operand's offset in its segment into registers. Flags are kept.
    pub fn parts(&mut self, instruction: &Instruction) -> Parts {
        let (base, index) = (instruction.memory_base(), instruction.memory_index());
        let displacement = instruction.memory_displacement64();
        if instruction.is_ip_rel_memory_operand() {
            self.a.load(R10, frame::PAGE_BASE);
            self.scratch.lose(R10);
            // The displacement counts from the page's start here. Where it does not fit, the instruction is the interpreter's (`kinds`).
            let displacement = displacement as i64 as i32;
            return Parts { base: Some(R10), index: None, displacement, narrow: base == Register::EIP };
        }
        let narrow = has_narrow_address(instruction);
        let index_in_r10 = self.scratch.guest(index.full_register().number()) == Some(R10);
        let base = self.part(base, if index_in_r10 { R11 } else { R10 });
        let index = self
            .part(index, if base == Some(R11) { R10 } else { R11 })
            .map(|index| (index, instruction.memory_index_scale().trailing_zeros() as u8));
        Parts { base, index, displacement: displacement as i32, narrow }
    }

    /// The host register that has a part of an address, if there is that part: `free` if it comes from memory.
    fn part(&mut self, register: Register, free: Host) -> Option<Host> {
        (register != Register::None).then(|| self.fetch(register.full_register().number(), free))
    }

    /// The host register that has a guest register's value: `free` if it comes from memory. Flags are kept.
    pub fn fetch(&mut self, number: usize, free: Host) -> Host {
        host(number).or_else(|| self.scratch.guest(number)).unwrap_or_else(|| {
            self.a.load(free, frame::gpr(number));
            self.scratch.hold_guest(free, number);
            free
        })
    }

    /// The linear address of the memory operand into R10. Returns the parts that it was made of; one may have been in R10.
    pub fn address(&mut self, instruction: &Instruction) -> Parts {
        let parts = self.parts(instruction);
        let Parts { base, index, displacement, narrow } = parts;
        match (narrow, base, index) {
            (true, ..) => self.a.lea32_sum(R10, base, index, displacement),
            (false, Some(R10), None) if displacement == 0 => {}
            (false, Some(base), None) if displacement == 0 => self.a.mov(R10, base),
            _ => self.a.lea_sum(R10, base, index, displacement),
        }
        self.scratch.lose(R10);
        let segment = match instruction.memory_segment() {
            Register::FS => tern_x86::state::SegmentRegister::Fs,
            Register::GS => tern_x86::state::SegmentRegister::Gs,
            _ => return parts,
        };
        self.a.add_frame(R10, frame::segment_base(segment as usize));
        parts
    }

    /// Makes the memory operand accessible: where it is, and what knows its page. `live` flags are kept. If it is
    /// a group's, R10 is free, else R11.
    pub fn operand(&mut self, guest: &Guest, access: Access, live: FlagSet) -> (Memory, Finder) {
        let instruction = &guest.instruction;
        if let Some(grouped) = self.grouped_operand(instruction) {
            let displacement = instruction.memory_displacement64() as i32;
            return self.member(guest, access, grouped, displacement, live);
        }
        self.spare_flags(live);
        if let Some(sum) = self.based_operand(guest, access) {
            return self.based(guest, access, sum);
        }
        let parts = self.address(instruction);
        let finder = self.find(guest, access);
        if let Finder::Site(site) = finder {
            self.host_address(site, instruction, parts);
        }
        (Memory::Checked, finder)
    }

    /// The memory operand's address, if it is to be accessed by the registers that it is the sum of.
    pub fn based_operand(&self, guest: &Guest, access: Access) -> Option<Sum> {
        let instruction = &guest.instruction;
        let of_host = |register: Register| host(register.number());
        if instruction.is_ip_rel_memory_operand()
            || has_narrow_address(instruction)
            || has_segment_base(instruction)
            || instruction.memory_base() == Register::None
        {
            return None;
        }
        let index = match instruction.memory_index() {
            Register::None => None,
            index => Some((of_host(index)?, instruction.memory_index_scale().trailing_zeros() as u8)),
        };
        let displacement = instruction.memory_displacement64() as i32;
        let sum = Sum { base: of_host(instruction.memory_base())?, index, displacement };
        self.is_based(guest, access).then_some(sum)
    }

    /// Whether an access has a site that it finds its page by, and nothing asks for its address behind it.
    fn is_based(&self, guest: &Guest, access: Access) -> bool {
        let ends = !(access.write && self.target.several_processors);
        self.wide && ends && self.has_site(guest) && Sites::has(access.size)
    }

    /// An access by the registers that its address is the sum of. The flags are spared; R11 is kept.
    fn based(
        &mut self,
        guest: &Guest,
        access: Access,
        Sum { base, index, displacement }: Sum,
    ) -> (Memory, Finder) {
        self.a.lea_sum(R10, Some(base), index, displacement);
        self.scratch.lose(R10);
        let finder = self.find(guest, access);
        let Finder::Site(site) = finder else { unreachable!("it has a site") };
        self.a.load(R10, frame::site(site, offset_of!(TlbSite, delta)));
        if index.is_some() {
            self.a.lea_sum(R10, Some(R10), index, 0);
        }
        (Memory::Based { base, displacement, delta: R10 }, finder)
    }

    /// As [`Emitter::operand`] for the push or pop at this distance from the stack pointer, or from another `base`.
    pub fn stack(
        &mut self,
        guest: &Guest,
        base: Host,
        displacement: i32,
        write: bool,
        live: FlagSet,
    ) -> (Memory, Finder) {
        let access = Access::stack(self.word(), write);
        if let Some(grouped) = self.grouped(Part::Stack, base) {
            return self.member(guest, access, grouped, displacement, live);
        }
        self.spare_flags(live);
        if self.is_based(guest, access) {
            return self.based(guest, access, Sum { base, index: None, displacement });
        }
        self.pointer(R10, base, displacement);
        self.scratch.lose(R10);
        (Memory::Checked, self.check(guest, access))
    }

    /// The group of the present instruction's memory operand, if it is accessed as a part of one.
    pub fn grouped_operand(&self, instruction: &Instruction) -> Option<Grouped> {
        self.grouped(Part::Operand, host(instruction.memory_base().number())?)
    }

    /// The same for any of its accesses. Where the first of a group was left to the interpreter, nothing was found for the others,
    /// and they are checked one by one.
    fn grouped(&self, part: Part, base: Host) -> Option<Grouped> {
        Some(match self.groups.member(self.present, part)? {
            Member::First { group, from, extent, at } => {
                Grouped { group, at, base, turn: Turn::First { from, extent } }
            }
            Member::Later { group, at } => {
                Grouped { group, at, base, turn: Turn::Later(self.groups_known[group].finder?) }
            }
        })
    }

    fn member(
        &mut self,
        guest: &Guest,
        access: Access,
        Grouped { group, at, base, turn }: Grouped,
        displacement: i32,
        live: FlagSet,
    ) -> (Memory, Finder) {
        let finder = match turn {
            Turn::First { from, extent } => {
                self.spare_flags(live);
                self.scratch.forget();
                self.a.lea(R10, base, from);
                if access.alignment > 1 && from == displacement {
                    self.require_alignment(guest, access.alignment);
                    self.groups_known[group].aligned = Some((at, access.alignment));
                }
                let finder = self.check_group(guest, access, base, group, from, extent);
                self.groups_known[group].finder = Some(finder);
                finder
            }
            Turn::Later(finder) => finder,
        };
        let aligned = self.groups_known[group].aligned;
        let known = aligned.is_some_and(|(aligned, alignment)| {
            alignment >= access.alignment && at.wrapping_sub(aligned) % i64::from(access.alignment) == 0
        });
        if access.alignment > 1 && !known {
            self.spare_flags(live);
            self.a.lea(R10, base, displacement);
            self.scratch.lose(R10);
            self.require_alignment(guest, access.alignment);
            self.groups_known[group].aligned = Some((at, access.alignment));
        }
        if !self.scratch.has_delta(group) {
            self.a.load(R11, finder.delta());
            self.scratch.hold_delta(group);
        }
        (Memory::Based { base, displacement, delta: R11 }, Finder::Group(finder))
    }

    /// All `extent` bytes at the linear address in R10, at this distance from `base`, must lie in one page, which is found. Flags
    /// and R10 are lost.
    fn check_group(
        &mut self,
        guest: &Guest,
        access: Access,
        base: Host,
        group: usize,
        from: i32,
        extent: usize,
    ) -> GroupFinder {
        let (miss, back) = (self.a.label(), self.a.label());
        let (write, count) = (access.write, self.count);
        let Some(site) = self.site(guest, Extent::Group(extent), write) else {
            let accessor = Accessor::new(guest.offset(), 0, extent, access.stack).for_group();
            self.look_at_table(write, extent, miss);
            self.found(back);
            self.cold.push(Cold::GroupTableMiss { at: miss, back, accessor, write, count });
            if write && self.target.several_processors {
                self.a.load(R11, frame::WRITTEN);
                self.a.store(frame::group(group).code, R11);
            }
            self.a.sub(R10, base);
            // The least number of 32 bits is no group's distance.
            self.a.lea(R11, R10, from.wrapping_neg());
            self.a.store(frame::group(group).delta, R11);
            self.scratch.hold_delta(group);
            return GroupFinder::Table(group);
        };
        self.a.sub_frame(R10, frame::site(site, offset_of!(TlbSite, tag)));
        self.a.cmp_frame(R10, frame::site(site, offset_of!(TlbSite, limit)));
        self.a.jcc(ABOVE_OR_EQUAL, miss);
        self.found(back);
        let accessor = Accessor::new(guest.offset(), site, extent, access.stack).for_group();
        self.cold.push(Cold::GroupMiss { at: miss, back, accessor, write, count });
        GroupFinder::Site(site)
    }

    fn require_alignment(&mut self, guest: &Guest, alignment: u8) {
        let refused = self.a.label();
        self.a.test_byte(R10, alignment - 1);
        self.a.jcc(NOT_EQUAL, refused);
        self.cold.push(Cold::Interpret { at: refused, offset: guest.offset(), count: self.count });
    }

    /// The linear address in R10 becomes a host address. Flags are lost, and R11 unless it is known to hold something after that.
    pub fn check(&mut self, guest: &Guest, access: Access) -> Finder {
        let finder = self.find(guest, access);
        if let Finder::Site(site) = finder {
            self.add_host_page(site);
        }
        finder
    }

    /// The operand's host address into R10, which is its offset in the page that a site knows: from the parts of the linear address, so
    /// that it need not wait for the check, if all are still there.
    fn host_address(&mut self, site: usize, instruction: &Instruction, parts: Parts) {
        let Parts { base, index, displacement, narrow } = parts;
        let in_r10 = [base, index.map(|(index, _)| index)].contains(&Some(R10));
        match base {
            Some(base) if !in_r10 && !narrow && !has_segment_base(instruction) => {
                self.a.load(R10, frame::site(site, offset_of!(TlbSite, delta)));
                self.a.lea_sum(R10, Some(R10), Some((base, 0)), displacement);
                if index.is_some() {
                    self.a.lea_sum(R10, Some(R10), index, 0);
                }
            }
            _ => self.add_host_page(site),
        }
    }

    /// An offset in the page that a site knows becomes a host address.
    fn add_host_page(&mut self, site: usize) {
        self.a.add_frame(R10, frame::site(site, offset_of!(TlbSite, tag)));
        self.a.add_frame(R10, frame::site(site, offset_of!(TlbSite, delta)));
    }

    /// The page of the linear address in R10 is found. If a site has found it R10 is the offset in the page, else a host address. Flags
    /// are lost, and R11 unless it is known to hold something after that.
    fn find(&mut self, guest: &Guest, access: Access) -> Finder {
        if access.alignment > 1 {
            self.require_alignment(guest, access.alignment);
        }
        let (miss, back) = (self.a.label(), self.a.label());
        let Some(site) = self.site(guest, Extent::Single(access.size), access.write) else {
            self.scratch.lose(R11);
            self.look_at_table(access.write, access.size, miss);
            self.found(back);
            let accessor = Accessor::new(guest.offset(), 0, access.size, access.stack);
            self.cold.push(Cold::TableMiss { at: miss, back, accessor, write: access.write });
            return Finder::Table;
        };
        self.a.sub_frame(R10, frame::site(site, offset_of!(TlbSite, tag)));
        self.a.cmp_frame(R10, frame::site(site, offset_of!(TlbSite, limit)));
        self.a.jcc(ABOVE_OR_EQUAL, miss);
        self.found(back);
        let accessor = Accessor::new(guest.offset(), site, access.size, access.stack);
        let r11 = match self.scratch.r11() {
            Holds::Nothing => None,
            Holds::Guest(number) => Some(frame::gpr(number)),
            Holds::Delta(group) => self.groups_known[group].finder.map(GroupFinder::delta),
        };
        self.cold.push(Cold::Miss { at: miss, back, accessor, write: access.write, r11 });
        Finder::Site(site)
    }

    /// The page is found; who found it elsewhere comes `back` behind the count. Flags are lost.
    fn found(&mut self, back: Label) {
        if self.target.counts_hits {
            self.a.increment(frame::HITS);
        }
        self.a.place(back);
    }

    /// The site that an access of this instruction gets; `None` if the table is to be asked.
    fn site(&mut self, guest: &Guest, extent: Extent, write: bool) -> Option<usize> {
        if !self.has_site(guest) {
            return None;
        }
        self.sites.next(self.target.view, extent, write)
    }

    /// Whether this instruction's accesses get sites.
    fn has_site(&self, guest: &Guest) -> bool {
        self.target.checks == Checks::Sited && !(self.is_restless)(guest.offset())
    }

    /// The linear address of `size` bytes in R10 becomes a host address if the table knows its page. Flags and R11 are lost.
    fn look_at_table(&mut self, write: bool, size: usize, miss: Label) {
        let view = self.target.view;
        self.a.mov32(R11, R10);
        self.a.shr32(R11, 12);
        self.a.and_immediate32(R11, ENTRIES as i32 - 1);
        self.a.sub_table(R10, R11, 3, frame::tags(view, write));
        self.a.cmp_immediate(R10, 4096 - size as i32);
        self.a.jcc(ABOVE, miss);
        self.a.add_table(R10, R11, 3, frame::hosts(view));
        if write && self.target.several_processors {
            self.a.load_table(R11, R11, 3, frame::code(view));
            self.a.store(frame::WRITTEN, R11);
        }
    }

    /// After a store there: code may have been decoded from there. `live` flags are kept.
    pub fn stored(&mut self, guest: &Guest, memory: Memory, finder: Finder, size: usize, live: FlagSet) {
        if !self.target.several_processors {
            return;
        }
        self.written_address(memory);
        self.spare_flags(live);
        self.look_for_code(Accessor::new(guest.next_offset(), 0, size, false), Memory::Checked, finder);
    }

    /// The host address of what was written into R10. Flags are kept.
    fn written_address(&mut self, memory: Memory) {
        if let Memory::Based { base, displacement, delta } = memory {
            self.scratch.lose(R10);
            self.a.lea_sum(R10, Some(base), Some((delta, 0)), displacement);
        }
    }

    /// As [`Emitter::stored`], with the flags lost.
    pub fn look_for_code(&mut self, accessor: Accessor, memory: Memory, finder: Finder) {
        if !self.target.several_processors {
            return;
        }
        self.written_address(memory);
        self.scratch.forget();
        let (hit, back) = (self.a.label(), self.a.label());
        self.a.load(R11, finder.code());
        self.a.cmp_r11_memory_zero();
        self.a.jcc(NOT_EQUAL, hit);
        self.a.place(back);
        self.cold.push(Cold::CodeWritten { at: hit, back, accessor });
    }
}
