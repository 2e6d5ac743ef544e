//! What happens when the machine itself writes guest memory: the page is noted if a log of written pages is kept, and the
//! engine is told if it wants to know (the software engine forgets code that it decoded there).
//!
//! [`WriteWatch`] is the `Bitmap` of every region of [`crate::GuestMemory`]: all accesses of `vm-memory` tell it of what
//! they wrote, after they did. Whoever writes by address, such as the kernel for a device's direct read from a disk, must
//! call `mark_dirty` when the write is done.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use vm_memory::GuestRegionMmap;
use vm_memory::bitmap::{Bitmap, BitmapSlice, NewBitmap, WithBitmapSlice};

use crate::dirty::LOG_PAGE;

/// Is told that this many bytes at this offset of its region were written.
pub type WriteListener = dyn Fn(u64, u64) + Send + Sync;

/// The watch over one region of memory; clones are the same watch.
#[derive(Clone, Default)]
pub struct WriteWatch(Arc<Watched>);

#[derive(Default)]
struct Watched {
    /// The region's size, in bytes.
    length: u64,
    is_logging: AtomicBool,
    /// One bit per page, made when it is first needed.
    pages: OnceLock<Box<[AtomicU64]>>,
    listener: RwLock<Option<Box<WriteListener>>>,
}

impl WriteWatch {
    /// The watch over `region`.
    #[must_use]
    pub fn of(region: &GuestRegionMmap<Self>) -> &Self {
        // The region itself hands out slices only.
        (**region).bitmap()
    }

    /// Begins to note pages; none is noted yet.
    pub fn start(&self) {
        let _ = self.take();
        self.0.is_logging.store(true, Ordering::SeqCst);
    }

    /// Ends that.
    pub fn stop(&self) {
        self.0.is_logging.store(false, Ordering::SeqCst);
    }

    /// The noted pages, one bit each; from now on they count as not noted.
    #[must_use]
    pub fn take(&self) -> Vec<u64> {
        self.pages().iter().map(|word| word.swap(0, Ordering::SeqCst)).collect()
    }

    /// Who is told of writes, in place of whoever was before: the engine that was given the memory last.
    pub fn listen(&self, listener: Box<WriteListener>) {
        *self.0.listener.write().unwrap_or_else(PoisonError::into_inner) = Some(listener);
    }

    /// Whether pages are noted.
    #[must_use]
    #[inline]
    pub fn is_logging(&self) -> bool {
        self.0.is_logging.load(Ordering::SeqCst)
    }

    /// Notes the pages of `length` bytes at `offset`, if a log is kept.
    pub fn note(&self, offset: u64, length: u64) {
        self.0.note(offset, length);
    }

    fn pages(&self) -> &[AtomicU64] {
        self.0.pages()
    }
}

impl Watched {
    fn pages(&self) -> &[AtomicU64] {
        self.pages.get_or_init(|| {
            let words = self.length.div_ceil(LOG_PAGE).div_ceil(64);
            (0..words).map(|_| AtomicU64::new(0)).collect()
        })
    }

    fn note(&self, offset: u64, length: u64) {
        if length == 0 || !self.is_logging.load(Ordering::SeqCst) {
            return;
        }
        let pages = self.pages();
        let last = offset.saturating_add(length - 1).min(self.length.saturating_sub(1)) / LOG_PAGE;
        for page in offset / LOG_PAGE..=last {
            if let Some(word) = usize::try_from(page / 64).ok().and_then(|index| pages.get(index)) {
                word.fetch_or(1 << (page % 64), Ordering::SeqCst);
            }
        }
    }

    fn is_noted(&self, offset: u64) -> bool {
        let page = offset / LOG_PAGE;
        let word = usize::try_from(page / 64).ok().and_then(|index| self.pages.get()?.get(index));
        word.is_some_and(|word| word.load(Ordering::SeqCst) >> (page % 64) & 1 != 0)
    }
}

impl fmt::Debug for WriteWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteWatch").field("length", &self.0.length).finish_non_exhaustive()
    }
}

impl Bitmap for WriteWatch {
    fn mark_dirty(&self, offset: usize, length: usize) {
        WatchSlice { watch: &self.0, start: 0 }.mark_dirty(offset, length);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.0.is_noted(offset as u64)
    }

    fn slice_at(&self, offset: usize) -> WatchSlice<'_> {
        WatchSlice { watch: &self.0, start: offset as u64 }
    }
}

impl NewBitmap for WriteWatch {
    fn with_len(length: usize) -> Self {
        Self(Arc::new(Watched { length: length as u64, ..Watched::default() }))
    }
}

impl<'a> WithBitmapSlice<'a> for WriteWatch {
    type S = WatchSlice<'a>;
}

/// The watch over a part of a region.
#[derive(Clone, Copy)]
pub struct WatchSlice<'a> {
    watch: &'a Watched,
    start: u64,
}

impl fmt::Debug for WatchSlice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchSlice").field("start", &self.start).finish_non_exhaustive()
    }
}

impl Bitmap for WatchSlice<'_> {
    fn mark_dirty(&self, offset: usize, length: usize) {
        let offset = self.start.wrapping_add(offset as u64);
        self.watch.note(offset, length as u64);
        if let Some(listener) = &*self.watch.listener.read().unwrap_or_else(PoisonError::into_inner) {
            listener(offset, length as u64);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.watch.is_noted(self.start.wrapping_add(offset as u64))
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self { start: self.start.wrapping_add(offset as u64), ..*self }
    }
}

impl BitmapSlice for WatchSlice<'_> {}

impl WithBitmapSlice<'_> for WatchSlice<'_> {
    type S = Self;
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend as _};

    use super::*;
    use crate::GuestMemory;

    fn memory() -> GuestMemory {
        GuestMemory::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap()
    }

    fn watch(memory: &GuestMemory) -> WriteWatch {
        WriteWatch::of(memory.iter().next().unwrap()).clone()
    }

    #[test]
    fn pages_that_the_machine_writes_are_noted_while_a_log_is_kept() {
        let memory = memory();
        let watch = watch(&memory);
        memory.write_obj(1_u8, GuestAddress(0x5000)).unwrap();
        watch.start();
        assert_eq!(watch.take()[0], 0, "written before the log was started");
        memory.write_slice(&[1; 4098], GuestAddress(0x1fff)).unwrap();
        memory.read_obj::<u64>(GuestAddress(0x8000)).unwrap();
        assert_eq!(watch.take()[0], 0b1110);
        assert_eq!(watch.take()[0], 0, "taken before");
        watch.stop();
        memory.write_obj(1_u8, GuestAddress(0x5000)).unwrap();
        assert_eq!(watch.take()[0], 0);
    }

    #[test]
    fn the_listener_hears_of_every_write_with_its_place() {
        let memory = memory();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&heard);
        let listener = Box::new(move |offset, length| log.lock().unwrap().push((offset, length)));
        watch(&memory).listen(listener);
        memory.write_slice(&[7; 3], GuestAddress(0x1234)).unwrap();
        let slice = memory.get_slice(GuestAddress(0x2000), 0x100).unwrap();
        slice.subslice(0x10, 4).unwrap().copy_from(&[9_u8; 4]);
        assert_eq!(*heard.lock().unwrap(), [(0x1234, 3), (0x2010, 4)]);
    }
}
