//! qcow2, versions 2 and 3, as QEMU's `docs/interop/qcow2.txt` describes it.
//!
//! ```text
//! header.rs     the header and its extensions
//! entry.rs      entries of L1 and L2 tables
//! snapshot.rs   the table of internal snapshots
//! refcount.rs   who needs which of the file's clusters, and which are free
//! map.rs        which cluster of the disk is where
//! create.rs     new images
//! compressed.rs whole new images with compressed clusters
//! resize.rs     growing and shrinking
//! census.rs     who refers to which cluster
//! check.rs      whether a file keeps its own rules, and mending it
//! ```
//!
//! What is supported: backing files, compressed clusters (deflate and Zstandard), internal snapshots (which stay as they are),
//! zero clusters, refcounts of any width. What is not: encryption, data in another file, extended L2 entries.

mod census;
mod check;
mod compressed;
mod create;
mod entry;
mod header;
mod map;
mod refcount;
mod resize;
mod snapshot;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::disk::RangeLimits;
use crate::error::Fault;
use crate::image::mapped::{Mapped, Setup};
use crate::image::{Facts, Image};
use crate::storage::Storage;

pub(crate) use check::check;
pub(crate) use compressed::write_compressed;
pub(crate) use create::{NewQcow2, create};
pub(crate) use header::Header;
pub(crate) use map::Qcow2Map;
pub(crate) use resize::{grow, shrink};
pub(crate) use snapshot::Snapshot;

use refcount::Refcounts;

/// An open image.
pub(crate) type Qcow2 = Mapped<Qcow2Map>;

/// Reads an image's header.
///
/// # Errors
/// It is no qcow2 file, damaged, or uses something that is not supported.
pub(crate) fn read_header(storage: &dyn Storage) -> Result<Header, Fault> {
    let mut start = vec![0; 512];
    storage.read_at(&mut start, 0)?;
    if let Some(wanted) = Header::wanted(&start).filter(|wanted| *wanted > start.len()) {
        start = vec![0; wanted];
        storage.read_at(&mut start, 0)?;
    }
    Header::parse(&start)
}

/// Reads an image's internal snapshots; also tells how many bytes the table takes.
///
/// # Errors
/// The table is damaged.
pub(crate) fn read_snapshots(storage: &dyn Storage, header: &Header) -> Result<(Vec<Snapshot>, u64), Fault> {
    let read = snapshot::read(storage, header.snapshots_offset, header.snapshots);
    read.map_err(|error| Fault::Damaged(error.to_string()))
}

/// Opens an image whose header was read.
///
/// # Errors
/// It is damaged in a way that shows, or cannot be read.
pub(crate) fn open(
    storage: Arc<dyn Storage>,
    header: &Header,
    backing: Option<Arc<dyn Image>>,
    is_writable: bool,
    is_flushed: bool,
) -> Result<Qcow2, Fault> {
    let (snapshots, snapshots_length) = read_snapshots(&*storage, header)?;
    let mut header = header.clone();
    let refcounts = if is_writable {
        if header.is_corrupt() {
            return Err(Fault::Unsupported(
                "is marked as damaged, and must not be written: `tern image check --repair` may mend it"
                    .to_owned(),
            ));
        }
        if header.is_dirty() {
            mend(&storage, &header, &snapshots, snapshots_length)?;
            header = read_header(&*storage)?;
        }
        if header.autoclear != 0 {
            // What is kept there, such as dirty bitmaps, will not be kept up.
            storage.write_at(&[0; 8], header::field::AUTOCLEAR)?;
            storage.sync()?;
        }
        Some(Refcounts::open(Arc::clone(&storage), &header, is_flushed)?)
    } else {
        None
    };
    let map = Qcow2Map::open(Arc::clone(&storage), &header, &snapshots, snapshots_length, refcounts)?;
    let limits = RangeLimits { most: 1 << 30, alignment: header.cluster() as u32 };
    let facts = Facts {
        is_writable,
        block_size: 512,
        optimal_size: 4096,
        discard: is_writable.then_some(limits),
        write_zeroes: is_writable.then_some(limits),
    };
    Ok(Mapped::new(map, Setup { storage, backing, size: header.size, facts, is_flushed }))
}

/// Mends the counts of an image whose last user wrote none (`lazy_refcounts`) and did not close it.
fn mend(
    storage: &Arc<dyn Storage>,
    header: &Header,
    snapshots: &[Snapshot],
    snapshots_length: u64,
) -> Result<(), Fault> {
    let findings = check(storage, header, snapshots, snapshots_length, true, &mut |_, _| {})?;
    if findings.damages.count > 0 {
        let first = findings.damages.told.first().cloned().unwrap_or_default();
        return Err(Fault::Damaged(format!(
            "it was not closed, and its refcounts cannot be mended: {first}; it can still be read (,ro)"
        )));
    }
    Ok(())
}
