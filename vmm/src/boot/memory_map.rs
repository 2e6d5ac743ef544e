//! The guest's physical memory map as firmware reports it (ACPI 6.5, section 15, "System Address Map Interfaces").

use std::ops::Range;

use thiserror::Error;

/// Where the hole for devices below 4 GiB begins: RAM that does not fit below continues at 4 GiB.
pub const HOLE_START: u64 = 0xc000_0000;
/// Where RAM continues.
pub const HIGH_MEMORY_START: u64 = 1 << 32;
/// Where low RAM ends: above lie the extended BIOS data area, video memory and the ROMs of a PC.
pub const LOW_MEMORY_END: u64 = 0x9_fc00;
/// Where RAM goes on after the ROMs. ACPI's root pointer and tables lie in the last 128 KiB before it.
pub const EXTENDED_MEMORY_START: u64 = 0x10_0000;

/// What a range of addresses is. The numbers are those of E820, PVH and multiboot alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum MemoryKind {
    /// Free for the guest.
    Ram = 1,
    /// Not RAM, or not the guest's: devices and tables.
    Reserved = 2,
    /// ACPI tables, free after the guest has read them.
    AcpiReclaimable = 3,
    /// ACPI non-volatile storage.
    AcpiNvs = 4,
}

/// A range of physical addresses of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryRegion {
    /// First address.
    pub base: u64,
    /// Bytes, at least 1; `base + length` does not wrap.
    pub length: u64,
    /// What it is.
    pub kind: MemoryKind,
}

impl MemoryRegion {
    /// The addresses.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.base..self.base + self.length
    }
}

/// A region does not fit into the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MemoryMapError {
    /// It is empty or runs past the end of the address space.
    #[error("the memory region at {base:#x} is empty or too long ({length:#x} bytes)")]
    Length {
        /// First address.
        base: u64,
        /// Bytes.
        length: u64,
    },
    /// It overlaps another one.
    #[error("the memory region at {0:#x} overlaps the one at {1:#x}")]
    Overlap(u64, u64),
}

/// The map: disjoint regions, ascending. Addresses in none of them belong to devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemoryMap {
    regions: Vec<MemoryRegion>,
}

impl MemoryMap {
    /// The map of a PC with `memory` bytes of RAM: up to [`HOLE_START`] from address 0, the rest from 4 GiB on. Of
    /// the first MiB, what lies above [`LOW_MEMORY_END`] is reserved.
    ///
    /// # Errors
    /// [`MemoryMapError::Length`] if there is no memory, or more than the address space holds.
    pub fn pc(memory: u64) -> Result<Self, MemoryMapError> {
        let mut map = Self::default();
        map.insert(0, memory.min(LOW_MEMORY_END), MemoryKind::Ram)?;
        let reserved = EXTENDED_MEMORY_START - LOW_MEMORY_END;
        map.insert(LOW_MEMORY_END, reserved, MemoryKind::Reserved)?;
        if let length @ 1.. = memory.min(HOLE_START).saturating_sub(EXTENDED_MEMORY_START) {
            map.insert(EXTENDED_MEMORY_START, length, MemoryKind::Ram)?;
        }
        if let length @ 1.. = memory.saturating_sub(HOLE_START) {
            map.insert(HIGH_MEMORY_START, length, MemoryKind::Ram)?;
        }
        Ok(map)
    }

    /// Adds a region.
    ///
    /// # Errors
    /// The region is empty, wraps, or overlaps one that is there.
    pub fn insert(&mut self, base: u64, length: u64, kind: MemoryKind) -> Result<(), MemoryMapError> {
        let end = base.checked_add(length).filter(|end| *end > base);
        let end = end.ok_or(MemoryMapError::Length { base, length })?;
        let index = self.regions.partition_point(|region| region.range().end <= base);
        if let Some(next) = self.regions.get(index).filter(|next| next.base < end) {
            return Err(MemoryMapError::Overlap(base, next.base));
        }
        self.regions.insert(index, MemoryRegion { base, length, kind });
        Ok(())
    }

    /// All regions, ascending.
    #[must_use]
    pub fn regions(&self) -> &[MemoryRegion] {
        &self.regions
    }

    /// The regions of RAM, ascending.
    pub fn ram(&self) -> impl DoubleEndedIterator<Item = Range<u64>> {
        self.regions.iter().filter(|region| region.kind == MemoryKind::Ram).map(MemoryRegion::range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn memory_above_the_hole_continues_at_4_gib() {
        let map = MemoryMap::pc(4096 * MIB).unwrap();
        let ram: Vec<_> = map.ram().collect();
        assert_eq!(ram, [0..0x9_fc00, MIB..HOLE_START, HIGH_MEMORY_START..HIGH_MEMORY_START + 1024 * MIB]);
    }

    #[test]
    fn small_machines_have_no_memory_above() {
        for (memory, end) in [(MIB, 0x9_fc00), (4096, 4096)] {
            let map = MemoryMap::pc(memory).unwrap();
            assert_eq!((map.ram().next(), map.ram().count()), (Some(0..end), 1));
        }
        assert_eq!(MemoryMap::pc(0), Err(MemoryMapError::Length { base: 0, length: 0 }));
        assert!(MemoryMap::pc(u64::MAX).is_err());
    }

    #[test]
    fn regions_stay_sorted_and_disjoint() {
        let mut map = MemoryMap::pc(256 * MIB).unwrap();
        map.insert(0xe000_0000, MIB, MemoryKind::Reserved).unwrap();
        assert_eq!(map.regions().last().unwrap().base, 0xe000_0000);
        for (base, length) in [(0xe000_0000, 1), (0xdfff_ffff, 2), (0xe00f_ffff, 1), (0, u64::MAX)] {
            assert!(matches!(
                map.insert(base, length, MemoryKind::Reserved),
                Err(MemoryMapError::Overlap(..))
            ));
        }
        assert!(map.insert(0xe010_0000, 1, MemoryKind::Reserved).is_ok());
        assert!(map.insert(u64::MAX, 1, MemoryKind::Ram).is_err());
    }
}
