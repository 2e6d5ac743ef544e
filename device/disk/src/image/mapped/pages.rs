//! Pages of a file's metadata in memory. What is changed stays there until it is taken to be written.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::map::Change;
use crate::storage::Storage;

/// Pages of one size, by their offset in the file.
#[derive(Debug)]
pub(crate) struct Pages {
    storage: Arc<dyn Storage>,
    size: usize,
    /// How many are kept.
    most: usize,
    pages: HashMap<u64, Page>,
    dirty: usize,
    clock: u64,
}

#[derive(Debug)]
struct Page {
    bytes: Box<[u8]>,
    /// Changed since it was last taken.
    is_dirty: bool,
    /// Taken, and maybe not yet in the file.
    is_taken: bool,
    used: u64,
}

impl Pages {
    /// Pages of `size` bytes, a power of two from 512, about `most` of them at a time.
    pub(crate) fn new(storage: Arc<dyn Storage>, size: usize, most: usize) -> Self {
        Self { storage, size, most, pages: HashMap::new(), dirty: 0, clock: 0 }
    }

    /// Bytes of a page.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    fn split(&self, offset: u64) -> (u64, usize) {
        let within = offset % self.size as u64;
        // A remainder of a usize fits.
        (offset - within, within as usize)
    }

    /// The bytes from `offset` to the end of its page.
    pub(crate) fn get(&mut self, offset: u64) -> io::Result<&[u8]> {
        let (start, within) = self.split(offset);
        Ok(&self.page(start)?.bytes[within..])
    }

    /// The same, to be changed.
    pub(crate) fn change(&mut self, offset: u64) -> io::Result<&mut [u8]> {
        let (start, within) = self.split(offset);
        self.page(start)?;
        let Some(page) = self.pages.get_mut(&start) else { return Err(io::ErrorKind::NotFound.into()) };
        self.dirty += usize::from(!page.is_dirty);
        page.is_dirty = true;
        Ok(&mut page.bytes[within..])
    }

    fn page(&mut self, start: u64) -> io::Result<&Page> {
        self.clock += 1;
        if !self.pages.contains_key(&start) {
            let mut bytes = vec![0; self.size];
            self.storage.read_at(&mut bytes, start)?;
            self.put(start, bytes, false);
        }
        let clock = self.clock;
        let page = self.pages.get_mut(&start).ok_or(io::ErrorKind::NotFound)?;
        page.used = clock;
        Ok(page)
    }

    fn put(&mut self, start: u64, bytes: Vec<u8>, is_dirty: bool) {
        if self.pages.len() >= self.most {
            self.make_room();
        }
        let page = Page { bytes: bytes.into(), is_dirty, is_taken: false, used: self.clock };
        self.dirty += usize::from(is_dirty);
        if self.pages.insert(start, page).is_some_and(|old| old.is_dirty) {
            self.dirty -= 1;
        }
    }

    /// Puts new contents from `offset` on, whole pages, over whatever was there.
    pub(crate) fn replace(&mut self, offset: u64, bytes: &[u8]) {
        self.clock += 1;
        for (index, part) in bytes.chunks(self.size).enumerate() {
            self.put(offset + (index * self.size) as u64, part.to_vec(), true);
        }
    }

    /// Forgets the pages from `offset` on: they hold no metadata any more.
    pub(crate) fn forget(&mut self, offset: u64, length: u64) {
        for start in (offset..offset + length).step_by(self.size) {
            if self.pages.remove(&start).is_some_and(|old| old.is_dirty) {
                self.dirty -= 1;
            }
        }
    }

    /// Drops half of what is in the file: what was not used for longest.
    fn make_room(&mut self) {
        let is_in_file = |page: &&Page| !page.is_dirty && !page.is_taken;
        let mut ages: Vec<u64> = self.pages.values().filter(is_in_file).map(|page| page.used).collect();
        ages.sort_unstable();
        let limit = ages.get(ages.len() / 2).copied().unwrap_or(0);
        self.pages.retain(|_, page| page.is_dirty || page.is_taken || page.used > limit);
    }

    /// Takes all changes, in the order of the file.
    pub(crate) fn take(&mut self) -> Vec<Change> {
        let mut changes = Vec::with_capacity(self.dirty);
        for (offset, page) in &mut self.pages {
            if page.is_dirty {
                (page.is_dirty, page.is_taken) = (false, true);
                changes.push(Change { offset: *offset, bytes: page.bytes.to_vec() });
            }
        }
        self.dirty = 0;
        changes.sort_unstable_by_key(|change| change.offset);
        changes
    }

    /// What was taken is in the file, or else is to be taken again.
    pub(crate) fn settle(&mut self, is_written: bool) {
        for page in self.pages.values_mut().filter(|page| page.is_taken) {
            page.is_taken = false;
            if !is_written && !page.is_dirty {
                page.is_dirty = true;
                self.dirty += 1;
            }
        }
    }

    /// How many pages wait to be taken.
    pub(crate) fn dirty(&self) -> usize {
        self.dirty
    }

    /// Whether so many wait that there is soon no room for others.
    pub(crate) fn is_pressed(&self) -> bool {
        self.dirty > self.most / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryStorage;

    fn pages() -> (Arc<MemoryStorage>, Pages) {
        let storage = Arc::new(MemoryStorage::new((0..=255).cycle().take(64 * 512).collect()));
        (Arc::clone(&storage), Pages::new(storage, 512, 4))
    }

    #[test]
    fn changes_stay_in_memory_until_they_are_taken() {
        let (storage, mut pages) = pages();
        pages.change(515).unwrap()[0] = 99;
        assert_eq!(storage.bytes()[515], 3);
        let taken = pages.take();
        assert_eq!((taken.len(), taken[0].offset, taken[0].bytes[3]), (1, 512, 99));
        assert_eq!(pages.dirty(), 0);
    }

    #[test]
    fn what_is_not_in_the_file_is_never_forgotten() {
        let (_, mut pages) = pages();
        for page in 0..20 {
            pages.change(page * 512).unwrap()[0] = 77;
        }
        for page in 20..60 {
            assert_eq!(pages.get(page * 512).unwrap()[1], 1);
        }
        assert_eq!(pages.take().len(), 20);
        for page in 20..60 {
            pages.get(page * 512).unwrap();
        }
        for page in 0..20 {
            assert_eq!(pages.get(page * 512).unwrap()[0], 77);
        }
        pages.settle(false);
        assert_eq!(pages.take().len(), 20);
        pages.settle(true);
        assert_eq!(pages.take().len(), 0);
        for page in 20..60 {
            pages.get(page * 512).unwrap();
        }
        assert!(pages.pages.len() <= 8, "{}", pages.pages.len());
    }
}
