//! Guest memory's place in the host: laid so that huge pages fit, and what the host is told about it (`madvise(2)`).

#![allow(unsafe_code)]

use std::io;
use std::ptr::{NonNull, null_mut};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use vm_memory::bitmap::{Bitmap as _, NewBitmap as _};
use vm_memory::mmap::{MmapRegionBuilder, MmapRegionError};
use vm_memory::{
    GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _, MemoryRegionAddress, MmapRegion,
};

use crate::{GuestMemory, LOG_PAGE, WriteWatch};

/// What the host's page tables can map at once. Guest memory starts at a multiple, so that huge pages of the guest's physical
/// memory can be huge pages of the host's.
pub const HUGE_PAGE: usize = 2 << 20;

/// How many gaps in the process's address space are tried; others than the first are rare.
const ATTEMPTS: usize = 8;

/// Addresses that are taken, without memory.
struct Reserved {
    start: NonNull<u8>,
    length: usize,
}

impl Reserved {
    fn new(length: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at a place that the host chooses touches no memory of ours.
        let start = unsafe { mmap_anonymous(null_mut(), length, ProtFlags::empty(), flags) }?;
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at address zero"))?;
        Ok(Self { start, length })
    }

    /// Gives back all but a hole of `length` bytes at a multiple of [`HUGE_PAGE`], where the next mapping of that length
    /// goes: the host puts one into the highest gap that has room.
    fn open(self, length: usize) -> [Self; 2] {
        let skipped = self.start.addr().get().next_multiple_of(HUGE_PAGE) - self.start.addr().get();
        let behind = skipped + length;
        // SAFETY: `new` reserved a huge page more than `length`, so both places lie within what was reserved.
        let (hole, rest) = unsafe { (self.start.add(skipped), self.start.add(behind)) };
        // SAFETY: the hole is a part of a mapping of our own, in which nothing lies. Should it fail, the place stays taken.
        let _ = unsafe { munmap(hole.as_ptr().cast(), length) };
        let parts =
            [Self { start: self.start, length: skipped }, Self { start: rest, length: self.length - behind }];
        std::mem::forget(self);
        parts
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: the addresses are ours, and nothing lies there. Should it fail, they stay taken.
            let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
        }
    }
}

/// Memory of `length` bytes, all zero, which the host gives where it is touched. It starts at a multiple of [`HUGE_PAGE`] if
/// the process has the addresses.
///
/// # Errors
/// The host refuses.
pub fn map_memory(length: usize) -> Result<MmapRegion<WriteWatch>, MmapRegionError> {
    // Less than a huge page needs no place for one.
    if length < HUGE_PAGE {
        return map(length);
    }
    // Mappings that went elsewhere: into gaps that the next one must not go into.
    let mut astray = Vec::new();
    for _ in 0..ATTEMPTS {
        let Some(reserved) = length.checked_add(HUGE_PAGE).and_then(|room| Reserved::new(room).ok()) else {
            break;
        };
        let _around = reserved.open(length);
        let region = map(length)?;
        if region.as_ptr().addr().is_multiple_of(HUGE_PAGE) {
            return Ok(region);
        }
        astray.push(region);
    }
    astray.pop().map_or_else(|| map(length), Ok)
}

fn map(length: usize) -> Result<MmapRegion<WriteWatch>, MmapRegionError> {
    MmapRegionBuilder::new_with_bitmap(length, WriteWatch::with_len(length))
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_ANONYMOUS | libc::MAP_PRIVATE | libc::MAP_NORESERVE)
        .build()
}

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

/// Gives guest memory back to the host: it reads as zeros afterwards, and takes room again where it is touched. Whole pages
/// only; a part of one stays as it is.
///
/// # Errors
/// It is not memory, or of pages that the host has reserved: what is given back of these goes to whoever asks, and this machine may find
/// none when its guest touches it again.
pub fn discard(memory: &GuestMemory, address: u64, length: u64) -> io::Result<()> {
    let start = address.checked_next_multiple_of(LOG_PAGE).unwrap_or(u64::MAX);
    let end = address.saturating_add(length) & !(LOG_PAGE - 1);
    let length = usize::try_from(end.saturating_sub(start)).map_err(io::Error::other)?;
    if memory.find_region(GuestAddress(start)).is_some_and(|region| region.is_hugetlbfs() == Some(true)) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let slices = memory.get_slices(GuestAddress(start), length);
    for slice in slices.map(|slice| slice.map_err(io::Error::other)) {
        let slice = slice?;
        let place = slice.ptr_guard_mut().as_ptr();
        // SAFETY: the range is within a mapping that `memory` keeps alive. Nobody has Rust references into guest memory, which
        // its guest may change at any time; that it becomes zero is one more change.
        unsafe { madvise(place.cast(), slice.len(), Advice::LinuxDontNeed) }?;
        slice.bitmap().mark_dirty(0, slice.len());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestRegionMmap};

    use super::*;

    #[test]
    fn memory_starts_at_a_huge_page_whatever_gaps_there_are() {
        // A gap that one of 8 MiB fits into, and at no multiple.
        let gap = Reserved::new((16 << 20) + 4096).unwrap();
        let _around = gap.open(8 << 20);
        let misaligned = Reserved::new(4096).unwrap();
        for length in [2 << 20, 8 << 20, (64 << 20) + 4096] {
            // Other tests map memory at the same time and may come between; they cannot do so every time.
            let aligned = || map_memory(length).unwrap().as_ptr().addr().is_multiple_of(HUGE_PAGE);
            assert!((0..20).any(|_| aligned()), "{length:#x}");
        }
        drop(misaligned);
    }

    #[test]
    fn memory_keeps_what_it_holds() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap();
        memory.write_obj(0x1234_u64, GuestAddress(0x20_0000)).unwrap();
        // A host without transparent huge pages says so, and nothing else happens.
        let _ = advise_huge_pages(&memory);
        assert_eq!(memory.read_obj::<u64>(GuestAddress(0x20_0000)).unwrap(), 0x1234);
    }

    #[test]
    fn pages_that_the_host_has_reserved_are_kept() {
        let region = MmapRegionBuilder::new_with_bitmap(0x4000, WriteWatch::with_len(0x4000))
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_ANONYMOUS | libc::MAP_PRIVATE)
            .with_hugetlbfs(true)
            .build()
            .unwrap();
        let region = GuestRegionMmap::new(region, GuestAddress(0)).unwrap();
        let memory = GuestMemory::from_regions(vec![region]).unwrap();
        memory.write_slice(&[7; 0x4000], GuestAddress(0)).unwrap();
        assert!(discard(&memory, 0, 0x4000).is_err());
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x1000)).unwrap(), 7);
    }

    #[test]
    fn discarded_pages_are_zero_and_noted_and_parts_of_pages_stay() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0x1000), 0x8000)]).unwrap();
        memory.write_slice(&[7; 0x8000], GuestAddress(0x1000)).unwrap();
        let watch = WriteWatch::of(memory.iter().next().unwrap());
        watch.start();
        discard(&memory, 0x2800, 0x3000).unwrap();
        assert_eq!(watch.take()[0], 0b1100);
        let byte = |address| memory.read_obj::<u8>(GuestAddress(address)).unwrap();
        assert_eq!([0x2fff, 0x3000, 0x4fff, 0x5000].map(byte), [7, 0, 0, 7]);
        discard(&memory, 0x2800, 0x10).unwrap();
        assert_eq!(byte(0x2800), 7);
        for (address, length) in [(0x8000, 0x2000), (0, 0x2000), (0x1000, u64::MAX)] {
            assert!(discard(&memory, address, length).is_err(), "{address:#x}");
        }
        discard(&memory, u64::MAX, 1).unwrap();
    }
}
