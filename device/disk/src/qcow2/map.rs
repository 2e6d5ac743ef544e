//! Which cluster of the disk is where in the file: L1 and L2 tables, and who shares them with snapshots.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::mem;
use std::sync::Arc;

use super::entry::{COPIED, L1Entry, L2Entry, ZERO};
use super::header::Header;
use super::refcount::Refcounts;
use super::snapshot::Snapshot;
use crate::bytes::be64_at;
use crate::error::damaged;
use crate::image::mapped::{Allocated, Change, Cleared, Found, Freed, Map, Method, Pages};
use crate::storage::Storage;

/// How many pages of L2 tables are kept: 4 KiB of them tell of 32 MiB of the disk, if clusters have 64 KiB.
const PAGES: usize = 4096;

/// The most entries that [`Map::find`] looks at, so that others get at the map.
const MOST_ENTRIES: u64 = 4096;

/// Where the clusters of an image are.
#[derive(Debug)]
pub(crate) struct Qcow2Map {
    header: Header,
    has_backing: bool,
    storage: Arc<dyn Storage>,
    l1: Vec<L1Entry>,
    /// Entries of the L1 table that are not in the file.
    l1_dirty: BTreeSet<usize>,
    l1_taken: BTreeSet<usize>,
    l2: Pages,
    /// L2 tables that no L1 table in the file knows of.
    new_tables: HashSet<u64>,
    new_taken: HashSet<u64>,
    /// Counts of clusters; `None` if the image is not written.
    refcounts: Option<Refcounts>,
    /// Clusters with L2 tables: no data is ever written there.
    tables: HashSet<u64>,
    /// Nor to these, by their first cluster and the one behind their last, in order.
    fixed: Vec<(u64, u64)>,
    freed: Vec<Freed>,
    freed_taken: Vec<Freed>,
    /// Where the last compressed cluster that was written ends; 0 if none was.
    packed_end: u64,
}

/// Whether one of the stretches, which are in order, has `cluster`.
fn is_within(stretches: &[(u64, u64)], cluster: u64) -> bool {
    let before = stretches.partition_point(|(first, _)| *first <= cluster);
    before.checked_sub(1).and_then(|index| stretches.get(index)).is_some_and(|(_, end)| cluster < *end)
}

fn read_only() -> io::Error {
    io::ErrorKind::ReadOnlyFilesystem.into()
}

impl Qcow2Map {
    /// The map of an image, to be written if `refcounts` are given.
    pub(super) fn open(
        storage: Arc<dyn Storage>,
        header: &Header,
        snapshots: &[Snapshot],
        snapshots_length: u64,
        refcounts: Option<Refcounts>,
    ) -> io::Result<Self> {
        let l1 = read_l1(&*storage, header.l1_offset, header.l1_size)?;
        let page = header.cluster().min(4096) as usize;
        let mut map = Self {
            header: header.clone(),
            has_backing: header.backing.is_some(),
            l2: Pages::new(Arc::clone(&storage), page, PAGES),
            storage,
            l1,
            l1_dirty: BTreeSet::new(),
            l1_taken: BTreeSet::new(),
            new_tables: HashSet::new(),
            new_taken: HashSet::new(),
            refcounts,
            tables: HashSet::new(),
            fixed: Vec::new(),
            freed: Vec::new(),
            freed_taken: Vec::new(),
            packed_end: 0,
        };
        map.note_tables(snapshots, snapshots_length);
        Ok(map)
    }

    /// Notes where no data may be.
    fn note_tables(&mut self, snapshots: &[Snapshot], snapshots_length: u64) {
        let header = &self.header;
        let mut stretches = vec![
            (0, header.cluster()),
            (header.l1_offset, u64::from(header.l1_size) * 8),
            (header.snapshots_offset, snapshots_length),
        ];
        stretches.extend(snapshots.iter().map(|one| (one.l1_offset, u64::from(one.l1_size) * 8)));
        stretches.sort_unstable();
        for (offset, length) in stretches {
            let first = offset >> header.cluster_bits;
            let end = offset.saturating_add(length).div_ceil(header.cluster());
            match self.fixed.last_mut() {
                Some((_, last)) if *last >= first => *last = end.max(*last),
                _ => self.fixed.push((first, end)),
            }
        }
        let bits = header.cluster_bits;
        self.tables.extend(self.l1.iter().map(|entry| entry.offset() >> bits));
    }

    fn cluster(&self) -> u64 {
        self.header.cluster()
    }

    /// Whether `offset` is not where data may be.
    fn is_table(&self, offset: u64) -> bool {
        let cluster = offset >> self.header.cluster_bits;
        self.tables.contains(&cluster)
            || is_within(&self.fixed, cluster)
            || self.refcounts.as_ref().is_some_and(|counts| counts.are_in(cluster))
    }

    fn method(&self) -> Method {
        if self.header.is_zstandard { Method::Zstandard } else { Method::Deflate }
    }

    fn parse(&self, entry: u64) -> L2Entry {
        L2Entry::parse(entry, self.header.version, self.header.cluster_bits, self.method())
    }

    /// The index in the L1 table, and the place in the L2 table, for cluster `cluster` of the disk.
    fn split(&self, cluster: u64) -> (usize, u64) {
        let entries = self.header.l2_entries();
        (usize::try_from(cluster / entries).unwrap_or(usize::MAX), cluster % entries * 8)
    }

    /// The L2 table of entry `index` of the L1 table; 0 if there is none.
    fn table(&self, index: usize) -> io::Result<u64> {
        let offset = self.l1.get(index).copied().ok_or(io::ErrorKind::InvalidInput)?.offset();
        if offset.is_multiple_of(self.cluster()) {
            Ok(offset)
        } else {
            Err(damaged(format!("the L2 table of entry {index} is at {offset:#x}, where no cluster begins")))
        }
    }

    /// The entry of cluster `cluster` of the disk.
    pub(super) fn entry(&mut self, cluster: u64) -> io::Result<L2Entry> {
        let (index, within) = self.split(cluster);
        let table = self.table(index)?;
        if table == 0 {
            return Ok(L2Entry::Absent);
        }
        let entry = be64_at(self.l2.get(table + within)?, 0).unwrap_or(0);
        Ok(self.parse(entry))
    }

    fn found(&self, entry: L2Entry) -> io::Result<Found> {
        match entry {
            L2Entry::Absent => Ok(Found::Absent),
            L2Entry::Zero { .. } => Ok(Found::Zero),
            L2Entry::Compressed(packed) => Ok(Found::Packed { packed, within: 0 }),
            L2Entry::Data { offset, .. } if !offset.is_multiple_of(self.cluster()) => {
                Err(damaged(format!("a cluster is at {offset:#x}, where none begins")))
            }
            L2Entry::Data { offset, is_copied } => {
                if self.refcounts.is_some() && self.is_table(offset) {
                    return Err(damaged(format!(
                        "a cluster is at {offset:#x}, where a table of the image is"
                    )));
                }
                Ok(Found::Data { offset, is_writable: is_copied && self.refcounts.is_some() })
            }
        }
    }

    /// Takes clusters, for data or tables.
    fn take_clusters(&mut self, count: u64) -> io::Result<Allocated> {
        let bits = self.header.cluster_bits;
        let (tables, fixed) = (&self.tables, &self.fixed);
        let counts = self.refcounts.as_mut().ok_or_else(read_only)?;
        let allocated =
            counts.allocate(count, |cluster| tables.contains(&cluster) || is_within(fixed, cluster))?;
        debug_assert!(allocated.offset >> bits > 0);
        Ok(allocated)
    }

    /// The L2 table of entry `index`, made or copied if need be, to be changed.
    fn table_for_change(&mut self, index: usize) -> io::Result<u64> {
        let old = self.table(index)?;
        let entry = self.l1.get(index).copied().ok_or(io::ErrorKind::InvalidInput)?;
        if old != 0 && entry.is_copied() {
            return Ok(old);
        }
        let cluster = self.cluster();
        let mut bytes = vec![0; cluster as usize];
        if old != 0 {
            // It is shared with a snapshot, so that it was never changed in memory.
            self.storage.read_at(&mut bytes, old)?;
        }
        let new = self.take_clusters(1)?.offset;
        self.l2.replace(new, &bytes);
        self.new_tables.insert(new);
        self.tables.insert(new >> self.header.cluster_bits);
        self.l1[index] = L1Entry(new | COPIED);
        self.l1_dirty.insert(index);
        if old != 0 {
            self.freed.push(Freed { offset: old, length: cluster });
        }
        Ok(new)
    }

    /// Makes sure that the entries of `count` clusters from `cluster` on can be changed without an error.
    fn open_for_change(&mut self, cluster: u64, count: u64) -> io::Result<()> {
        let page = self.l2.size() as u64;
        let mut at = cluster;
        while at < cluster + count {
            let (index, within) = self.split(at);
            let table = self.table_for_change(index)?;
            self.l2.change(table + within)?;
            at += (page - within % page) / 8;
        }
        Ok(())
    }

    /// Changes an entry; [`Self::open_for_change`] was there before. What it pointed to is freed.
    fn set_entry(&mut self, cluster: u64, entry: u64) -> io::Result<()> {
        let (index, within) = self.split(cluster);
        let place = self.table(index)? + within;
        let bytes = self.l2.change(place)?;
        let old = be64_at(bytes, 0).unwrap_or(0);
        bytes[..8].copy_from_slice(&entry.to_be_bytes());
        let size = self.cluster();
        match self.parse(old) {
            L2Entry::Data { offset, .. } | L2Entry::Zero { offset } if offset != 0 => {
                self.freed.push(Freed { offset, length: size });
            }
            L2Entry::Compressed(packed) => {
                self.freed.push(Freed { offset: packed.offset, length: packed.length });
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a table is in `cluster`.
    pub(super) fn has_table_at(&self, cluster: u64) -> bool {
        self.is_table(cluster << self.header.cluster_bits)
    }

    /// Takes `length` bytes of the file, at most a cluster's, for a compressed cluster: where the last one ended, if there is room.
    pub(super) fn take_bytes(&mut self, length: u64) -> io::Result<u64> {
        let size = self.cluster();
        let (bits, room) =
            (self.header.cluster_bits, self.packed_end.next_multiple_of(size) - self.packed_end);
        let place = if length <= room {
            let counts = self.refcounts.as_mut().ok_or_else(read_only)?;
            counts.raise(self.packed_end >> bits)?;
            self.packed_end
        } else {
            let new = self.take_clusters(1)?.offset;
            if room > 0 && new == self.packed_end.next_multiple_of(size) {
                // It goes over into the neighbour.
                let counts = self.refcounts.as_mut().ok_or_else(read_only)?;
                counts.raise(self.packed_end >> bits)?;
                self.packed_end
            } else {
                new
            }
        };
        self.packed_end = place + length;
        Ok(place)
    }

    /// Puts a compressed cluster's place into the map: it was absent, and its bytes are in the file.
    pub(super) fn install_compressed(&mut self, cluster: u64, entry: u64) -> io::Result<()> {
        self.open_for_change(cluster, 1)?;
        self.set_entry(cluster, entry)
    }

    /// The L1 sectors that hold these entries.
    fn l1_changes(&self, indexes: &BTreeSet<usize>) -> Vec<Change> {
        let sectors: BTreeSet<usize> = indexes.iter().map(|index| index / 64).collect();
        let change = |sector: usize| {
            let entries = &self.l1[sector * 64..self.l1.len().min(sector * 64 + 64)];
            let bytes = entries.iter().flat_map(|entry| entry.0.to_be_bytes()).collect();
            Change { offset: self.header.l1_offset + sector as u64 * 512, bytes }
        };
        sectors.into_iter().map(change).collect()
    }
}

/// Reads an L1 table.
pub(super) fn read_l1(storage: &dyn Storage, offset: u64, size: u32) -> io::Result<Vec<L1Entry>> {
    let mut bytes = vec![0; size as usize * 8];
    storage.read_at(&mut bytes, offset)?;
    Ok((0..size as usize).map(|index| L1Entry(be64_at(&bytes, index * 8).unwrap_or(0))).collect())
}

impl Map for Qcow2Map {
    fn block_size(&self) -> u64 {
        self.cluster()
    }

    fn find(&mut self, offset: u64, length: u64) -> io::Result<(Found, u64)> {
        let size = self.cluster();
        let (cluster, within) = (offset >> self.header.cluster_bits, offset % size);
        let (index, _) = self.split(cluster);
        if self.table(index)? == 0 {
            // Nothing up to the end of what the L2 table would tell of.
            let span = self.header.l2_entries() * size;
            return Ok((Found::Absent, length.min(span - offset % span)));
        }
        let first = self.entry(cluster)?;
        let found = self.found(first)?;
        let mut there = size - within;
        for count in 1..MOST_ENTRIES {
            if there >= length || matches!(found, Found::Packed { .. }) {
                break;
            }
            // What comes next is told when it is asked for.
            let Ok(next) = self.entry(cluster + count).and_then(|entry| self.found(entry)) else { break };
            let is_continued = match (found, next) {
                (
                    Found::Data { offset: start, is_writable: a },
                    Found::Data { offset: next, is_writable: b },
                ) => a == b && start + count * size == next,
                _ => found == next,
            };
            if !is_continued {
                break;
            }
            there += size;
        }
        let found = match found {
            Found::Data { offset, is_writable } => Found::Data { offset: offset + within, is_writable },
            Found::Packed { packed, .. } => Found::Packed { packed, within },
            other => other,
        };
        Ok((found, length.min(there)))
    }

    fn allocate(&mut self, _block: u64, count: u64) -> io::Result<Allocated> {
        self.take_clusters(count)
    }

    fn give_back(&mut self, allocated: Allocated) {
        if let Some(counts) = &mut self.refcounts {
            counts.give_back(allocated);
        }
    }

    fn install(&mut self, block: u64, allocated: Allocated) -> io::Result<()> {
        self.open_for_change(block, allocated.count)?;
        for index in 0..allocated.count {
            self.set_entry(block + index, (allocated.offset + index * self.cluster()) | COPIED)?;
        }
        Ok(())
    }

    fn clear(&mut self, block: u64, count: u64, to: Cleared) -> io::Result<bool> {
        if self.refcounts.is_none() {
            return Err(read_only());
        }
        let entry = match to {
            Cleared::Absent => 0,
            Cleared::Zero if !self.has_backing => 0,
            Cleared::Zero if self.header.version >= 3 => ZERO,
            Cleared::Zero => return Ok(false),
        };
        let mut at = block;
        while at < block + count {
            let (index, _) = self.split(at);
            if entry == 0 && self.table(index)? == 0 {
                at = (at / self.header.l2_entries() + 1) * self.header.l2_entries();
                continue;
            }
            let old = self.entry(at)?;
            let is_done = match old {
                L2Entry::Absent => entry == 0,
                L2Entry::Zero { offset } => entry == ZERO && offset == 0,
                _ => false,
            };
            if !is_done {
                self.open_for_change(at, 1)?;
                self.set_entry(at, entry)?;
            }
            at += 1;
        }
        Ok(true)
    }

    fn prepare(&mut self) -> io::Result<Vec<Vec<Change>>> {
        let Some(counts) = &mut self.refcounts else { return Ok(Vec::new()) };
        self.new_taken = mem::take(&mut self.new_tables);
        self.l1_taken = mem::take(&mut self.l1_dirty);
        self.freed_taken = mem::take(&mut self.freed);
        let mask = !(self.header.cluster() - 1);
        let new_taken = &self.new_taken;
        let (new, known) = self
            .l2
            .take()
            .into_iter()
            .partition(|change: &Change| new_taken.contains(&(change.offset & mask)));
        let (mut first, mut second): (Vec<Change>, Vec<Change>) = (counts.take(), known);
        first.extend::<Vec<Change>>(new);
        second.extend(self.l1_changes(&self.l1_taken));
        Ok(vec![first, second])
    }

    fn committed(&mut self) -> Vec<Freed> {
        self.l2.settle(true);
        if let Some(counts) = &mut self.refcounts {
            counts.settle(true);
        }
        self.new_taken.clear();
        self.l1_taken.clear();
        mem::take(&mut self.freed_taken)
    }

    fn not_committed(&mut self) {
        self.l2.settle(false);
        if let Some(counts) = &mut self.refcounts {
            counts.settle(false);
        }
        self.new_tables.extend(self.new_taken.drain());
        self.l1_dirty.append(&mut self.l1_taken);
        self.freed.append(&mut self.freed_taken);
    }

    fn reclaim(&mut self, freed: Freed) -> io::Result<bool> {
        let (size, bits) = (self.cluster(), self.header.cluster_bits);
        let Some(counts) = &mut self.refcounts else { return Ok(false) };
        let is_whole = freed.offset.is_multiple_of(size) && freed.length.is_multiple_of(size);
        let mut is_unused = is_whole;
        let last = (freed.offset + freed.length - 1) >> bits;
        for cluster in freed.offset >> bits..=last {
            if counts.lower(cluster)? == Some(0) {
                if self.tables.remove(&cluster) {
                    self.l2.forget(cluster << bits, size);
                }
            } else {
                is_unused = false;
            }
        }
        Ok(is_unused)
    }

    fn is_settled(&self) -> bool {
        self.l2.dirty() == 0
            && self.l1_dirty.is_empty()
            && self.freed.is_empty()
            && self.refcounts.as_ref().is_none_or(Refcounts::is_settled)
    }

    fn is_pressed(&self) -> bool {
        self.l2.is_pressed()
            || self.refcounts.as_ref().is_some_and(Refcounts::is_pressed)
            || self.freed.len() > 1 << 16
    }
}
