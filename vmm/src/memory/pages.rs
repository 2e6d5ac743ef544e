//! The host's pages that guest memory is made of.
//!
//! A page of 2 MiB or 1 GiB saves the guest's first accesses (each small page costs a fault on the host) and entries in the
//! processor's TLB. Reserved ones (`hugetlbfs`) are taken whole and at once; transparent ones come where the guest touches
//! memory, if the host's policy (`/sys/kernel/mm/transparent_hugepage/enabled`) or the machine asks for them.

use std::fs;

use libc::{MAP_ANONYMOUS, MAP_HUGE_1GB, MAP_HUGE_2MB, MAP_HUGETLB, MAP_PRIVATE};
use tern_engine::{GuestMemory, WriteWatch, advise_huge_pages};
use thiserror::Error;
use vm_memory::bitmap::NewBitmap as _;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{GuestAddress, GuestRegionMmap};

/// Where the host tells its policy.
const POLICY: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// The pages of the host that guest memory is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HostPages {
    /// What the host gives to everybody.
    #[default]
    Usual,
    /// Transparent huge pages also on a host that gives them only to those who ask.
    Transparent,
    /// Reserved pages of 2 MiB.
    Huge2M,
    /// Reserved pages of 1 GiB.
    Huge1G,
}

impl HostPages {
    /// Bytes of a page; memory is a multiple of it.
    #[must_use]
    pub const fn size(self) -> u64 {
        match self {
            Self::Usual | Self::Transparent => 4 << 10,
            Self::Huge2M => 2 << 20,
            Self::Huge1G => 1 << 30,
        }
    }
}

/// The host does not give the pages.
#[derive(Debug, Error)]
pub enum HugePagesError {
    /// Too few are reserved.
    #[error(
        "the host has not {count} huge pages of {name} free: reserve them (`echo {count} | sudo tee {file}`), or leave out hugepages={name}"
    )]
    TooFew {
        /// How many are needed.
        count: u64,
        /// The size, as users write it.
        name: &'static str,
        /// The file that they are reserved with.
        file: &'static str,
    },
    /// Transparent ones are switched off.
    #[error(
        "the host's transparent huge pages are switched off: switch them on (`echo madvise | sudo tee {POLICY}`), or leave out hugepages=thp"
    )]
    NoneTransparent,
    /// Memory cannot be made of them for another reason.
    #[error("cannot make guest memory of huge pages")]
    Other(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Memory of reserved pages at these addresses, with these lengths in bytes.
///
/// # Errors
/// There are too few of them.
pub(super) fn reserved(
    pages: HostPages,
    ranges: &[(GuestAddress, usize)],
) -> Result<GuestMemory, HugePagesError> {
    let (flag, name, file) = match pages {
        HostPages::Huge1G => {
            (MAP_HUGE_1GB, "1G", "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages")
        }
        _ => (MAP_HUGE_2MB, "2M", "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"),
    };
    let bytes: u64 = ranges.iter().map(|(_, length)| *length as u64).sum();
    let too_few = || HugePagesError::TooFew { count: bytes / pages.size(), name, file };
    let mut regions = Vec::new();
    for &(start, length) in ranges {
        let region = MmapRegionBuilder::new_with_bitmap(length, WriteWatch::with_len(length))
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            // Reserved here and now: a page that is missing later would kill the process.
            .with_mmap_flags(MAP_ANONYMOUS | MAP_PRIVATE | MAP_HUGETLB | flag)
            .with_hugetlbfs(true)
            .build()
            .map_err(|_| too_few())?;
        regions.extend(GuestRegionMmap::new(region, start));
    }
    GuestMemory::from_regions(regions).map_err(|error| HugePagesError::Other(error.into()))
}

/// Asks for transparent huge pages.
///
/// # Errors
/// The host has none.
pub(super) fn ask_for_transparent(memory: &GuestMemory) -> Result<(), HugePagesError> {
    if fs::read_to_string(POLICY).is_ok_and(|policy| policy.contains("[never]")) {
        return Err(HugePagesError::NoneTransparent);
    }
    advise_huge_pages(memory).map_err(|_| HugePagesError::NoneTransparent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_no_host_has_are_missed_with_their_number_and_where_to_reserve_them() {
        let ranges = [(GuestAddress(0), 1 << 46)];
        let error = reserved(HostPages::Huge1G, &ranges).unwrap_err().to_string();
        assert!(error.contains("65536 huge pages of 1G") && error.contains("nr_hugepages"), "{error}");
    }
}
