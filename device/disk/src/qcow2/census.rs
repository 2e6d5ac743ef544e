//! Counts who refers to which of a file's clusters, by walking everything from the header on.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

use super::entry::{L1Entry, L2Entry};
use super::header::{Header, MOST_L1};
use super::map::read_l1;
use super::refcount::read_table;
use super::snapshot::Snapshot;
use crate::bytes::be64_at;
use crate::image::mapped::Method;
use crate::storage::Storage;

/// Clusters that are counted together: few, as a hostile image's eight bytes can refer to a cluster far from all others.
const TOGETHER: usize = 16;

/// The most entries of all L1 tables: what a hostile image with many snapshots can make us read.
const MOST_ENTRIES: u64 = 16 << 20;

/// The most problems that are told in words.
const MOST_TOLD: usize = 20;

/// How often each cluster is referred to.
#[derive(Debug, Default)]
pub(super) struct Counts(HashMap<u64, Box<[u32; TOGETHER]>>);

impl Counts {
    pub(super) fn get(&self, cluster: u64) -> u32 {
        let (group, within) = Self::position(cluster);
        self.0.get(&group).map_or(0, |counts| counts[within])
    }

    pub(super) fn add(&mut self, cluster: u64, count: u32) {
        let (group, within) = Self::position(cluster);
        let place = &mut self.0.entry(group).or_default()[within];
        *place = place.saturating_add(count);
    }

    fn position(cluster: u64) -> (u64, usize) {
        (cluster / TOGETHER as u64, (cluster % TOGETHER as u64) as usize)
    }

    /// The clusters that are referred to, in order, and how often.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let mut groups: Vec<_> = self.0.iter().collect();
        groups.sort_unstable_by_key(|(group, _)| **group);
        groups.into_iter().flat_map(|(group, counts)| {
            let first = group * TOGETHER as u64;
            counts
                .iter()
                .enumerate()
                .filter(|(_, count)| **count > 0)
                .map(move |(at, count)| (first + at as u64, *count))
        })
    }
}

/// What is wrong, in words as far as it is not too much.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    /// How many.
    pub count: u64,
    /// The first of them.
    pub told: Vec<String>,
}

impl Problems {
    pub(super) fn add(&mut self, problem: impl FnOnce() -> String) {
        self.count += 1;
        if self.told.len() < MOST_TOLD {
            self.told.push(problem());
        }
    }
}

/// What the walk found.
#[derive(Debug, Default)]
pub(super) struct Census {
    pub counts: Counts,
    /// Clusters with tables: none may hold data.
    tables: HashSet<u64>,
    /// References that lead nowhere, or where they must not.
    pub problems: Problems,
    /// Clusters of the disk that have data in this file.
    pub data: u64,
    /// How many of them are compressed.
    pub compressed: u64,
}

/// Walks through the image. `told` is called with how much of how much is done.
pub(super) fn take(
    storage: &dyn Storage,
    header: &Header,
    snapshots: &[Snapshot],
    snapshots_length: u64,
    told: &mut dyn FnMut(u64, u64),
) -> io::Result<Census> {
    let mut walk =
        Walk { storage, header, file: storage.length()?, census: Census::default(), shared: Vec::new() };
    let cluster = header.cluster();
    walk.table(|| "the header".to_owned(), 0, cluster);
    walk.table(|| "the L1 table".to_owned(), header.l1_offset, u64::from(header.l1_size) * 8);
    let table = u64::from(header.refcount_table_clusters) * cluster;
    walk.table(|| "the refcount table".to_owned(), header.refcount_table_offset, table);
    for block in read_table(storage, header)?.into_iter().filter(|block| *block != 0) {
        walk.table(|| "a block of refcounts".to_owned(), block, cluster);
    }
    walk.table(|| "the snapshot table".to_owned(), header.snapshots_offset, snapshots_length);
    let active = read_l1(storage, header.l1_offset, header.l1_size)?;
    let mut entries = active.len() as u64;
    let mut l2_tables: BTreeMap<u64, (u32, bool)> = BTreeMap::new();
    walk.l1(&active, true, &mut l2_tables);
    for snapshot in snapshots {
        let length = u64::from(snapshot.l1_size) * 8;
        entries += u64::from(snapshot.l1_size);
        if length > MOST_L1 || entries > MOST_ENTRIES {
            let text = "its snapshots have larger tables than can be checked";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        walk.table(|| format!("the L1 table of snapshot '{}'", snapshot.id), snapshot.l1_offset, length);
        if snapshot.l1_offset.is_multiple_of(cluster)
            && snapshot.l1_offset.saturating_add(length) <= walk.end()
        {
            let l1 = read_l1(storage, snapshot.l1_offset, snapshot.l1_size)?;
            walk.l1(&l1, false, &mut l2_tables);
        }
    }
    let total = l2_tables.len() as u64;
    for (done, (offset, (count, is_active))) in l2_tables.into_iter().enumerate() {
        told(done as u64, total);
        walk.l2(offset, count, is_active)?;
    }
    let Walk { mut census, shared, .. } = walk;
    for (what, cluster) in shared {
        if census.tables.contains(&cluster) {
            census.problems.add(|| format!("{what} is in cluster {cluster}, where a table of the image is"));
        }
    }
    Ok(census)
}

struct Walk<'a> {
    storage: &'a dyn Storage,
    header: &'a Header,
    /// Bytes of the file.
    file: u64,
    census: Census,
    /// Clusters that are data, and referred to more than once: they may be tables too.
    shared: Vec<(&'static str, u64)>,
}

impl Walk<'_> {
    /// The end of the file's last cluster.
    fn end(&self) -> u64 {
        self.file.div_ceil(self.header.cluster()) * self.header.cluster()
    }

    /// Counts `length` bytes at `offset`, `count` times; `false` if they cannot be there.
    fn refer(&mut self, what: impl Fn() -> String, offset: u64, length: u64, count: u32) -> bool {
        if length == 0 {
            return true;
        }
        let end = offset.checked_add(length).filter(|end| *end <= self.end());
        let Some(end) = end else {
            self.census.problems.add(|| format!("{} is at {offset:#x}, beyond the end of the file", what()));
            return false;
        };
        let bits = self.header.cluster_bits;
        for cluster in offset >> bits..=(end - 1) >> bits {
            self.census.counts.add(cluster, count);
        }
        true
    }

    /// Counts a table, which is nobody else's.
    fn table(&mut self, what: impl Fn() -> String, offset: u64, length: u64) {
        if !offset.is_multiple_of(self.header.cluster()) {
            self.census.problems.add(|| format!("{} is at {offset:#x}, where no cluster begins", what()));
            return;
        }
        if self.refer(&what, offset, length, 1) && length > 0 {
            let bits = self.header.cluster_bits;
            for cluster in offset >> bits..=(offset + length - 1) >> bits {
                if !self.census.tables.insert(cluster) {
                    self.census.problems.add(|| format!("{} overlaps another table", what()));
                }
            }
        }
    }

    /// Collects the L2 tables of an L1 table: how often each is referred to, and whether the disk itself does.
    fn l1(&mut self, l1: &[L1Entry], is_active: bool, tables: &mut BTreeMap<u64, (u32, bool)>) {
        for (index, entry) in l1.iter().enumerate().filter(|(_, entry)| entry.offset() != 0) {
            let offset = entry.offset();
            if !offset.is_multiple_of(self.header.cluster()) {
                let place =
                    || format!("the L2 table of entry {index} is at {offset:#x}, where no cluster begins");
                self.census.problems.add(place);
            } else if self.refer(
                || format!("the L2 table of entry {index}"),
                offset,
                self.header.cluster(),
                1,
            ) {
                let cluster = offset >> self.header.cluster_bits;
                if self.census.tables.contains(&cluster) && !tables.contains_key(&offset) {
                    let text = || format!("the L2 table of entry {index} overlaps another table");
                    self.census.problems.add(text);
                    continue;
                }
                self.census.tables.insert(cluster);
                let (count, is_also_active) = tables.entry(offset).or_default();
                *count = count.saturating_add(1);
                *is_also_active |= is_active;
            }
        }
    }

    /// Counts what an L2 table refers to, `count` times.
    fn l2(&mut self, offset: u64, count: u32, is_active: bool) -> io::Result<()> {
        let size = self.header.cluster();
        let mut bytes = vec![0; size as usize];
        self.storage.read_at(&mut bytes, offset)?;
        for index in 0..self.header.l2_entries() as usize {
            let entry = be64_at(&bytes, index * 8).unwrap_or(0);
            let place = || format!("the cluster of entry {index} of the L2 table at {offset:#x}");
            match L2Entry::parse(entry, self.header.version, self.header.cluster_bits, Method::Deflate) {
                L2Entry::Absent | L2Entry::Zero { offset: 0 } => {}
                L2Entry::Zero { offset } | L2Entry::Data { offset, .. } => {
                    if !offset.is_multiple_of(size) {
                        let text = || format!("{} is at {offset:#x}, where none begins", place());
                        self.census.problems.add(text);
                        continue;
                    }
                    self.refer(place, offset, size, count);
                    self.census.data += u64::from(is_active);
                    let cluster = offset >> self.header.cluster_bits;
                    if self.census.counts.get(cluster) > count {
                        self.shared.push(("a cluster of the disk", cluster));
                    }
                }
                L2Entry::Compressed(packed) => {
                    // The length is in sectors, and may go beyond the end of the file.
                    let length = packed.length.min(self.end().saturating_sub(packed.offset)).max(1);
                    self.refer(place, packed.offset, length, count);
                    self.census.data += u64::from(is_active);
                    self.census.compressed += u64::from(is_active);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_far_from_all_others_costs_little_memory() {
        let mut counts = Counts::default();
        let far = |index: u64| index << 20;
        (0..1000).for_each(|index| counts.add(far(index), 3));
        let held: usize = counts.0.values().map(|counts| size_of_val(&**counts)).sum();
        assert!(held <= 1000 * 128, "{held} bytes");
        assert!(counts.iter().eq((0..1000).map(|index| (far(index), 3))));
    }
}
