//! Growing and shrinking: `qcow2.txt` has no section for that; it follows from what the header says.

use std::sync::Arc;

use super::header::{Header, MOST_L1, field};
use super::map::read_l1;
use super::refcount::Refcounts;
use super::{Qcow2, open, read_header, read_snapshots};
use crate::error::Fault;
use crate::image::Image;
use crate::image::mapped::{Cleared, Map};
use crate::storage::Storage;

/// Gives the disk more room. Where `backing`, which has `below` bytes, has something beyond the old end, zeros are put before it.
pub(crate) fn grow(
    storage: &Arc<dyn Storage>,
    header: &Header,
    backing: Option<Arc<dyn Image>>,
    below: u64,
    size: u64,
) -> Result<(), Fault> {
    let (snapshots, _) = read_snapshots(&**storage, header)?;
    if snapshots.iter().any(|snapshot| snapshot.size.is_none()) {
        return Err(Fault::Unsupported(
            "has internal snapshots that do not say how large the disk was: remove them first, with `qemu-img snapshot -d`".to_owned(),
        ));
    }
    let needed = size.div_ceil(header.cluster() * header.l2_entries());
    if needed * 8 > MOST_L1 || size > super::header::MOST_SIZE {
        return Err(Fault::Unsupported(format!(
            "cannot have {size} bytes in clusters of {}: convert it to one with larger clusters",
            header.cluster()
        )));
    }
    if needed > u64::from(header.l1_size) {
        move_l1(storage, header, needed)?;
    }
    let old = header.size;
    storage.write_at(&size.to_be_bytes(), field::SIZE)?;
    storage.sync()?;
    // What was beyond the end may be anything: the rest of the last cluster, and what lies below.
    let new_header = read_header(&**storage)?;
    let image: Qcow2 = open(Arc::clone(storage), &new_header, backing, true, true)?;
    let end = old.next_multiple_of(header.cluster()).max(below).min(size);
    if end > old {
        image.write_zeroes(old, end - old, true)?;
    }
    image.flush()?;
    Ok(())
}

/// Moves the L1 table to where it has room for `entries`.
fn move_l1(storage: &Arc<dyn Storage>, header: &Header, entries: u64) -> Result<(), Fault> {
    let (snapshots, length) = read_snapshots(&**storage, header)?;
    let mut counts = Refcounts::open(Arc::clone(storage), header, true)?;
    let clusters = (entries * 8).div_ceil(header.cluster());
    // Nothing that is in use may be taken for free, whatever the counts say.
    let map = super::Qcow2Map::open(Arc::clone(storage), header, &snapshots, length, None)?;
    let place = counts.allocate_together(clusters, |cluster| map.has_table_at(cluster))?;
    let old = read_l1(&**storage, header.l1_offset, header.l1_size)?;
    let mut bytes: Vec<u8> = old.iter().flat_map(|entry| entry.0.to_be_bytes()).collect();
    bytes.resize((clusters * header.cluster()) as usize, 0);
    storage.write_at(&bytes, place)?;
    for change in counts.take() {
        storage.write_at(&change.bytes, change.offset)?;
    }
    counts.settle(true);
    storage.sync()?;
    // One write within a sector: the old table counts, or the new one.
    let mut fields = u32::try_from(entries).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    fields.extend(place.to_be_bytes());
    storage.write_at(&fields, field::L1_SIZE)?;
    storage.sync()?;
    let old_clusters = (u64::from(header.l1_size) * 8).div_ceil(header.cluster());
    for cluster in 0..old_clusters {
        counts.lower((header.l1_offset >> header.cluster_bits) + cluster)?;
    }
    for change in counts.take() {
        storage.write_at(&change.bytes, change.offset)?;
    }
    counts.settle(true);
    storage.sync()?;
    Ok(())
}

/// Cuts off what is beyond `size`.
pub(crate) fn shrink(
    storage: &Arc<dyn Storage>,
    header: &Header,
    backing: Option<Arc<dyn Image>>,
    size: u64,
) -> Result<(), Fault> {
    if header.snapshots > 0 {
        return Err(Fault::Unsupported(
            "has internal snapshots, and cannot shrink below them: remove them first, with `qemu-img snapshot -d`".to_owned(),
        ));
    }
    // The end first: a disk that is shorter than its clusters is sound, the reverse is not.
    storage.write_at(&size.to_be_bytes(), field::SIZE)?;
    storage.sync()?;
    let image: Qcow2 = open(Arc::clone(storage), header, backing, true, true)?;
    let cluster = header.cluster();
    let (first, last) = (size.div_ceil(cluster), header.size.div_ceil(cluster));
    image.with_map(|map| map.clear(first, last - first, Cleared::Absent))?;
    image.flush()?;
    image.flush()?;
    Ok(())
}
