//! The linear addresses that both sides map, and the memory behind them.
//!
//! ```text
//! 0x4000_0000  nothing
//!         1000  code, 2 pages: read and execute
//!         3000  nothing
//!         4000  data, 2 pages: read and write
//!         6000  nothing
//!         7000  constants, 1 page: read
//!         8000  nothing
//!         9000  stack, 2 pages: read and write
//!         b000  nothing
//! ```
//!
//! All of it lies below 2 GiB, so that 32-bit addresses and sign-extended displacements reach it.

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// The processors' linear address of everything below.
pub const BASE: u64 = 0x4000_0000;

/// Consecutive pages with the same rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Area {
    /// What failure reports call it.
    pub name: &'static str,
    /// Linear address of the first byte.
    pub linear: u64,
    /// Offset of the first byte in [`Memory`].
    pub offset: usize,
    /// Number of pages.
    pub pages: usize,
    /// May be written.
    pub writable: bool,
    /// May be executed.
    pub executable: bool,
}

impl Area {
    /// Bytes.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.pages * PAGE as usize
    }

    /// The linear address behind the last byte.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.linear + self.size() as u64
    }
}

const fn area(name: &'static str, page: u64, offset: usize, pages: usize) -> Area {
    let offset = offset * PAGE as usize;
    Area { name, linear: BASE + page * PAGE, offset, pages, writable: true, executable: false }
}

/// Where the tested instructions lie.
pub const CODE: Area = Area { writable: false, executable: true, ..area("code", 1, 0, 2) };
/// Where most memory operands lie.
pub const DATA: Area = area("data", 4, 2, 2);
/// Where memory operands may not be written.
pub const CONSTANTS: Area = Area { writable: false, ..area("constants", 7, 4, 1) };
/// Where the stack pointer points.
pub const STACK: Area = area("stack", 9, 5, 2);
/// All of them, in the order of their offsets.
pub const AREAS: [Area; 4] = [CODE, DATA, CONSTANTS, STACK];
/// Bytes of all areas.
pub const MEMORY_SIZE: usize = 7 * PAGE as usize;

/// The contents of all areas, one after the other.
pub type Memory = [u8; MEMORY_SIZE];

/// Where `linear` lies in [`Memory`], if `size` bytes there are mapped in one area.
#[must_use]
pub fn offset_of(linear: u64, size: usize) -> Option<usize> {
    AREAS.iter().find_map(|area| {
        let offset = usize::try_from(linear.checked_sub(area.linear)?).ok()?;
        (offset.checked_add(size)? <= area.size()).then(|| area.offset + offset)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_fill_the_memory_and_leave_gaps_between_their_addresses() {
        let mut offset = 0;
        let mut end = BASE;
        for area in AREAS {
            assert_eq!(area.offset, offset);
            assert!(area.linear >= end + PAGE);
            offset += area.size();
            end = area.end();
        }
        assert_eq!(offset, MEMORY_SIZE);
    }

    #[test]
    fn only_mapped_addresses_have_an_offset() {
        assert_eq!(offset_of(DATA.linear + 5, 8), Some(DATA.offset + 5));
        assert_eq!(offset_of(DATA.end() - 4, 8), None);
        assert_eq!(offset_of(DATA.linear - 1, 1), None);
        assert_eq!(offset_of(u64::MAX, 1), None);
    }
}
