//! Where the guest's physical memory lies in the host, and who is told of writes to it.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use tern_engine::{GuestMemory, WriteWatch};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use crate::code_page::{CodePage, Readers};
use crate::host;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

#[derive(Debug)]
struct Region {
    start: u64,
    length: u64,
    host: u64,
    first_page: usize,
    /// Notes written pages, and tells of what the machine itself writes.
    watch: WriteWatch,
}

/// One page of RAM.
#[derive(Debug, Clone, Copy)]
pub struct RamPage<'a> {
    /// Host address of its first byte.
    pub host: u64,
    /// What is known of code in it.
    pub code: &'a CodePage,
    /// Where it is noted that the page was written, and the page's place there.
    watch: &'a WriteWatch,
    offset: u64,
}

impl RamPage<'_> {
    /// Notes that the page was written, or may be from now on without another note, if a log is kept.
    pub fn note_write(&self) {
        self.watch.note(self.offset, PAGE);
    }

    /// Whether written pages are noted: then a page may be written only after a note.
    pub fn is_logged(&self) -> bool {
        self.watch.is_logging()
    }
}

/// The guest's physical memory.
#[derive(Debug)]
pub struct Ram {
    regions: Vec<Region>,
    pages: Arc<[CodePage]>,
    readers: Readers,
    /// Keeps the mappings alive.
    memory: GuestMemory,
}

impl Ram {
    /// The memory of a machine with `cpus` processors.
    ///
    /// # Errors
    /// A region that is not in whole pages, or a host without the barrier that several processors need.
    pub fn new(memory: GuestMemory, cpus: u32) -> std::io::Result<Self> {
        let mut regions = Vec::new();
        let mut pages = 0;
        for region in memory.iter() {
            let (start, length) = (region.start_addr().raw_value(), region.len());
            if !start.is_multiple_of(PAGE) || !length.is_multiple_of(PAGE) {
                return Err(std::io::Error::other("guest memory must come in whole pages"));
            }
            let host = region
                .get_host_address(vm_memory::MemoryRegionAddress(0))
                .map_err(std::io::Error::other)? as u64;
            let watch = WriteWatch::of(region).clone();
            regions.push(Region { start, length, host, first_page: pages, watch });
            pages += usize::try_from(length / PAGE).map_err(std::io::Error::other)?;
        }
        let readers = Readers::new(cpus)?;
        // SAFETY: all-zero bytes are the valid default of the atomics in a CodePage.
        let pages: Arc<[CodePage]> = unsafe { Arc::new_zeroed_slice(pages).assume_init() };
        for region in &regions {
            let (first, pages) = (region.first_page, Arc::clone(&pages));
            region.watch.listen(Box::new(move |offset, length| written(&pages[first..], offset, length)));
        }
        Ok(Self { regions, pages, readers, memory })
    }

    /// The processors that decode what is written here.
    pub const fn readers(&self) -> &Readers {
        &self.readers
    }

    /// The memory, for what the engine itself writes: code there is found stale as after any write.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The page of RAM that holds `physical`.
    #[inline]
    pub fn page(&self, physical: u64) -> Option<RamPage<'_>> {
        let page = physical & !(PAGE - 1);
        let region = self.regions.iter().find(|r| page.wrapping_sub(r.start) < r.length)?;
        let offset = page - region.start;
        let code = &self.pages[region.first_page + (offset / PAGE) as usize];
        Some(RamPage { host: region.host + offset, code, watch: &region.watch, offset })
    }

    /// All of memory may have changed, while no processor ran: whatever was decoded is stale.
    pub fn replaced(&self) {
        for page in self.pages.iter().filter(|page| page.has_code()) {
            page.written(0, PAGE, u64::MAX, |_| true);
        }
    }

    /// Host address of `size` bytes that lie in one page of RAM.
    fn entry(&self, physical: u64) -> Option<u64> {
        self.page(physical).map(|page| page.host + physical % PAGE)
    }

    /// The watch over each region, with its start.
    pub fn watches(&self) -> impl Iterator<Item = (u64, &WriteWatch)> {
        self.regions.iter().map(|region| (region.start, &region.watch))
    }

    fn table_written(&self, physical: u64, size: u64) {
        let Some(page) = self.page(physical) else { return };
        page.note_write();
        if page.code.has_code() {
            page.code.written_by_machine(physical % PAGE, size);
        }
    }
}

/// The machine itself wrote `length` bytes at `offset` of a region with these `pages`. Unlike processors it cannot rely on
/// the decoder's barrier, which there is with several processors only.
fn written(pages: &[CodePage], offset: u64, length: u64) {
    if length == 0 {
        return;
    }
    fence(Ordering::SeqCst);
    let last = offset.saturating_add(length - 1);
    for number in offset / PAGE..=last / PAGE {
        let Some(page) = usize::try_from(number).ok().and_then(|number| pages.get(number)) else { return };
        if page.has_code() {
            let start = offset.max(number * PAGE);
            let end = last.min(number * PAGE + (PAGE - 1));
            page.written_by_machine(start % PAGE, end - start + 1);
        }
    }
}

/// Page tables are read and updated where they lie.
impl tern_x86::paging::PhysicalMemory for &Ram {
    fn read_u64(&mut self, physical: u64) -> Option<u64> {
        // SAFETY: an aligned entry inside one page of RAM.
        self.entry(physical & !7).map(|at| unsafe { host::load::<u64>(at) })
    }

    fn read_u32(&mut self, physical: u64) -> Option<u32> {
        // SAFETY: an aligned entry inside one page of RAM.
        self.entry(physical & !3).map(|at| unsafe { host::load::<u32>(at) })
    }

    fn exchange_u64(&mut self, physical: u64, old: u64, new: u64) -> bool {
        // SAFETY: an aligned entry inside one page of RAM.
        let done = self
            .entry(physical & !7)
            .is_some_and(|at| unsafe { host::compare_exchange(at, old, new) } == old);
        self.table_written(physical, 8);
        done
    }

    fn exchange_u32(&mut self, physical: u64, old: u32, new: u32) -> bool {
        // SAFETY: an aligned entry inside one page of RAM.
        let done = self
            .entry(physical & !3)
            .is_some_and(|at| unsafe { host::compare_exchange(at, old, new) } == old);
        self.table_written(physical, 4);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_writes_moves_the_versions_of_decoded_lines() {
        let pages = [CodePage::new(), CodePage::new(), CodePage::new()];
        let readers = Readers::new(1).unwrap();
        pages.iter().for_each(|page| assert_eq!(page.decode_begins(0, 64, &readers), 0));
        let versions = || pages.each_ref().map(CodePage::version);
        written(&pages, 64, PAGE - 64);
        assert_eq!(versions(), [0, 0, 0]);
        written(&pages, 63, 2 * PAGE);
        assert_eq!(versions(), [1, 1, 1]);
        written(&pages, 3 * PAGE, u64::MAX);
        assert_eq!(versions(), [1, 1, 1]);
    }
}
