//! Guest memory in the host: anonymous, private, and taken from the host only where the guest touches it.

mod pages;

use std::error::Error;

use thiserror::Error;
use vm_memory::mmap::{FromRangesError, MmapRegionError};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend as _, GuestMemoryError, GuestMemoryRegion, MmapRegion,
};

use tern_engine::GuestMemory;

use crate::boot::memory_map::{HIGH_MEMORY_START, HOLE_START};

pub use pages::{HostPages, HugePagesError};

/// What the host's page tables can map at once. Guest memory starts at a multiple, so that huge pages of the guest's physical
/// memory can be huge pages of the host's.
const HUGE_PAGE: usize = 2 << 20;

/// There is hardly a gap of this size among a process's mappings; a multiple of [`HUGE_PAGE`].
const NO_GAP: usize = 1 << 30;

/// How often it is tried to align memory.
const ATTEMPTS: usize = 3;

/// How much is looked at at a time when memory is cleared.
const CHUNK: usize = 64 << 10;

/// The host does not give the memory.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// There is not as much, or it is limited.
    #[error(
        "the host does not give {mebibytes} MiB of memory to the guest: ask for less with --memory, or raise the limit (`ulimit -v`, vm.overcommit_memory, the container's memory)"
    )]
    Refused {
        /// What was asked for.
        mebibytes: u64,
        /// The host's answer.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// There are no such pages.
    #[error(transparent)]
    HugePages(#[from] HugePagesError),
}

/// Makes `size` bytes of guest memory of these pages, all zero: from address 0 up to the device hole, the rest from 4 GiB on.
///
/// # Errors
/// The host refuses, or cannot address as much.
pub fn create(size: u64, pages: HostPages) -> Result<GuestMemory, MemoryError> {
    let refused =
        |source: Box<dyn Error + Send + Sync>| MemoryError::Refused { mebibytes: size >> 20, source };
    let low = size.min(HOLE_START);
    let pieces = [(0, low), (HIGH_MEMORY_START, size - low)];
    let mut ranges = Vec::new();
    for (start, length) in pieces.into_iter().filter(|(_, length)| *length > 0) {
        let length = usize::try_from(length).map_err(|error| refused(error.into()))?;
        ranges.push((GuestAddress(start), length));
    }
    if matches!(pages, HostPages::Huge2M | HostPages::Huge1G) {
        return Ok(pages::reserved(pages, &ranges)?);
    }
    let memory = aligned(&ranges, &refused)?;
    if pages == HostPages::Transparent {
        pages::ask_for_transparent(&memory)?;
    }
    Ok(memory)
}

/// Memory of the host's usual pages, laid so that huge pages fit.
fn aligned(
    ranges: &[(GuestAddress, usize)],
    refused: &dyn Fn(Box<dyn Error + Send + Sync>) -> MemoryError,
) -> Result<GuestMemory, MemoryError> {
    let make = || {
        GuestMemory::from_ranges(ranges).map_err(|error| {
            refused(match error {
                FromRangesError::MmapRegion(MmapRegionError::Mmap(error)) => error.into(),
                other => other.into(),
            })
        })
    };
    // Linux places a mapping right below the one before unless it finds a gap that is large enough. One that no gap is large
    // enough for, and that is `excess` bytes more than whole huge pages, shifts the next to a boundary; the first such may
    // find out that the memory had been in a gap. They take addresses only. Should none of this help, nothing is lost but
    // speed.
    let mut shifts = Vec::new();
    for _ in 0..ATTEMPTS {
        let memory = make()?;
        let excess = host_address(&memory) % HUGE_PAGE;
        if excess == 0 {
            return Ok(memory);
        }
        drop(memory);
        shifts.extend(MmapRegion::<()>::new(NO_GAP + excess));
    }
    make()
}

/// Where the guest's address 0 lies in the host.
fn host_address(memory: &GuestMemory) -> usize {
    memory.get_host_address(GuestAddress(0)).map_or(0, |pointer| pointer.addr())
}

/// Makes all memory zero again. What was never written stays untaken from the host.
///
/// # Errors
/// None can happen to memory that [`create`] made; the access is checked nevertheless.
pub fn clear(memory: &GuestMemory) -> Result<(), GuestMemoryError> {
    let zeros = vec![0; CHUNK];
    let mut seen = vec![0; CHUNK];
    for region in memory.iter() {
        let (mut address, end) = (region.start_addr().0, region.start_addr().0 + region.len());
        while address < end {
            let length = CHUNK.min(usize::try_from(end - address).unwrap_or(CHUNK));
            memory.read_slice(&mut seen[..length], GuestAddress(address))?;
            if seen[..length] != zeros[..length] {
                memory.write_slice(&zeros[..length], GuestAddress(address))?;
            }
            address += length as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn ranges(size: u64) -> Vec<(u64, u64)> {
        create(size, HostPages::Usual)
            .unwrap()
            .iter()
            .map(|region| (region.start_addr().0, region.len()))
            .collect()
    }

    #[test]
    fn memory_continues_above_the_device_hole() {
        assert_eq!(ranges(MIB), [(0, MIB)]);
        assert_eq!(ranges(HOLE_START), [(0, HOLE_START)]);
        assert_eq!(ranges(HOLE_START + MIB), [(0, HOLE_START), (HIGH_MEMORY_START, MIB)]);
    }

    #[test]
    fn memory_is_aligned_for_huge_pages() {
        // Other tests map memory at the same time and may come between; they cannot do so every time.
        let aligned = || host_address(&create(64 * MIB, HostPages::Usual).unwrap()).is_multiple_of(HUGE_PAGE);
        assert!((0..100).any(|_| aligned()));
    }

    #[test]
    fn transparent_huge_pages_can_be_asked_for_or_are_known_to_be_off() {
        match create(4 * MIB, HostPages::Transparent) {
            Ok(memory) => assert_eq!(memory.read_obj::<u64>(GuestAddress(2 * MIB)).unwrap(), 0),
            Err(error) => assert!(error.to_string().contains("switched off"), "{error}"),
        }
    }

    #[test]
    fn a_host_that_refuses_is_an_error_with_the_size() {
        let error = create(1 << 60, HostPages::Usual).unwrap_err();
        assert!(error.to_string().contains("1099511627776 MiB"), "{error}");
    }

    #[test]
    fn cleared_memory_is_zero_everywhere() {
        let memory = create(MIB + 4096, HostPages::Usual).unwrap();
        let places = [0, CHUNK as u64 - 1, MIB - 1, MIB + 4095].map(GuestAddress);
        for place in places {
            memory.write_obj(0xaa_u8, place).unwrap();
        }
        clear(&memory).unwrap();
        for place in places {
            assert_eq!(memory.read_obj::<u8>(place).unwrap(), 0);
        }
    }
}
