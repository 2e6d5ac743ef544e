//! The formats of page-table entries in the three paging modes (APM volume 2, sections 5.2 and 5.3).

use super::{PHYSICAL_ADDRESS_BITS, PhysicalMemory};
use crate::cpu::Cpu;
use crate::state::{Cr0, Cr4, Efer};

/// Present.
pub(super) const P: u64 = 1 << 0;
/// Writable.
pub(super) const RW: u64 = 1 << 1;
/// Accessible from privilege level 3.
pub(super) const US: u64 = 1 << 2;
/// Accessed.
pub(super) const A: u64 = 1 << 5;
/// Dirty.
pub(super) const D: u64 = 1 << 6;
/// Page size: a large page's entry.
pub(super) const PS: u64 = 1 << 7;
/// Global.
pub(super) const G: u64 = 1 << 8;
/// No execute.
pub(super) const NX: u64 = 1 << 63;

/// The physical address in an 8-byte entry or in CR3.
const ADDRESS: u64 = (1 << PHYSICAL_ADDRESS_BITS) - (1 << 12);

/// How linear addresses are translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Two levels of 4-byte entries.
    Legacy,
    /// Three levels of 8-byte entries, the top one with four.
    Pae,
    /// Four levels of 8-byte entries.
    Long,
}

impl Format {
    /// The format in use; `None` without paging.
    pub(super) const fn of(cpu: &Cpu) -> Option<Self> {
        if !cpu.cr0.contains(Cr0::PG) {
            None
        } else if cpu.efer.contains(Efer::LMA) {
            Some(Self::Long)
        } else if cpu.cr4.contains(Cr4::PAE) {
            Some(Self::Pae)
        } else {
            Some(Self::Legacy)
        }
    }

    /// The number of levels; the page table is level 1.
    pub(super) const fn levels(self) -> u32 {
        match self {
            Self::Legacy => 2,
            Self::Pae => 3,
            Self::Long => 4,
        }
    }

    /// The physical address of the top table.
    pub(super) const fn root(self, cr3: u64) -> u64 {
        match self {
            Self::Legacy => cr3 & 0xffff_f000,
            Self::Pae => cr3 & 0xffff_ffe0,
            Self::Long => cr3 & ADDRESS,
        }
    }

    /// log2 of the bytes that one entry of `level` maps.
    pub(super) const fn shift(self, level: u32) -> u32 {
        let index_bits = match self {
            Self::Legacy => 10,
            Self::Pae | Self::Long => 9,
        };
        12 + index_bits * (level - 1)
    }

    /// The physical address of the entry for `linear` in the table of `level` at `table`.
    pub(super) const fn entry_address(self, table: u64, level: u32, linear: u64) -> u64 {
        let index = linear >> self.shift(level);
        match self {
            Self::Legacy => table + (index & 0x3ff) * 4,
            Self::Pae if level == 3 => table + (index & 3) * 8,
            Self::Pae | Self::Long => table + (index & 0x1ff) * 8,
        }
    }

    /// Reads an entry. Where there is no RAM the bus gives all ones.
    pub(super) fn read(self, memory: &mut impl PhysicalMemory, physical: u64) -> u64 {
        match self {
            Self::Legacy => u64::from(memory.read_u32(physical).unwrap_or(u32::MAX)),
            Self::Pae | Self::Long => memory.read_u64(physical).unwrap_or(u64::MAX),
        }
    }

    /// Replaces an entry if nobody else did.
    pub(super) fn exchange(
        self,
        memory: &mut impl PhysicalMemory,
        physical: u64,
        old: u64,
        new: u64,
    ) -> bool {
        match self {
            // Legacy entries were widened from 32 bits, and only their low bits are changed.
            Self::Legacy => memory.exchange_u32(physical, old as u32, new as u32),
            Self::Pae | Self::Long => memory.exchange_u64(physical, old, new),
        }
    }

    /// Whether an entry of `level` maps a page rather than naming a table.
    pub(super) const fn is_leaf(self, cpu: &Cpu, level: u32, entry: u64) -> bool {
        let large = entry & PS != 0;
        match (self, level) {
            (_, 1) => true,
            (Self::Legacy, 2) => large && cpu.cr4.contains(Cr4::PSE),
            (Self::Pae, 2) | (Self::Long, 2 | 3) => large,
            _ => false,
        }
    }

    /// The physical address that an entry holds: of the next table, or of the page it maps.
    pub(super) const fn address(self, level: u32, entry: u64, leaf: bool) -> u64 {
        match self {
            // PSE-36: bits 20:13 of a 4 MiB page's entry are bits 39:32 of its address.
            Self::Legacy if leaf && level == 2 => entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32,
            Self::Legacy => entry & 0xffff_f000,
            Self::Pae | Self::Long => {
                entry & ADDRESS & !((1 << if leaf { self.shift(level) } else { 12 }) - 1)
            }
        }
    }

    /// Whether an entry has a bit set that must be zero.
    pub(super) const fn has_reserved_bits(self, cpu: &Cpu, level: u32, entry: u64, leaf: bool) -> bool {
        let too_high = (1 << 52) - (1 << PHYSICAL_ADDRESS_BITS);
        let no_execute = if cpu.efer.contains(Efer::NXE) { 0 } else { NX };
        // Between the PAT bit (12) and the page number of a large page.
        let large = if leaf && level > 1 { (1 << self.shift(level)) - (1 << 13) } else { 0 };
        let reserved = match self {
            Self::Legacy if leaf && level == 2 => 1 << 21,
            Self::Legacy => 0,
            Self::Pae if level == 3 => 0x1e6 | too_high | (u64::MAX << 52),
            Self::Pae => no_execute | too_high | (NX - (1 << 52)) | large,
            // Large pages end at level 3, and the upper levels have no global bit.
            Self::Long if level == 4 => no_execute | too_high | PS | G,
            Self::Long if level == 3 && !leaf => no_execute | too_high | G,
            Self::Long => no_execute | too_high | large,
        };
        entry & reserved != 0
    }
}
