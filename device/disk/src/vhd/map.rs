//! Which block of a dynamic VHD is where.
//!
//! A block begins with a bitmap of the sectors that were written; others read as zeros. Blocks written here have all bits set,
//! and blocks found otherwise are completed before they are used for the first time.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use super::footer::DynamicHeader;
use crate::bytes::be32_at;
use crate::error::damaged;
use crate::image::mapped::{Allocated, Change, Cleared, Found, Freed, Map, Pages};
use crate::storage::Storage;

/// An entry for a block that was never written.
const ABSENT: u32 = u32::MAX;

/// Where the blocks are.
#[derive(Debug)]
pub(crate) struct VhdMap {
    storage: Arc<dyn Storage>,
    header: DynamicHeader,
    is_writable: bool,
    /// The footer, which ends the file.
    footer: Vec<u8>,
    table: Pages,
    /// Blocks all of whose bits are known to be set.
    complete: HashSet<u64>,
    /// Where the next block goes: where the footer is.
    end: u64,
    /// Blocks that were taken and not used.
    spare: Vec<u64>,
}

impl VhdMap {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        header: DynamicHeader,
        footer: Vec<u8>,
        is_writable: bool,
    ) -> io::Result<Self> {
        let length = storage.length()?;
        // A footer that was lost in a crash is no reason to write over the last block.
        let end = length.saturating_sub(512);
        let mut last = vec![0; 512];
        storage.read_at(&mut last, end)?;
        let end = if last == footer { end } else { length.next_multiple_of(512) };
        let table = Pages::new(Arc::clone(&storage), 512, 4096);
        let end = end.max(header.table_offset + (u64::from(header.entries) * 4).next_multiple_of(512));
        Ok(Self {
            storage,
            header,
            is_writable,
            footer,
            table,
            complete: HashSet::new(),
            end,
            spare: Vec::new(),
        })
    }

    fn size(&self) -> u64 {
        u64::from(self.header.block_size)
    }

    /// Bytes of a block's bitmap, with what fills up its last sector.
    fn bitmap_size(&self) -> u64 {
        (self.size() / 512 / 8).next_multiple_of(512)
    }

    /// Where the block's bitmap is, or `None` if it was never written.
    fn place(&mut self, block: u64) -> io::Result<Option<u64>> {
        let entry = be32_at(self.table.get(self.header.table_offset + block * 4)?, 0).unwrap_or(ABSENT);
        if entry == ABSENT {
            return Ok(None);
        }
        let place = u64::from(entry) * 512;
        let table_end = self.header.table_offset + u64::from(self.header.entries) * 4;
        if place < table_end.max(1536) || place >= self.end {
            return Err(damaged(format!("block {block} is at {place:#x}, where it cannot be")));
        }
        Ok(Some(place))
    }

    /// Sets all bits of a block; sectors whose bit was not set get the zeros that they read as.
    fn complete(&mut self, block: u64, place: u64, bitmap: &[u8]) -> io::Result<()> {
        let data = place + self.bitmap_size();
        let sectors = self.size() / 512;
        let mut at = 0;
        while at < sectors {
            let run = run(bitmap, at, sectors);
            if !is_set(bitmap, at) {
                self.storage.zero(data + at * 512, run * 512, true)?;
            }
            at += run;
        }
        self.storage.sync()?;
        self.storage.write_at(&vec![0xff; bitmap.len()], place)?;
        self.complete.insert(block);
        Ok(())
    }
}

fn is_set(bitmap: &[u8], sector: u64) -> bool {
    let byte = usize::try_from(sector / 8).ok().and_then(|at| bitmap.get(at)).copied().unwrap_or(0);
    byte & 0x80 >> (sector % 8) != 0
}

/// How many sectors from `sector` on have the same bit.
fn run(bitmap: &[u8], sector: u64, sectors: u64) -> u64 {
    let first = is_set(bitmap, sector);
    (sector..sectors).take_while(|at| is_set(bitmap, *at) == first).count() as u64
}

impl Map for VhdMap {
    fn block_size(&self) -> u64 {
        self.size()
    }

    fn find(&mut self, offset: u64, length: u64) -> io::Result<(Found, u64)> {
        let (block, within) = (offset / self.size(), offset % self.size());
        let length = length.min(self.size() - within);
        let Some(place) = self.place(block)? else { return Ok((Found::Absent, length)) };
        let data = Found::Data { offset: place + self.bitmap_size() + within, is_writable: self.is_writable };
        if self.complete.contains(&block) {
            return Ok((data, length));
        }
        // At most 64 KiB.
        let mut bitmap = vec![0; (self.size() / 512).div_ceil(8) as usize];
        self.storage.read_at(&mut bitmap, place)?;
        let sectors = self.size() / 512;
        if is_set(&bitmap, 0) && run(&bitmap, 0, sectors) == sectors {
            self.complete.insert(block);
            return Ok((data, length));
        }
        if self.is_writable {
            self.complete(block, place, &bitmap)?;
            return Ok((data, length));
        }
        let there = run(&bitmap, within / 512, sectors) * 512 - within % 512;
        Ok((if is_set(&bitmap, within / 512) { data } else { Found::Zero }, length.min(there)))
    }

    fn allocate(&mut self, _block: u64, _count: u64) -> io::Result<Allocated> {
        let (place, is_fresh) = match self.spare.pop() {
            Some(place) => (place, false),
            None => {
                let place = self.end;
                let end = place + self.bitmap_size() + self.size();
                if end / 512 >= u64::from(ABSENT) {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                // There is always a footer: the new one is there before the block takes the old one's place. Should
                // a crash lose it, its copy at the beginning counts.
                self.storage.write_at(&self.footer, end)?;
                self.end = end;
                (place, true)
            }
        };
        self.storage.write_at(&vec![0xff; self.bitmap_size() as usize], place)?;
        Ok(Allocated { offset: place + self.bitmap_size(), count: 1, is_fresh })
    }

    fn give_back(&mut self, allocated: Allocated) {
        self.spare.push(allocated.offset - self.bitmap_size());
    }

    fn install(&mut self, block: u64, allocated: Allocated) -> io::Result<()> {
        let sector = ((allocated.offset - self.bitmap_size()) / 512) as u32;
        let entry = self.table.change(self.header.table_offset + block * 4)?;
        entry[..4].copy_from_slice(&sector.to_be_bytes());
        self.complete.insert(block);
        Ok(())
    }

    fn clear(&mut self, _block: u64, _count: u64, _to: Cleared) -> io::Result<bool> {
        // The format has no way to give a block back.
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
