//! Which block of a VHDX is where: \[MS-VHDX\], section 2.5.
//!
//! The format has a log so that metadata of several sectors changes as a whole. What changes here is one entry of the
//! table at a time, eight bytes within a sector, after the block that it points to is on the host's disk: that needs no log.

use std::io;
use std::sync::Arc;

use super::header::UNIT;
use super::metadata::Metadata;
use crate::bytes::le64_at;
use crate::error::damaged;
use crate::image::mapped::{Allocated, Change, Cleared, Found, Freed, Map, Pages};
use crate::storage::Storage;

/// What an entry says in its lowest three bits.
mod state {
    pub(super) const FULLY_PRESENT: u64 = 6;
    pub(super) const PARTIALLY_PRESENT: u64 = 7;
}

/// Where the blocks are.
#[derive(Debug)]
pub(super) struct VhdxMap {
    storage: Arc<dyn Storage>,
    metadata: Metadata,
    is_writable: bool,
    table: Pages,
    table_offset: u64,
    /// Where no block can be: by start and end.
    taken: Vec<(u64, u64)>,
    /// Where the next block goes.
    end: u64,
    /// Blocks that were taken and not used.
    spare: Vec<u64>,
}

/// Blocks between two entries for sector bitmaps, which only differencing disks use.
fn chunk(metadata: &Metadata) -> u64 {
    (u64::from(metadata.sector) << 23) / u64::from(metadata.block_size)
}

/// Bytes of the table of a disk.
pub(super) fn table_length(metadata: &Metadata) -> u64 {
    let blocks = metadata.size.div_ceil(u64::from(metadata.block_size));
    (blocks + blocks.saturating_sub(1) / chunk(metadata)) * 8
}

impl VhdxMap {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        metadata: Metadata,
        table_offset: u64,
        taken: Vec<(u64, u64)>,
        is_writable: bool,
    ) -> io::Result<Self> {
        let end = taken.iter().map(|(_, end)| *end).fold(storage.length()?, u64::max).next_multiple_of(UNIT);
        let table = Pages::new(Arc::clone(&storage), 4096, 1024);
        Ok(Self { storage, metadata, is_writable, table, table_offset, taken, end, spare: Vec::new() })
    }

    fn size(&self) -> u64 {
        u64::from(self.metadata.block_size)
    }

    fn place_of_entry(&self, block: u64) -> u64 {
        self.table_offset + (block + block / chunk(&self.metadata)) * 8
    }
}

impl Map for VhdxMap {
    fn block_size(&self) -> u64 {
        self.size()
    }

    fn find(&mut self, offset: u64, length: u64) -> io::Result<(Found, u64)> {
        let (block, within) = (offset / self.size(), offset % self.size());
        let length = length.min(self.size() - within);
        let place = self.place_of_entry(block);
        let entry = le64_at(self.table.get(place)?, 0).unwrap_or(0);
        match entry & 7 {
            state::FULLY_PRESENT => {}
            state::PARTIALLY_PRESENT => {
                return Err(damaged(format!(
                    "block {block} is said to be partly in a parent that there is not"
                )));
            }
            // Never written, undefined, zeros or unmapped.
            _ => return Ok((Found::Absent, length)),
        }
        let start = (entry >> 20) * UNIT;
        let end = start.saturating_add(self.size());
        if start < UNIT || end > self.end || self.taken.iter().any(|(from, to)| start < *to && *from < end) {
            return Err(damaged(format!("block {block} is at {start:#x}, where it cannot be")));
        }
        Ok((Found::Data { offset: start + within, is_writable: self.is_writable }, length))
    }

    fn allocate(&mut self, _block: u64, _count: u64) -> io::Result<Allocated> {
        if let Some(offset) = self.spare.pop() {
            return Ok(Allocated { offset, count: 1, is_fresh: false });
        }
        let offset = self.end;
        // A block is wholly within the file.
        self.storage.set_length(offset + self.size())?;
        self.end = offset + self.size();
        Ok(Allocated { offset, count: 1, is_fresh: true })
    }

    fn give_back(&mut self, allocated: Allocated) {
        self.spare.push(allocated.offset);
    }

    fn install(&mut self, block: u64, allocated: Allocated) -> io::Result<()> {
        let place = self.place_of_entry(block);
        let entry = ((allocated.offset / UNIT) << 20) | state::FULLY_PRESENT;
        self.table.change(place)?[..8].copy_from_slice(&entry.to_le_bytes());
        Ok(())
    }

    fn clear(&mut self, _block: u64, _count: u64, _to: Cleared) -> io::Result<bool> {
        // Blocks keep their place, without space on the host.
        Ok(false)
    }

    fn prepare(&mut self) -> io::Result<Vec<Vec<Change>>> {
        Ok(vec![Vec::new(), self.table.take()])
    }

    fn committed(&mut self) -> Vec<Freed> {
        self.table.settle(true);
        Vec::new()
    }

    fn not_committed(&mut self) {
        self.table.settle(false);
    }

    fn reclaim(&mut self, _freed: Freed) -> io::Result<bool> {
        Ok(false)
    }

    fn is_settled(&self) -> bool {
        self.table.dirty() == 0
    }

    fn is_pressed(&self) -> bool {
        self.table.is_pressed()
    }
}
