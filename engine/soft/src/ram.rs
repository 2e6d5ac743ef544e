//! Where the guest's physical memory lies in the host, and which of it holds decoded code.
//!
//! Blocks of decoded code are private to each processor, but a write by any of them must invalidate the blocks of all.
//! Therefore every page has a [`CodePage`]: which of its 64-byte lines have been decoded from, and a version. Blocks remember
//! the version and are stale when it has moved on.
//!
//! ```text
//! writer                                       decoder ([`Ram::decode_begins`])
//! store the bytes                              read the version
//! page without lines? then nothing to do       set the lines
//! fence                                        the page's first under this version: barrier on all threads
//! none of the written lines? nothing to do     read the bytes
//! clear the lines
//! move the version on
//! ```
//!
//! One of the two always sees the other. A writer that finds no lines in the page does so without a fence: it would have
//! to read them before its store becomes visible, and the decoder's barrier waits that out. Once a page has lines, writers
//! fence by themselves, so one barrier for each page and version is enough; a decoder that relies on an earlier one's
//! barrier has read the same version, and is stale if the lines were cleared since.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use tern_engine::{GuestMemory, WriteWatch};
use vm_memory::{Address, GuestMemoryBackend, GuestMemoryRegion};

use crate::host;

/// Bytes of a page.
pub const PAGE: u64 = 4096;

/// What is known of code in one page of RAM.
#[derive(Debug, Default)]
pub struct CodePage {
    /// Bit `n`: something was decoded from bytes `64n..64n+64`.
    lines: AtomicU64,
    /// Moves on whenever such a line is written.
    version: AtomicU32,
    /// One more than the version under which the barrier was made; see the head of this file.
    fenced: AtomicU32,
}

impl CodePage {
    /// A page without decoded code.
    pub const fn new() -> Self {
        Self { lines: AtomicU64::new(0), version: AtomicU32::new(0), fenced: AtomicU32::new(0) }
    }

    /// The present version.
    #[inline(always)]
    pub fn version(&self) -> u32 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether anything was decoded from the page.
    #[inline(always)]
    pub fn has_code(&self) -> bool {
        self.lines.load(Ordering::Relaxed) != 0
    }

    /// After a write of `size` (at most a page) bytes at `offset`: whether it hit code, whose blocks are stale now.
    #[cold]
    pub fn written(&self, offset: u64, size: u64) -> bool {
        fence(Ordering::SeqCst);
        if self.lines.load(Ordering::SeqCst) & lines(offset, size) == 0 {
            return false;
        }
        self.lines.store(0, Ordering::SeqCst);
        self.version.fetch_add(1, Ordering::SeqCst);
        CODE_CHANGES.fetch_add(1, Ordering::SeqCst);
        true
    }
}

/// How often any page's version has moved on, in any machine of this process.
static CODE_CHANGES: AtomicU64 = AtomicU64::new(0);

/// A number that moves on whenever a page's version has done so: code that became stale before it moved is found so by whoever has read
/// this number first.
#[inline(always)]
pub fn code_changes() -> u64 {
    CODE_CHANGES.load(Ordering::Acquire)
}

/// The lines that `size` bytes at `offset` of a page touch.
fn lines(offset: u64, size: u64) -> u64 {
    let first = offset % PAGE / 64;
    let last = ((offset % PAGE + size.max(1) - 1) / 64).min(63);
    u64::MAX << first & u64::MAX >> (63 - last)
}

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
    several_processors: bool,
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
        let several_processors = cpus > 1;
        if several_processors {
            membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED)?;
        }
        // SAFETY: all-zero bytes are the valid default of the atomics in a CodePage.
        let pages: Arc<[CodePage]> = unsafe { Arc::new_zeroed_slice(pages).assume_init() };
        for region in &regions {
            let (first, pages) = (region.first_page, Arc::clone(&pages));
            region.watch.listen(Box::new(move |offset, length| written(&pages[first..], offset, length)));
        }
        Ok(Self { regions, pages, several_processors, memory })
    }

    /// Whether other processors may write what one decodes.
    pub const fn has_several_processors(&self) -> bool {
        self.several_processors
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

    /// Announces that code at `offset` of the page is about to be decoded, and returns the version the block will have.
    pub fn decode_begins(&self, page: &CodePage, offset: u64, size: u64) -> u32 {
        let version = page.version.load(Ordering::SeqCst);
        page.lines.fetch_or(lines(offset, size), Ordering::SeqCst);
        let mark = version.wrapping_add(1);
        if self.several_processors && page.fenced.load(Ordering::SeqCst) != mark {
            // Registered above, the command cannot fail.
            let _ = membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
            page.fenced.store(mark, Ordering::SeqCst);
        }
        version
    }

    /// All of memory may have changed, while no processor ran: whatever was decoded is stale.
    pub fn replaced(&self) {
        for page in self.pages.iter().filter(|page| page.has_code()) {
            page.written(0, PAGE);
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
            page.code.written(physical % PAGE, size);
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
            page.written(start % PAGE, end - start + 1);
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

/// A memory barrier on all threads of this process that are running.
fn membarrier(command: libc::c_int) -> std::io::Result<()> {
    // SAFETY: the system call has no memory operands.
    match unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_cover_what_a_write_touches() {
        assert_eq!(lines(0, 1), 1);
        assert_eq!(lines(63, 2), 0b11);
        assert_eq!(lines(4095, 1), 1 << 63);
        assert_eq!(lines(0, 4096), u64::MAX);
        assert_eq!(lines(4090, 100), 1 << 63);
    }

    #[test]
    fn what_the_machine_writes_moves_the_versions_of_decoded_lines() {
        let pages = [CodePage::default(), CodePage::default(), CodePage::default()];
        pages.iter().for_each(|page| page.lines.store(1, Ordering::SeqCst));
        let versions = || pages.each_ref().map(CodePage::version);
        written(&pages, 64, PAGE - 64);
        assert_eq!(versions(), [0, 0, 0]);
        written(&pages, 63, 2 * PAGE);
        assert_eq!(versions(), [1, 1, 1]);
        written(&pages, 3 * PAGE, u64::MAX);
        assert_eq!(versions(), [1, 1, 1]);
    }

    #[test]
    fn only_writes_to_decoded_lines_move_the_version() {
        let page = CodePage::default();
        page.lines.store(0b10, Ordering::SeqCst);
        assert!(!page.written(0, 64));
        assert!(page.written(60, 8));
        assert_eq!(page.version(), 1);
        assert!(!page.written(60, 8));
    }
}
