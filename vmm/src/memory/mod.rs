//! Guest memory in the host: anonymous, private, and taken from the host only where the guest touches it.

mod pages;

use std::error::Error;

use thiserror::Error;
use vm_memory::mmap::MmapRegionError;
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend as _, GuestMemoryError, GuestMemoryRegion, GuestRegionMmap,
};

use tern_engine::{GuestMemory, map_memory};

use crate::boot::memory_map::{HIGH_MEMORY_START, HOLE_START};

pub use pages::{HostPages, HugePagesError};

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
    let memory = usual(&ranges, &refused)?;
    if pages == HostPages::Transparent {
        pages::ask_for_transparent(&memory)?;
    }
    Ok(memory)
}

/// Memory of the host's usual pages, laid so that huge pages fit.
fn usual(
    ranges: &[(GuestAddress, usize)],
    refused: &dyn Fn(Box<dyn Error + Send + Sync>) -> MemoryError,
) -> Result<GuestMemory, MemoryError> {
    let mut regions = Vec::new();
    for &(start, length) in ranges {
        let region = map_memory(length).map_err(|error| {
            refused(match error {
                MmapRegionError::Mmap(error) => error.into(),
                other => other.into(),
            })
        })?;
        regions.extend(GuestRegionMmap::new(region, start));
    }
    GuestMemory::from_regions(regions).map_err(|error| refused(error.into()))
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
