//! Which grain of a sparse extent is where: a directory of grain tables, and often a copy of both.

use std::io;
use std::sync::Arc;

use super::sparse::{SECTOR, SparseHeader};
use crate::bytes::le32_at;
use crate::error::damaged;
use crate::image::mapped::{Allocated, Change, Cleared, Found, Freed, Map, Method, Packed, Pages};
use crate::storage::Storage;

/// Where the grains are.
#[derive(Debug)]
pub(super) struct VmdkMap {
    storage: Arc<dyn Storage>,
    header: SparseHeader,
    is_writable: bool,
    pages: Pages,
    /// Where the next grain goes.
    end: u64,
    /// Grains that were taken and not used.
    spare: Vec<u64>,
}

impl VmdkMap {
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        header: SparseHeader,
        is_writable: bool,
    ) -> io::Result<Self> {
        let end = storage.length()?.max(header.overhead).next_multiple_of(SECTOR);
        // Tables begin at any sector, and grains may be their neighbours.
        let pages = Pages::new(Arc::clone(&storage), SECTOR as usize, 8192);
        Ok(Self { storage, header, is_writable, pages, end, spare: Vec::new() })
    }

    fn entry(&mut self, place: u64) -> io::Result<u32> {
        Ok(le32_at(self.pages.get(place)?, 0).unwrap_or(0))
    }

    fn set_entry(&mut self, place: u64, entry: u32) -> io::Result<()> {
        self.pages.change(place)?[..4].copy_from_slice(&entry.to_le_bytes());
        Ok(())
    }

    /// The grain table with this number in the directory at `directory`; `None` if there is none.
    fn table(&mut self, directory: u64, number: u64) -> io::Result<Option<u64>> {
        let entry = self.entry(directory + number * 4)?;
        Ok((entry > 1).then_some(u64::from(entry) * SECTOR))
    }

    /// The number of the grain table for `grain`, and the entry's place in it.
    fn split(&self, grain: u64) -> (u64, u64) {
        (grain / self.header.entries, grain % self.header.entries * 4)
    }

    /// What an entry for a grain says.
    fn found(&self, entry: u32) -> io::Result<Found> {
        match entry {
            0 => return Ok(Found::Absent),
            1 if self.header.has_zero_grains => return Ok(Found::Zero),
            _ => {}
        }
        let offset = u64::from(entry) * SECTOR;
        if offset < SECTOR || offset >= self.end {
            return Err(damaged(format!("a grain is at {offset:#x}, beyond the end of the file")));
        }
        if self.header.is_compressed {
            return self.packed(offset).map(|packed| Found::Packed { packed, within: 0 });
        }
        let is_in_tables = offset < self.header.overhead;
        Ok(Found::Data { offset, is_writable: self.is_writable && !is_in_tables })
    }

    /// What is known of a compressed grain.
    fn packed(&self, offset: u64) -> io::Result<Packed> {
        let (start, length) = if self.header.has_markers {
            let mut marker = [0; 12];
            self.storage.read_at(&mut marker, offset)?;
            (12, u64::from(le32_at(&marker, 8).unwrap_or(0)))
        } else {
            (0, self.header.grain * 2)
        };
        if length == 0 || length > self.header.grain * 2 + 4096 {
            return Err(damaged(format!("the compressed grain at {offset:#x} has {length} bytes")));
        }
        let unpacked = self.header.grain;
        Ok(Packed { offset: offset + start, length, unpacked, method: Method::Zlib })
    }

    /// Takes space at the end of the file.
    fn take(&mut self, length: u64) -> io::Result<u64> {
        let offset = self.end;
        if (offset + length) / SECTOR > u64::from(u32::MAX) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.end = offset + length;
        Ok(offset)
    }

    /// The grain table with this number in a directory, made if need be.
    fn table_for_change(&mut self, directory: u64, number: u64) -> io::Result<u64> {
        if let Some(table) = self.table(directory, number)? {
            return Ok(table);
        }
        let size = self.header.table_size();
        let table = self.take(size)?;
        // An empty table is as good as none, so that it matters little when the directory tells of it.
        self.storage.write_at(&vec![0; size as usize], table)?;
        self.set_entry(directory + number * 4, (table / SECTOR) as u32)?;
        Ok(table)
    }
}

impl Map for VmdkMap {
    fn block_size(&self) -> u64 {
        self.header.grain
    }

    fn find(&mut self, offset: u64, length: u64) -> io::Result<(Found, u64)> {
        let size = self.header.grain;
        let (grain, within) = (offset / size, offset % size);
        let (number, place) = self.split(grain);
        let Some(table) = self.table(self.header.directory, number)? else {
            let span = self.header.span();
            return Ok((Found::Absent, length.min(span - offset % span)));
        };
        let entry = self.entry(table + place)?;
        let found = match self.found(entry)? {
            Found::Data { offset, is_writable } => Found::Data { offset: offset + within, is_writable },
            Found::Packed { packed, .. } => Found::Packed { packed, within },
            other => other,
        };
        let mut there = size - within;
        let step = (size / SECTOR) as u32;
        for count in 1..self.header.entries - place / 4 {
            if there >= length || matches!(found, Found::Packed { .. }) {
                break;
            }
            let next = self.entry(table + place + count * 4)?;
            let expected = if matches!(found, Found::Data { .. }) {
                entry.saturating_add(step.saturating_mul(count as u32))
            } else {
                entry
            };
            if next != expected || self.found(next).is_err() {
                break;
            }
            there += size;
        }
        Ok((found, length.min(there)))
    }

    fn allocate(&mut self, _block: u64, count: u64) -> io::Result<Allocated> {
        if let Some(offset) = self.spare.pop() {
            return Ok(Allocated { offset, count: 1, is_fresh: false });
        }
        let offset = self.take(count * self.header.grain)?;
        // Who opens the file next looks for the next place behind its end.
        self.storage.set_length(self.end)?;
        Ok(Allocated { offset, count, is_fresh: true })
    }

    fn give_back(&mut self, allocated: Allocated) {
        let grains = (0..allocated.count).map(|index| allocated.offset + index * self.header.grain);
        self.spare.extend(grains);
    }

    fn install(&mut self, block: u64, allocated: Allocated) -> io::Result<()> {
        let directories = [Some(self.header.directory), self.header.copy];
        let step = self.header.grain / SECTOR;
        // Everything that can fail comes first: pages that were changed stay in memory.
        let mut places = Vec::new();
        for index in 0..allocated.count {
            let (number, place) = self.split(block + index);
            for directory in directories.into_iter().flatten() {
                let place = self.table_for_change(directory, number)? + place;
                self.pages.change(place)?;
                places.push((place, (allocated.offset / SECTOR + index * step) as u32));
            }
        }
        places.into_iter().try_for_each(|(place, entry)| self.set_entry(place, entry))
    }

    fn clear(&mut self, _block: u64, _count: u64, _to: Cleared) -> io::Result<bool> {
        // Grains keep their place, without space on the host.
        Ok(false)
    }

    fn prepare(&mut self) -> io::Result<Vec<Vec<Change>>> {
        Ok(vec![Vec::new(), self.pages.take()])
    }

    fn committed(&mut self) -> Vec<Freed> {
        self.pages.settle(true);
        Vec::new()
    }

    fn not_committed(&mut self) {
        self.pages.settle(false);
    }

    fn reclaim(&mut self, _freed: Freed) -> io::Result<bool> {
        Ok(false)
    }

    fn is_settled(&self) -> bool {
        self.pages.dirty() == 0
    }

    fn is_pressed(&self) -> bool {
        self.pages.is_pressed()
    }
}
