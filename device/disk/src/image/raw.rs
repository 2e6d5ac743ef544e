//! The disk's bytes and nothing else; or a part of a file that is just that, as in fixed VHDs and flat VMDKs.

use std::io;
use std::sync::Arc;

use super::{Access, Facts, FlushWay, Image, Place, Run};
use crate::disk::RangeLimits;
use crate::memory::{Source, Target};
use crate::storage::Storage;

/// What is asked of the host at a time, in bytes: punching more would keep a flush waiting for long.
const MOST: u64 = 1 << 30;

/// A stretch of storage, byte by byte.
#[derive(Debug)]
pub(crate) struct Raw {
    storage: Arc<dyn Storage>,
    /// Where the disk begins in it.
    start: u64,
    size: u64,
    is_writable: bool,
    /// Whether flushes are passed on.
    is_flushed: bool,
    block_size: u32,
}

impl Raw {
    /// `size` bytes of `storage` from `start`.
    pub(crate) fn new(
        storage: Arc<dyn Storage>,
        start: u64,
        size: u64,
        is_writable: bool,
        is_flushed: bool,
    ) -> Self {
        Self { storage, start, size, is_writable, is_flushed, block_size: 512 }
    }

    /// On a device that has larger blocks.
    pub(crate) fn with_block_size(self, block_size: u32) -> Self {
        Self { block_size: block_size.max(512), ..self }
    }
}

impl Image for Raw {
    fn size(&self) -> u64 {
        self.size
    }

    fn facts(&self) -> Facts {
        let limits = self.is_writable.then_some(RangeLimits { most: MOST, alignment: 4096 });
        Facts {
            is_writable: self.is_writable,
            block_size: self.block_size,
            optimal_size: 4096,
            discard: limits,
            write_zeroes: limits,
        }
    }

    fn locate(&self, offset: u64, length: u64, _access: Access) -> io::Result<Run> {
        let place = Place::Stored(Arc::clone(&self.storage), self.start + offset);
        Ok(Run { place, length: length.min(self.size.saturating_sub(offset)), hold: None })
    }

    fn read_elsewhere(&self, offset: u64, target: &Target<'_>) -> io::Result<()> {
        self.storage.read(target, self.start + offset)
    }

    fn write(&self, offset: u64, source: &Source<'_>) -> io::Result<()> {
        self.storage.write(source, self.start + offset)
    }

    fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> io::Result<()> {
        self.storage.zero(self.start + offset, length, may_unmap)
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.storage.discard(self.start + offset, length)
    }

    fn flush(&self) -> io::Result<()> {
        if self.is_flushed && self.is_writable { self.storage.sync() } else { Ok(()) }
    }

    fn flush_way(&self) -> FlushWay {
        if self.is_flushed && self.is_writable {
            FlushWay::Sync(Arc::clone(&self.storage))
        } else {
            FlushWay::Nothing
        }
    }
}
