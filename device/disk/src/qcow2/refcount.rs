//! Who needs how many of the file's clusters, and which are free: `qcow2.txt`, "Host cluster management".
//!
//! Counts are raised in memory when a cluster is taken, and lowered when nothing in the file refers to it any more; between,
//! they may be too high on the host's disk, never too low. A cluster whose count is 0 is free.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use super::header::{self, Header, MOST_REFCOUNT_TABLE};
use crate::error::damaged;
use crate::image::mapped::{Allocated, Change, Pages};
use crate::storage::Storage;

/// Counts of all clusters.
#[derive(Debug)]
pub(super) struct Refcounts {
    storage: Arc<dyn Storage>,
    is_flushed: bool,
    cluster_bits: u32,
    /// Counts have 2 to this power bits.
    order: u32,
    table_offset: u64,
    /// Where each block of counts is; 0 if there is none.
    table: Vec<u64>,
    blocks: Pages,
    /// The entries of `table`, to be found quickly.
    own: HashSet<u64>,
    /// No cluster before this one is free.
    hint: u64,
    /// Clusters from this one on were never written.
    end: u64,
}

/// Reads entry `index` of a block that begins with `bytes` (from the byte where the entry is).
pub(super) fn get_count(bytes: &[u8], index: u64, order: u32) -> u64 {
    match order {
        0..3 => {
            let bits = 1_u32 << order;
            let shift = (index % u64::from(8 / bits)) as u32 * bits;
            u64::from(bytes[0] >> shift) & ((1 << bits) - 1)
        }
        _ => bytes[..1 << (order - 3)].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
    }
}

/// Writes entry `index`.
pub(super) fn set_count(bytes: &mut [u8], index: u64, order: u32, count: u64) {
    match order {
        0..3 => {
            let bits = 1_u32 << order;
            let shift = (index % u64::from(8 / bits)) as u32 * bits;
            let mask = ((1_u16 << bits) - 1) as u8;
            bytes[0] = bytes[0] & !(mask << shift) | (count as u8 & mask) << shift;
        }
        _ => {
            let length = 1 << (order - 3);
            bytes[..length].copy_from_slice(&count.to_be_bytes()[8 - length..]);
        }
    }
}

/// The byte of a block where entry `index` is.
pub(super) fn byte_of(index: u64, order: u32) -> u64 {
    if order < 3 { index >> (3 - order) } else { index << (order - 3) }
}

/// The largest count that fits.
pub(super) fn largest(order: u32) -> u64 {
    if order == 6 { u64::MAX } else { (1 << (1 << order)) - 1 }
}

/// Counts in a block.
pub(super) fn per_block(cluster_bits: u32, order: u32) -> u64 {
    1 << (cluster_bits + 3 - order)
}

/// Reads the table of blocks.
pub(super) fn read_table(storage: &dyn Storage, header: &Header) -> io::Result<Vec<u64>> {
    // The header was checked: at most 8 MiB.
    let length = (u64::from(header.refcount_table_clusters) * header.cluster()) as usize;
    let mut bytes = vec![0; length];
    storage.read_at(&mut bytes, header.refcount_table_offset)?;
    let entry = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    Ok(bytes.chunks_exact(8).map(entry).collect())
}

impl Refcounts {
    /// The counts of an image.
    pub(super) fn open(storage: Arc<dyn Storage>, header: &Header, is_flushed: bool) -> io::Result<Self> {
        let table = read_table(&*storage, header)?;
        if let Some(bad) = table.iter().find(|entry| !entry.is_multiple_of(header.cluster())) {
            return Err(damaged(format!("a block of refcounts is at {bad:#x}, where no cluster begins")));
        }
        let own: HashSet<u64> = table.iter().copied().filter(|offset| *offset != 0).collect();
        if own.len() < table.iter().filter(|offset| **offset != 0).count() {
            return Err(damaged("two blocks of its refcounts are at the same place"));
        }
        let end = storage.length()?.div_ceil(header.cluster());
        let page = header.cluster().min(4096) as usize;
        Ok(Self {
            blocks: Pages::new(Arc::clone(&storage), page, 1024),
            storage,
            is_flushed,
            cluster_bits: header.cluster_bits,
            order: header.refcount_order,
            table_offset: header.refcount_table_offset,
            own,
            table,
            hint: 0,
            end,
        })
    }

    fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    fn per_block(&self) -> u64 {
        per_block(self.cluster_bits, self.order)
    }

    /// Whether the counts themselves are in `cluster`.
    pub(super) fn are_in(&self, cluster: u64) -> bool {
        let offset = cluster << self.cluster_bits;
        let table = self.table_offset..self.table_offset + self.table.len() as u64 * 8;
        table.contains(&offset) || self.own.contains(&offset)
    }

    /// Where the block of cluster `cluster` is; 0 if there is none.
    fn block_of(&self, cluster: u64) -> u64 {
        let index = usize::try_from(cluster / self.per_block()).unwrap_or(usize::MAX);
        self.table.get(index).copied().unwrap_or(0)
    }

    /// How many need `cluster`.
    pub(super) fn get(&mut self, cluster: u64) -> io::Result<u64> {
        let block = self.block_of(cluster);
        if block == 0 {
            return Ok(0);
        }
        let index = cluster % self.per_block();
        let bytes = self.blocks.get(block + byte_of(index, self.order))?;
        Ok(get_count(bytes, index, self.order))
    }

    fn set(&mut self, cluster: u64, count: u64) -> io::Result<()> {
        let block = self.block_of(cluster);
        if block == 0 {
            return Err(damaged(format!("cluster {cluster} has no refcount")));
        }
        let index = cluster % self.per_block();
        let bytes = self.blocks.change(block + byte_of(index, self.order))?;
        set_count(bytes, index, self.order, count);
        Ok(())
    }

    /// One less needs `cluster`; returns how many are left. A count of 0 stays: something is wrong, and this will not make it worse.
    pub(super) fn lower(&mut self, cluster: u64) -> io::Result<Option<u64>> {
        let Some(count) = self.get(cluster)?.checked_sub(1) else { return Ok(None) };
        self.lower_to(cluster, count)?;
        Ok(Some(count))
    }

    /// One more needs `cluster`.
    pub(super) fn raise(&mut self, cluster: u64) -> io::Result<()> {
        let count = self.get(cluster)?;
        self.raise_to(cluster, count.saturating_add(1))
    }

    /// Takes `count` clusters one after the other, and tells where in the file they begin.
    pub(super) fn allocate_together(&mut self, count: u64, is_used: impl Fn(u64) -> bool) -> io::Result<u64> {
        for _ in 0..8 {
            let hint = std::mem::replace(&mut self.hint, self.end);
            let allocated = self.allocate(count, &is_used);
            self.hint = hint;
            let allocated = allocated?;
            if allocated.count == count {
                return Ok(allocated.offset);
            }
            // A block of counts ends here, and the next begins: behind it there is room.
            self.give_back(allocated);
        }
        Err(io::Error::new(
            io::ErrorKind::StorageFull,
            "the image's clusters are too small for so large a table",
        ))
    }

    /// At least `count` need `cluster`.
    pub(super) fn raise_to(&mut self, cluster: u64, count: u64) -> io::Result<()> {
        if count > largest(self.order) {
            return Err(damaged(format!(
                "cluster {cluster} is used {count} times, which its refcount cannot hold"
            )));
        }
        while self.block_of(cluster) == 0 {
            // Behind the end of the file there is room for a block.
            let free = self.end;
            let index = cluster / self.per_block();
            if self.block_of(free) == 0 {
                self.add_block(free)?;
            } else if index >= self.table.len() as u64 {
                self.grow_table(cluster)?;
            } else {
                self.set(free, 1)?;
                self.put_block(index, free, &vec![0; self.cluster() as usize])?;
            }
        }
        self.set(cluster, count)
    }

    /// Calls `action` for every cluster whose count is not 0, with the count.
    pub(super) fn for_each_counted(
        &mut self,
        mut action: impl FnMut(&mut Self, u64, u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut seen = HashSet::from([0]);
        for index in 0..self.table.len() as u64 {
            // A block that is there twice is damage, which was told, and no reason to read it forever.
            if !seen.insert(self.table[index as usize]) {
                continue;
            }
            for cluster in index * self.per_block()..(index + 1) * self.per_block() {
                let count = self.get(cluster)?;
                if count > 0 {
                    action(self, cluster, count)?;
                }
            }
        }
        Ok(())
    }

    /// Exactly `count` need `cluster`, which is fewer than it says.
    pub(super) fn lower_to(&mut self, cluster: u64, count: u64) -> io::Result<()> {
        self.set(cluster, count)?;
        if count == 0 {
            self.hint = self.hint.min(cluster);
        }
        Ok(())
    }

    /// Takes up to `count` free clusters, one after the other. `is_used` tells of those that are in use whatever their count says.
    pub(super) fn allocate(&mut self, count: u64, is_used: impl Fn(u64) -> bool) -> io::Result<Allocated> {
        loop {
            let first = self.next_free(self.hint)?;
            if is_used(first) || self.are_in(first) {
                return Err(damaged(format!(
                    "cluster {first} is in use and its refcount is 0: `tern image check --repair` mends that"
                )));
            }
            if self.block_of(first) == 0 {
                self.add_block(first)?;
                continue;
            }
            // Up to the end of the block, and all fresh or none.
            let mut limit = (first / self.per_block() + 1) * self.per_block();
            if first < self.end {
                limit = limit.min(self.end);
            }
            let mut next = first;
            while next < limit
                && next - first < count
                && self.get(next)? == 0
                && !is_used(next)
                && !self.are_in(next)
            {
                self.set(next, 1)?;
                next += 1;
            }
            let is_fresh = first >= self.end;
            self.hint = next;
            self.end = self.end.max(next);
            return Ok(Allocated { offset: first << self.cluster_bits, count: next - first, is_fresh });
        }
    }

    fn next_free(&mut self, from: u64) -> io::Result<u64> {
        let mut cluster = from;
        loop {
            if cluster >= header::MOST_SIZE >> self.cluster_bits {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let block = self.block_of(cluster);
            if block == 0 {
                return Ok(cluster);
            }
            let index = cluster % self.per_block();
            let bytes = self.blocks.get(block + byte_of(index, self.order))?;
            // To the end of the page, whose counts are in whole bytes.
            let more = if self.order < 3 {
                ((bytes.len() as u64) << (3 - self.order)) - index % (8 >> self.order)
            } else {
                bytes.len() as u64 >> (self.order - 3)
            };
            let base = if self.order < 3 { index & !((8 >> self.order) - 1) } else { index };
            let count_at = |at: u64| {
                let place = byte_of(at, self.order) - byte_of(base, self.order);
                get_count(&bytes[place as usize..], at, self.order)
            };
            match (index..index + more).find(|at| count_at(*at) == 0) {
                Some(free) => return Ok(cluster + (free - index)),
                None => cluster += more,
            }
        }
    }

    /// Clusters that were taken are free again, but may have been written.
    pub(super) fn give_back(&mut self, allocated: Allocated) {
        let first = allocated.offset >> self.cluster_bits;
        for cluster in first..first + allocated.count {
            // What cannot be given back is lost space.
            let _ = self.lower(cluster);
        }
    }

    /// Makes a block for `cluster`, which is free, at that cluster; it counts itself. It is in the file before the table tells of it.
    fn add_block(&mut self, cluster: u64) -> io::Result<()> {
        let index = cluster / self.per_block();
        if index >= self.table.len() as u64 {
            return self.grow_table(cluster);
        }
        let mut bytes = vec![0; self.cluster() as usize];
        let within = cluster % self.per_block();
        let at = byte_of(within, self.order) as usize;
        set_count(&mut bytes[at..], within, self.order, 1);
        self.put_block(index, cluster, &bytes)
    }

    /// Puts a block for entry `index` of the table at `cluster`.
    fn put_block(&mut self, index: u64, cluster: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = cluster << self.cluster_bits;
        self.storage.write_at(bytes, offset)?;
        self.sync()?;
        self.storage.write_at(&offset.to_be_bytes(), self.table_offset + index * 8)?;
        // The callers have checked the bounds.
        self.table[index as usize] = offset;
        self.own.insert(offset);
        self.end = self.end.max(cluster + 1);
        Ok(())
    }

    /// Moves the table to a larger place behind everything else, where it has room for `cluster`'s block.
    fn grow_table(&mut self, cluster: u64) -> io::Result<()> {
        let per_block = self.per_block();
        let start = self.end.max(cluster);
        let old_clusters = (self.table.len() as u64 * 8) >> self.cluster_bits;
        let last = |blocks: u64, clusters: u64| (start + blocks + clusters - 1) / per_block;
        let missing = |last: u64| {
            let indexes = start / per_block..=last;
            indexes.filter(|index| self.block_of(index * per_block) == 0).count() as u64
        };
        // The new blocks and the new table count themselves: until they fit.
        let (mut blocks, mut clusters) = (1, old_clusters * 2);
        loop {
            let last = last(blocks, clusters);
            let (more_blocks, more_clusters) = (missing(last), ((last + 1) * 8).div_ceil(self.cluster()));
            if more_blocks <= blocks && more_clusters <= clusters {
                break;
            }
            (blocks, clusters) = (blocks.max(more_blocks), clusters.max(more_clusters));
            if clusters * self.cluster() > MOST_REFCOUNT_TABLE {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        while missing(last(blocks, clusters)) < blocks {
            blocks = missing(last(blocks, clusters));
        }
        let (last, end) = (last(blocks, clusters), start + blocks + clusters);
        let mut table = self.table.clone();
        table.resize((clusters * self.cluster() / 8) as usize, 0);
        // The table has no room for `cluster`'s block, so that none of these is there. They are not written by way of `self.blocks`: a
        // commit may be under way with its pages, and after an error these are no blocks.
        let mut next = start;
        for index in start / per_block..=last {
            let mut bytes = vec![0; self.cluster() as usize];
            for cluster in start.max(index * per_block)..end.min((index + 1) * per_block) {
                let within = cluster % per_block;
                set_count(&mut bytes[byte_of(within, self.order) as usize..], within, self.order, 1);
            }
            self.storage.write_at(&bytes, next << self.cluster_bits)?;
            table[index as usize] = next << self.cluster_bits;
            next += 1;
        }
        let offset = next << self.cluster_bits;
        let bytes: Vec<u8> = table.iter().flat_map(|entry| entry.to_be_bytes()).collect();
        self.storage.write_at(&bytes, offset)?;
        self.sync()?;
        let mut field = offset.to_be_bytes().to_vec();
        field.extend_from_slice(&(clusters as u32).to_be_bytes());
        self.storage.write_at(&field, header::field::REFCOUNT_TABLE)?;
        // From here on it is the file's table, even if nobody knows whether that survives a crash.
        let old = std::mem::replace(&mut self.table_offset, offset) >> self.cluster_bits;
        self.own = table.iter().copied().filter(|offset| *offset != 0).collect();
        self.table = table;
        self.end = self.end.max(end);
        self.sync()?;
        for cluster in old..old + old_clusters {
            self.lower(cluster)?;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        if self.is_flushed { self.storage.sync() } else { Ok(()) }
    }

    /// Takes what was changed.
    pub(super) fn take(&mut self) -> Vec<Change> {
        self.blocks.take()
    }

    /// What was taken is in the file, or not.
    pub(super) fn settle(&mut self, is_written: bool) {
        self.blocks.settle(is_written);
    }

    /// Writes what was changed, while nobody else commits.
    pub(super) fn write(&mut self) -> io::Result<()> {
        for change in self.take() {
            self.storage.write_at(&change.bytes, change.offset)?;
        }
        self.settle(true);
        Ok(())
    }

    /// The same, if it is much.
    pub(super) fn write_if_pressed(&mut self) -> io::Result<()> {
        if self.is_pressed() { self.write() } else { Ok(()) }
    }

    /// Whether nothing was changed.
    pub(super) fn is_settled(&self) -> bool {
        self.blocks.dirty() == 0
    }

    /// Whether much was changed.
    pub(super) fn is_pressed(&self) -> bool {
        self.blocks.is_pressed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::memory::{Source, Target};
    use crate::qcow2::{NewQcow2, create, read_header};
    use crate::storage::Stretch;
    use crate::storage::memory::MemoryStorage;

    /// Storage that takes a number of writes and no more.
    #[derive(Debug)]
    struct Refusing {
        inner: MemoryStorage,
        writes: AtomicU64,
    }

    impl Storage for Refusing {
        fn length(&self) -> io::Result<u64> {
            self.inner.length()
        }

        fn read(&self, target: &Target<'_>, offset: u64) -> io::Result<()> {
            self.inner.read(target, offset)
        }

        fn write(&self, source: &Source<'_>, offset: u64) -> io::Result<()> {
            let left =
                self.writes.load(Ordering::Relaxed).checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
            self.writes.store(left, Ordering::Relaxed);
            self.inner.write(source, offset)
        }

        fn sync(&self) -> io::Result<()> {
            self.inner.sync()
        }

        fn set_length(&self, length: u64) -> io::Result<()> {
            self.inner.set_length(length)
        }

        fn zero(&self, offset: u64, length: u64, may_unmap: bool) -> io::Result<()> {
            self.inner.zero(offset, length, may_unmap)
        }

        fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
            self.inner.discard(offset, length)
        }

        fn stretch(&self, offset: u64, length: u64) -> io::Result<Stretch> {
            self.inner.stretch(offset, length)
        }
    }

    /// Counts whose table, of one cluster, is soon full.
    fn counts() -> (Arc<Refusing>, Refcounts) {
        let storage = Arc::new(Refusing { inner: MemoryStorage::default(), writes: u64::MAX.into() });
        let mut new = NewQcow2::new(1 << 20);
        (new.cluster_bits, new.refcount_order) = (9, 6);
        create(&*storage, &new).unwrap();
        let header = read_header(&*storage).unwrap();
        let counts = Refcounts::open(Arc::clone(&storage) as _, &header, true).unwrap();
        (storage, counts)
    }

    #[test]
    fn a_table_that_could_not_grow_leaves_nothing_to_be_written() {
        for writes in 0.. {
            let (storage, mut counts) = counts();
            while counts.end < counts.table.len() as u64 * counts.per_block() {
                counts.allocate(8, |_| false).unwrap();
            }
            storage.writes.store(writes, Ordering::Relaxed);
            if counts.allocate(1, |_| false).is_ok() {
                assert!(writes >= 3, "a block, the table and the header are written");
                return;
            }
            counts.settle(false);
            for change in counts.take() {
                assert!(counts.are_in(change.offset >> 9), "{:#x} is no block of counts", change.offset);
            }
            counts.settle(true);
            storage.writes.store(u64::MAX, Ordering::Relaxed);
            let allocated = counts.allocate(1, |_| false).unwrap();
            assert_eq!(counts.get(allocated.offset >> 9).unwrap(), 1);
        }
    }

    #[test]
    fn a_table_that_grows_leaves_a_commit_under_way_alone() {
        let (_, mut counts) = counts();
        for _ in 0..40 {
            counts.allocate(8, |_| false).unwrap();
        }
        let under_way = counts.take();
        let length = counts.table.len();
        while counts.table.len() == length {
            counts.allocate(8, |_| false).unwrap();
        }
        // It fails, and its pages are to be written by the next.
        counts.settle(false);
        let next = counts.take();
        for change in under_way {
            assert!(next.iter().any(|again| again.offset == change.offset), "{:#x} is lost", change.offset);
        }
    }

    #[test]
    fn a_grown_table_counts_itself_and_its_blocks() {
        let (storage, mut counts) = counts();
        let length = counts.table.len();
        while counts.table.len() == length {
            counts.allocate(8, |_| false).unwrap();
        }
        counts.write().unwrap();
        let header = read_header(&*storage).unwrap();
        let mut again = Refcounts::open(Arc::clone(&storage) as _, &header, true).unwrap();
        assert_eq!(again.table, counts.table);
        let table = again.table_offset >> 9;
        for cluster in table..table + u64::from(header.refcount_table_clusters) {
            assert_eq!(again.get(cluster).unwrap(), 1);
        }
        for block in again.own.clone() {
            assert_eq!(again.get(block >> 9).unwrap(), 1);
        }
    }

    #[test]
    fn counts_of_every_width_keep_to_themselves() {
        for order in 0..=6 {
            let mut bytes = vec![0; 512];
            let counts = per_block(9, order);
            let value = |index: u64| index.wrapping_mul(0x9e37_79b9_7f4a_7c15) & largest(order);
            for index in 0..counts {
                set_count(&mut bytes[byte_of(index, order) as usize..], index, order, value(index));
            }
            for index in 0..counts {
                let found = get_count(&bytes[byte_of(index, order) as usize..], index, order);
                assert_eq!(found, value(index), "2^{order} bits, {index}");
            }
        }
    }
}
