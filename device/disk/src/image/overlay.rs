//! A layer for what a guest writes that is gone with the machine: blocks in an unnamed file, and a map of them in memory only.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use super::mapped::{Allocated, Change, Cleared, Found, Freed, Map, Mapped, Setup};
use super::{Facts, Image};
use crate::disk::RangeLimits;
use crate::storage::Storage;

/// Bytes of a block: what guests write at least, so that nothing needs to be filled up.
const BLOCK: u64 = 4096;

/// Blocks whose places are kept together.
const TOGETHER: u64 = 4096;

/// The most blocks that [`Map::find`] looks at, so that others get at the map.
const MOST_BLOCKS: u64 = 4096;

/// A block's place: 0 if it was never written, 1 if it reads as zeros, else its number in the file, plus 2.
type Slot = u32;
const ABSENT: Slot = 0;
const ZERO: Slot = 1;
const FIRST: Slot = 2;

/// Where the blocks of a group are.
#[derive(Debug)]
enum Group {
    /// All read as zeros: a guest that discards a large disk is not to cost memory for each of its blocks.
    Zeros,
    /// Each at a place of its own.
    Places(Box<[Slot]>),
}

/// Where the blocks are.
#[derive(Debug)]
pub(crate) struct OverlayMap {
    /// Places, [`TOGETHER`] at a time, made when the first of them is needed.
    groups: HashMap<u64, Group>,
    /// Blocks that the file has.
    used: Slot,
    /// Blocks that may be used again: the first of each stretch, and how many.
    free: Vec<(Slot, Slot)>,
    freed: Vec<Freed>,
}

impl OverlayMap {
    fn new() -> Self {
        Self { groups: HashMap::new(), used: 0, free: Vec::new(), freed: Vec::new() }
    }

    fn slot(&self, block: u64) -> Slot {
        let (group, within) = Self::position(block);
        match self.groups.get(&group) {
            None => ABSENT,
            Some(Group::Zeros) => ZERO,
            Some(Group::Places(places)) => places.get(within).copied().unwrap_or(ABSENT),
        }
    }

    fn set(&mut self, block: u64, slot: Slot) {
        let (group, within) = Self::position(block);
        let all = |slot| Group::Places(vec![slot; TOGETHER as usize].into());
        let group = self.groups.entry(group).or_insert_with(|| all(ABSENT));
        if matches!(group, Group::Zeros) {
            if slot == ZERO {
                return;
            }
            *group = all(ZERO);
        }
        let Group::Places(places) = group else { return };
        let Some(place) = places.get_mut(within) else { return };
        let old = std::mem::replace(place, slot);
        if let Some(old) = old.checked_sub(FIRST) {
            self.freed.push(Freed { offset: u64::from(old) * BLOCK, length: BLOCK });
        }
    }

    /// Does without the places of a group that is all zeros.
    fn condense(&mut self, group: u64) {
        // Guests go upwards: until the last is reached, there is no need to look at all.
        if let Some(group) = self.groups.get_mut(&group)
            && let Group::Places(places) = group
            && places.last() == Some(&ZERO)
            && places.iter().all(|slot| *slot == ZERO)
        {
            *group = Group::Zeros;
        }
    }

    fn position(block: u64) -> (u64, usize) {
        (block / TOGETHER, (block % TOGETHER) as usize)
    }
}

impl Map for OverlayMap {
    fn block_size(&self) -> u64 {
        BLOCK
    }

    fn find(&mut self, offset: u64, length: u64) -> io::Result<(Found, u64)> {
        let (block, within) = (offset / BLOCK, offset % BLOCK);
        let first = self.slot(block);
        let mut count = 1;
        // Neighbours that are neighbours in the file too.
        while count < MOST_BLOCKS && count * BLOCK - within < length {
            let next = self.slot(block + count);
            let expected = if first < FIRST { first } else { first.wrapping_add(count as Slot) };
            if next != expected {
                break;
            }
            count += 1;
        }
        let found = match first {
            ABSENT => Found::Absent,
            ZERO => Found::Zero,
            slot => Found::Data { offset: u64::from(slot - FIRST) * BLOCK + within, is_writable: true },
        };
        Ok((found, length.min(count * BLOCK - within)))
    }

    fn allocate(&mut self, _block: u64, count: u64) -> io::Result<Allocated> {
        let wanted = Slot::try_from(count).unwrap_or(Slot::MAX);
        if let Some((start, length)) = self.free.pop() {
            let taken = wanted.min(length);
            if taken < length {
                self.free.push((start + taken, length - taken));
            }
            let offset = u64::from(start) * BLOCK;
            return Ok(Allocated { offset, count: u64::from(taken), is_fresh: false });
        }
        let end = self.used.checked_add(wanted).filter(|end| *end < Slot::MAX - FIRST);
        let end = end.ok_or(io::ErrorKind::StorageFull)?;
        let offset = u64::from(self.used) * BLOCK;
        self.used = end;
        Ok(Allocated { offset, count, is_fresh: true })
    }

    fn give_back(&mut self, allocated: Allocated) {
        // Both were slots before.
        self.free.push(((allocated.offset / BLOCK) as Slot, allocated.count as Slot));
    }

    fn install(&mut self, block: u64, allocated: Allocated) -> io::Result<()> {
        for index in 0..allocated.count {
            self.set(block + index, (allocated.offset / BLOCK + index) as Slot + FIRST);
        }
        Ok(())
    }

    fn clear(&mut self, block: u64, count: u64, to: Cleared) -> io::Result<bool> {
        let slot = if to == Cleared::Absent { ABSENT } else { ZERO };
        let (mut at, end) = (block, block + count);
        while at < end {
            let group = at / TOGETHER;
            let next = end.min((group + 1) * TOGETHER);
            (at..next).for_each(|block| self.set(block, slot));
            self.condense(group);
            at = next;
        }
        Ok(true)
    }

    fn prepare(&mut self) -> io::Result<Vec<Vec<Change>>> {
        Ok(Vec::new())
    }

    fn committed(&mut self) -> Vec<Freed> {
        std::mem::take(&mut self.freed)
    }

    fn not_committed(&mut self) {}

    fn reclaim(&mut self, freed: Freed) -> io::Result<bool> {
        let start = (freed.offset / BLOCK) as Slot;
        match self.free.last_mut() {
            Some((first, length)) if *first + *length == start => *length += 1,
            _ => self.free.push((start, 1)),
        }
        Ok(true)
    }

    fn is_settled(&self) -> bool {
        self.freed.is_empty()
    }

    fn is_pressed(&self) -> bool {
        self.freed.len() > 4096
    }
}

/// A layer over `below`, whose blocks are in `storage`, which is empty.
pub(crate) fn overlay(storage: Arc<dyn Storage>, below: Arc<dyn Image>) -> Mapped<OverlayMap> {
    let size = below.size();
    let limits = Some(RangeLimits { most: 1 << 30, alignment: BLOCK as u32 });
    let facts = Facts {
        is_writable: true,
        block_size: below.facts().block_size,
        optimal_size: BLOCK as u32,
        discard: limits,
        write_zeroes: limits,
    };
    let setup = Setup { storage, backing: Some(below), size, facts, is_flushed: false };
    Mapped::new(OverlayMap::new(), setup)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::model::{agree, requests, threads_agree};
    use crate::image::{Access, Place, Raw};
    use crate::storage::memory::MemoryStorage;

    const SIZE: u64 = 1 << 20;

    fn base() -> (Vec<u8>, Arc<MemoryStorage>, Arc<dyn Image>) {
        let bytes: Vec<u8> = (0..SIZE).map(|at| (at / 77) as u8).collect();
        let storage = Arc::new(MemoryStorage::new(bytes.clone()));
        let raw: Arc<dyn Image> = Arc::new(Raw::new(Arc::clone(&storage) as _, 0, SIZE, false, false));
        (bytes, storage, raw)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn an_overlay_is_a_disk_of_its_own(requests in requests(SIZE / 512, 60)) {
            let (bytes, below, raw) = base();
            let image = overlay(Arc::new(MemoryStorage::default()), raw);
            agree(&image, &bytes, &requests);
            prop_assert!(below.bytes() == bytes, "what is below was written");
        }
    }

    #[test]
    fn threads_do_not_disturb_each_other() {
        for seed in 0..8 {
            let (_, _, raw) = base();
            let image: Arc<dyn Image> = Arc::new(overlay(Arc::new(MemoryStorage::default()), raw));
            threads_agree(&image, seed);
        }
    }

    #[test]
    fn one_look_at_the_map_is_short_however_much_is_asked_for() {
        let mut map = OverlayMap::new();
        assert_eq!(map.find(512, 1 << 32).unwrap(), (Found::Absent, MOST_BLOCKS * BLOCK - 512));
        map.clear(0, 3 * MOST_BLOCKS, Cleared::Zero).unwrap();
        assert_eq!(map.find(0, 1 << 32).unwrap(), (Found::Zero, MOST_BLOCKS * BLOCK));
        let allocated = map.allocate(0, 3 * MOST_BLOCKS).unwrap();
        map.install(0, allocated).unwrap();
        let found = Found::Data { offset: BLOCK, is_writable: true };
        assert_eq!(map.find(BLOCK, 1 << 32).unwrap(), (found, MOST_BLOCKS * BLOCK));
    }

    #[test]
    fn a_large_disk_that_is_discarded_costs_little_memory() {
        let mut map = OverlayMap::new();
        let allocated = map.allocate(TOGETHER + 5, 1).unwrap();
        map.install(TOGETHER + 5, allocated).unwrap();
        // Not from a group's beginning on, as partitions are.
        for turn in 0..64 {
            map.clear(256 + turn * TOGETHER, TOGETHER, Cleared::Zero).unwrap();
        }
        let held =
            |map: &OverlayMap| map.groups.values().filter(|group| matches!(group, Group::Places(_))).count();
        assert_eq!(held(&map), 2, "the first group and the last are zeros only in part");
        assert_eq!(map.committed(), [Freed { offset: 0, length: BLOCK }]);
        map.install(3 * TOGETHER + 7, allocated).unwrap();
        assert_eq!(held(&map), 3);
        let at = |map: &mut OverlayMap, block| map.find(block * BLOCK, BLOCK).unwrap().0;
        assert_eq!(at(&mut map, 255), Found::Absent);
        assert_eq!(at(&mut map, TOGETHER + 5), Found::Zero);
        assert_eq!(at(&mut map, 3 * TOGETHER + 6), Found::Zero);
        assert_eq!(at(&mut map, 3 * TOGETHER + 7), Found::Data { offset: 0, is_writable: true });
        assert_eq!(at(&mut map, 3 * TOGETHER + 8), Found::Zero);
    }

    #[test]
    fn freed_blocks_are_used_again_only_when_no_transfer_points_to_them() {
        let (_, _, raw) = base();
        let image = overlay(Arc::new(MemoryStorage::default()), raw);
        let disk: &dyn Image = &image;
        disk.write_at(0, &[1; 4096]).unwrap();
        let running = disk.locate(0, 4096, Access::Read).unwrap();
        let Place::Stored(_, place) = running.place else { panic!("it was written") };
        let place_of = |offset| match disk.locate(offset, 4096, Access::Read).unwrap().place {
            Place::Stored(_, place) => place,
            _ => panic!("it was written"),
        };
        disk.discard(0, 4096).unwrap();
        disk.flush().unwrap();
        disk.flush().unwrap();
        disk.write_at(8192, &[2; 4096]).unwrap();
        assert_ne!(place_of(8192), place);
        drop(running.hold);
        disk.flush().unwrap();
        disk.write_at(16384, &[3; 4096]).unwrap();
        assert_eq!(place_of(16384), place);
    }
}
