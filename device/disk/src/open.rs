//! Opening a disk: from what a user says to an image, its chain of backing files, and an overlay if one is asked for.

use std::io;
use std::sync::Arc;

use crate::chain::{Layer, OpenPlan};
use crate::disk::{Disk, Lane, RangeLimits};
use crate::error::DiskError;
use crate::image::{Facts, Image};
use crate::lane::{Pool, QueueLane};
use crate::options::{Cache, DiskOptions, Transport};

/// Opens a disk.
///
/// # Errors
/// The file is missing, forbidden, in use by somebody else, damaged, or not what it is said to be.
pub fn open(options: &DiskOptions) -> Result<Arc<dyn Disk>, DiskError> {
    let plan = OpenPlan {
        is_writable: !options.is_read_only && !options.has_overlay,
        format: options.format,
        is_guarded: false,
        is_direct: options.cache == Cache::None,
        is_flushed: options.cache != Cache::Unsafe,
        is_locked: options.is_locked,
        backing: options.backing.clone(),
        is_alone: false,
    };
    let layer = Layer::open(&options.path, &plan)?;
    let image = if options.has_overlay { layer.with_overlay()? } else { layer.image };
    Ok(Arc::new(OpenDisk::new(image, options.transport)))
}

/// An open disk.
#[derive(Debug)]
pub(crate) struct OpenDisk {
    image: Arc<dyn Image>,
    facts: Facts,
    pool: Arc<Pool>,
    transport: Transport,
}

impl OpenDisk {
    pub(crate) fn new(image: Arc<dyn Image>, transport: Transport) -> Self {
        let facts = image.facts();
        Self { image, facts, pool: Arc::new(Pool::new()), transport }
    }
}

impl Disk for OpenDisk {
    fn size(&self) -> u64 {
        self.image.size()
    }

    fn is_read_only(&self) -> bool {
        !self.facts.is_writable
    }

    fn block_size(&self) -> u32 {
        self.facts.block_size
    }

    fn optimal_size(&self) -> u32 {
        self.facts.optimal_size.max(self.facts.block_size)
    }

    fn discard(&self) -> Option<RangeLimits> {
        self.facts.discard
    }

    fn write_zeroes(&self) -> Option<RangeLimits> {
        self.facts.write_zeroes
    }

    fn flush(&self) -> io::Result<()> {
        self.image.flush()
    }

    fn open_lane(&self) -> Result<Box<dyn Lane>, DiskError> {
        let lane = QueueLane::new(Arc::clone(&self.image), Arc::clone(&self.pool), self.transport);
        Ok(Box::new(lane.map_err(DiskError::Lane)?))
    }
}
