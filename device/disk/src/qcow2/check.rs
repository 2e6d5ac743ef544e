//! Whether a qcow2 file keeps its own rules, and mending it.
//!
//! Counts that are too high waste space, nothing else. Counts that are too low, and entries that claim to be alone where they are
//! not, lose data some day. References that lead nowhere have lost it.

use std::io;
use std::sync::Arc;

use super::census::{self, Census, Problems};
use super::entry::{COPIED, L2Entry};
use super::header::{Header, field, incompatible};
use super::map::read_l1;
use super::refcount::Refcounts;
use super::snapshot::Snapshot;
use crate::bytes::be64_at;
use crate::image::mapped::Method;
use crate::storage::Storage;

/// What a check found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// What loses data now or some day, and was not mended.
    pub damages: Problems,
    /// Clusters that are counted and not used.
    pub leaked: u64,
    /// How much was mended.
    pub mended: u64,
    /// Clusters of the disk that have data in this file.
    pub data: u64,
    /// How many of them are compressed.
    pub compressed: u64,
}

/// Checks an image, which nobody writes meanwhile, and mends what can be mended if `is_mended`.
///
/// # Errors
/// The file cannot be read or written, or is hostile.
pub(crate) fn check(
    storage: &Arc<dyn Storage>,
    header: &Header,
    snapshots: &[Snapshot],
    snapshots_length: u64,
    is_mended: bool,
    told: &mut dyn FnMut(u64, u64),
) -> io::Result<Findings> {
    let Census { counts, problems, data, compressed, .. } =
        census::take(&**storage, header, snapshots, snapshots_length, told)?;
    let mut findings = Findings { damages: problems, data, compressed, ..Findings::default() };
    // What leads nowhere cannot be mended here, and counts that were made from it would not be right.
    let is_mended = is_mended && findings.damages.count == 0;
    let mut refcounts = Refcounts::open(Arc::clone(storage), header, true)?;
    compare_counts(&mut refcounts, &counts, header, is_mended, &mut findings)?;
    if is_mended {
        refcounts.write()?;
        storage.sync()?;
    }
    compare_flags(&**storage, header, &counts, is_mended, &mut findings)?;
    if is_mended {
        let known = header.incompatible & !(incompatible::DIRTY | incompatible::CORRUPT);
        if header.version >= 3 && known != header.incompatible {
            storage.write_at(&known.to_be_bytes(), field::INCOMPATIBLE)?;
        }
        storage.sync()?;
    }
    Ok(findings)
}

/// Compares the counts in the file with what was counted.
fn compare_counts(
    refcounts: &mut Refcounts,
    counts: &census::Counts,
    header: &Header,
    is_mended: bool,
    findings: &mut Findings,
) -> io::Result<()> {
    for (cluster, expected) in counts.iter() {
        let expected = u64::from(expected);
        let found = refcounts.get(cluster)?;
        if found >= expected {
            continue;
        }
        if is_mended {
            refcounts.raise_to(cluster, expected)?;
            refcounts.write_if_pressed()?;
            findings.mended += 1;
        } else {
            let text = || format!("cluster {cluster} is used {expected} times, but counted {found} times");
            findings.damages.add(text);
        }
    }
    // What an unknown feature uses is none of our business.
    let may_lower = is_mended && header.autoclear == 0;
    refcounts.for_each_counted(|refcounts, cluster, found| {
        let expected = u64::from(counts.get(cluster));
        if found > expected {
            if may_lower && !refcounts.are_in(cluster) {
                refcounts.lower_to(cluster, expected)?;
                refcounts.write_if_pressed()?;
                findings.mended += 1;
            } else {
                findings.leaked += 1;
            }
        }
        Ok(())
    })
}

/// Compares the marks of the disk's own tables with what was counted.
fn compare_flags(
    storage: &dyn Storage,
    header: &Header,
    counts: &census::Counts,
    is_mended: bool,
    findings: &mut Findings,
) -> io::Result<()> {
    let bits = header.cluster_bits;
    let is_alone = |offset: u64| counts.get(offset >> bits) == 1;
    let file = storage.length()?;
    for (index, entry) in read_l1(storage, header.l1_offset, header.l1_size)?.into_iter().enumerate() {
        let table = entry.offset();
        if table == 0 || table >= file || !table.is_multiple_of(header.cluster()) {
            continue;
        }
        let place = header.l1_offset + index as u64 * 8;
        compare_flag(storage, place, entry.0, is_alone(table), is_mended, findings)?;
        let mut bytes = vec![0; header.cluster() as usize];
        storage.read_at(&mut bytes, table)?;
        for index in 0..header.l2_entries() {
            let entry = be64_at(&bytes, index as usize * 8).unwrap_or(0);
            match L2Entry::parse(entry, header.version, bits, Method::Deflate) {
                L2Entry::Data { offset, .. } | L2Entry::Zero { offset } if offset != 0 => {
                    let place = table + index * 8;
                    compare_flag(storage, place, entry, is_alone(offset), is_mended, findings)?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn compare_flag(
    storage: &dyn Storage,
    place: u64,
    entry: u64,
    is_alone: bool,
    is_mended: bool,
    findings: &mut Findings,
) -> io::Result<()> {
    if (entry & COPIED != 0) == is_alone {
        return Ok(());
    }
    if is_mended {
        storage.write_at(&(entry ^ COPIED).to_be_bytes(), place)?;
        findings.mended += 1;
    } else {
        let says = if is_alone { "shared, and is not" } else { "not shared, and is" };
        findings.damages.add(|| format!("the entry at {place:#x} says that its cluster is {says}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qcow2::{NewQcow2, create, read_header};
    use crate::storage::memory::MemoryStorage;

    #[test]
    fn counts_of_clusters_far_from_each_other_are_mended_in_little_memory() {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
        let mut new = NewQcow2::new(1 << 20);
        (new.cluster_bits, new.refcount_order) = (9, 6);
        create(&*storage, &new).unwrap();
        let header = read_header(&*storage).unwrap();
        let mut refcounts = Refcounts::open(Arc::clone(&storage), &header, true).unwrap();
        let mut counts = census::Counts::default();
        (0..2000).for_each(|index| counts.add(index * 64, 1));
        let mut findings = Findings::default();
        compare_counts(&mut refcounts, &counts, &header, true, &mut findings).unwrap();
        let waiting = refcounts.take().len();
        assert!(waiting <= 1024, "{waiting} pages");
        refcounts.settle(false);
        refcounts.write().unwrap();
        let header = read_header(&*storage).unwrap();
        let mut refcounts = Refcounts::open(storage, &header, true).unwrap();
        assert!((0..2000).all(|index| refcounts.get(index * 64).unwrap() == 1));
    }
}
