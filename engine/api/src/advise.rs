//! What the host is told about guest memory (`madvise(2)`).

#![allow(unsafe_code)]

use std::io;

use rustix::mm::{Advice, madvise};
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _, MemoryRegionAddress};

use crate::GuestMemory;

/// Asks the host for transparent huge pages, where memory is laid so that they fit.
///
/// # Errors
/// The host has none.
pub fn advise_huge_pages(memory: &GuestMemory) -> io::Result<()> {
    for region in memory.iter() {
        let start = region.get_host_address(MemoryRegionAddress(0)).map_err(io::Error::other)?;
        let length = usize::try_from(region.len()).map_err(io::Error::other)?;
        // SAFETY: the range is a mapping that `memory` keeps alive, and the advice changes nothing that it holds.
        unsafe { madvise(start.cast(), length, Advice::LinuxHugepage) }?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;

    #[test]
    fn memory_keeps_what_it_holds() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
        memory.write_obj(0x1234_u64, GuestAddress(0x20_0000)).unwrap();
        // A host without transparent huge pages says so, and nothing else happens.
        let _ = advise_huge_pages(&memory);
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0x20_0000)).unwrap(), 0x1234);
    }
}
