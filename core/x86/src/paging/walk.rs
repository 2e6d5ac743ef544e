//! The walk itself.

use super::entry::{A, D, Format, G, NX, P, RW, US};
use super::{Access, AccessKind, PhysicalMemory, Rights};
use crate::cpu::Cpu;
use crate::exception::{Exception, PageFault};
use crate::state::Cr4;

/// Where a linear address leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// The physical address of the byte that was asked for.
    pub physical: u64,
    /// log2 of the page's size: 12, 21, 22 or 30.
    pub page_bits: u32,
    /// Accesses to the page that need no further walk while the tables and the paging state stay as they are. Writing is
    /// missing as long as the Dirty bit is clear. Supervisor rights hold for accesses with the same SMAP override.
    pub rights: Rights,
    /// The page keeps its translation when CR3 is loaded.
    pub global: bool,
}

/// Walks the page tables for one access, in the processor's present paging mode. `linear` is canonical in long mode;
/// elsewhere its low 32 bits count. Sets Accessed bits, and Dirty for a write, only if the access is permitted.
///
/// # Errors
/// #PF with the error code of this access.
pub fn translate(
    cpu: &Cpu,
    memory: &mut impl PhysicalMemory,
    linear: u64,
    access: Access,
) -> Result<Translation, Exception> {
    let Some(format) = Format::of(cpu) else {
        let physical = linear & 0xffff_ffff;
        return Ok(Translation { physical, page_bits: 12, rights: Rights::all(), global: false });
    };
    loop {
        // An entry that another processor changed under the walk may lead elsewhere now.
        if let Some(translation) = walk(format, cpu, memory, linear, access)? {
            return Ok(translation);
        }
    }
}

/// One attempt; `None` if an entry changed before its Accessed or Dirty bit was set.
fn walk(
    format: Format,
    cpu: &Cpu,
    memory: &mut impl PhysicalMemory,
    linear: u64,
    access: Access,
) -> Result<Option<Translation>, Exception> {
    let fault = |code| Err(Exception::page_fault(linear, access.error_code(cpu) | code));
    let mut path = [(0, 0); 4];
    let mut table = format.root(cpu.cr3);
    let (mut all_set, mut any_set) = (RW | US, 0);
    let mut level = format.levels();
    let (entry, page) = loop {
        let physical = format.entry_address(table, level, linear);
        let entry = format.read(memory, physical);
        if entry & P == 0 {
            return fault(PageFault::empty());
        }
        let leaf = format.is_leaf(cpu, level, entry);
        if format.has_reserved_bits(cpu, level, entry, leaf) {
            return fault(PageFault::PRESENT | PageFault::RESERVED);
        }
        // The four PDPTEs of PAE paging have neither rights nor an Accessed bit.
        if (format, level) != (Format::Pae, 3) {
            all_set &= entry;
            any_set |= entry & NX;
            path[level as usize - 1] = (physical, entry);
        }
        table = format.address(level, entry, leaf);
        if leaf {
            break (entry, table);
        }
        level -= 1;
    };

    let mut rights = Rights::of_path(cpu, all_set, any_set, access.smap_override);
    if !rights.contains(access.needs()) {
        return fault(PageFault::PRESENT);
    }
    let write = access.kind == AccessKind::Write;
    for (depth, &(physical, old)) in path.iter().enumerate().rev() {
        let is_leaf = depth as u32 == level - 1;
        let new = old | A | if is_leaf && write { D } else { 0 };
        if old & P != 0 && new != old && !format.exchange(memory, physical, old, new) {
            return Ok(None);
        }
    }
    if entry & D == 0 && !write {
        rights -= Rights::WRITE;
    }
    let page_bits = format.shift(level);
    Ok(Some(Translation {
        physical: page | linear & ((1 << page_bits) - 1),
        page_bits,
        rights,
        global: entry & G != 0 && cpu.cr4.contains(Cr4::PGE),
    }))
}
