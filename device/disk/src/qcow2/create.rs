//! New qcow2 files: a header, counts for what is there, and an empty L1 table.
//!
//! ```text
//! cluster 0      header, backing file's name
//! 1 ..           refcount table
//!                blocks of refcounts
//!                L1 table
//! ```

use std::io;

use super::header::{self, Header, MOST_L1, MOST_NAME, MOST_REFCOUNT_TABLE};
use super::refcount::{byte_of, per_block, set_count};
use crate::error::Fault;
use crate::storage::Storage;

/// What a new image is to be.
#[derive(Debug, Clone)]
pub(crate) struct NewQcow2 {
    /// Bytes of the disk, a multiple of 512.
    pub size: u64,
    /// 2 or 3.
    pub version: u32,
    /// Clusters have 2 to this power bytes: 9 to 21.
    pub cluster_bits: u32,
    /// Refcounts have 2 to this power bits: 0 to 6, 4 in version 2.
    pub refcount_order: u32,
    /// What it stands on: a path as it is to be written there, and its format.
    pub backing: Option<(Vec<u8>, String)>,
    /// Whether compressed clusters are Zstandard frames.
    pub is_zstandard: bool,
}

impl NewQcow2 {
    /// An image as most are.
    pub(crate) fn new(size: u64) -> Self {
        Self { size, version: 3, cluster_bits: 16, refcount_order: 4, backing: None, is_zstandard: false }
    }
}

/// Writes a new image to `storage`, which is empty.
///
/// # Errors
/// It would be too large, or cannot be written.
pub(crate) fn create(storage: &dyn Storage, new: &NewQcow2) -> Result<(), Fault> {
    let cluster = 1_u64 << new.cluster_bits;
    let l1_size = new.size.div_ceil(cluster * (cluster / 8));
    if l1_size * 8 > MOST_L1 {
        return Err(Fault::Unsupported(format!("cannot have {} bytes in clusters of {cluster}", new.size)));
    }
    if new.backing.as_ref().is_some_and(|(name, _)| name.len() > MOST_NAME.min(cluster as usize / 2 - 160)) {
        return Err(Fault::Unsupported("cannot name a backing file with so long a path".to_owned()));
    }
    let l1_clusters = (l1_size * 8).div_ceil(cluster).max(1);
    let per_block = per_block(new.cluster_bits, new.refcount_order);
    let (mut table_clusters, mut blocks) = (1, 1);
    loop {
        let all = 1 + table_clusters + blocks + l1_clusters;
        let needed = all.div_ceil(per_block);
        let needed_table = (needed * 8).div_ceil(cluster);
        if needed <= blocks && needed_table <= table_clusters {
            break;
        }
        (blocks, table_clusters) = (blocks.max(needed), table_clusters.max(needed_table));
    }
    if table_clusters * cluster > MOST_REFCOUNT_TABLE {
        return Err(Fault::Unsupported(format!("cannot have {} bytes in clusters of {cluster}", new.size)));
    }
    let all = 1 + table_clusters + blocks + l1_clusters;
    let header = Header {
        version: new.version,
        cluster_bits: new.cluster_bits,
        size: new.size,
        l1_size: u32::try_from(l1_size).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?,
        l1_offset: (1 + table_clusters + blocks) * cluster,
        refcount_table_offset: cluster,
        // At most 8 MiB, as was checked.
        refcount_table_clusters: table_clusters as u32,
        snapshots: 0,
        snapshots_offset: 0,
        incompatible: if new.is_zstandard { header::incompatible::COMPRESSION } else { 0 },
        autoclear: 0,
        refcount_order: new.refcount_order,
        is_zstandard: new.is_zstandard,
        backing: new.backing.as_ref().map(|(name, _)| name.clone()),
        backing_format: new.backing.as_ref().map(|(_, format)| format.clone()),
    };
    let mut counts = vec![0; (blocks * cluster) as usize];
    for index in 0..all {
        // Blocks follow each other, so that this is one long block.
        set_count(&mut counts[byte_of(index, new.refcount_order) as usize..], index, new.refcount_order, 1);
    }
    let table: Vec<u8> =
        (0..blocks).flat_map(|block| ((1 + table_clusters + block) * cluster).to_be_bytes()).collect();
    storage.set_length(all * cluster)?;
    storage.write_at(&counts, (1 + table_clusters) * cluster)?;
    storage.write_at(&table, cluster)?;
    // Last, so that a file that was not finished is no image.
    storage.write_at(&header::encode(&header), 0)?;
    Ok(())
}
