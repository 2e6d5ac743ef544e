//! Writing: over what is there, or to new blocks, with what is around filled up.

use std::io;
use std::sync::Arc;

use super::map::{Allocated, Found, Map};
use super::{Mapped, State};
use crate::image::{Access, Hold, Image, Place};
use crate::memory::Source;

/// The most that is taken at a time for new data, in bytes.
const MOST: u64 = 2 << 20;

/// What is to be done with the beginning of a write.
enum Step {
    /// Overwrite this place.
    InPlace { place: u64, length: u64, _hold: Hold },
    /// Fill these new blocks, which are for the disk's blocks from `block` on.
    New { block: u64, allocated: Allocated },
}

/// Ends a stretch's being busy.
struct Busy<'a, M: Map> {
    image: &'a Mapped<M>,
    block: u64,
}

impl<M: Map> Drop for Busy<'_, M> {
    fn drop(&mut self) {
        self.image.lock().busy.remove(&self.block);
        self.image.changed.notify_all();
    }
}

impl<M: Map> Mapped<M> {
    /// Writes all of `source` at `offset`.
    pub(super) fn write_blocks(&self, offset: u64, source: &Source<'_>) -> io::Result<()> {
        let mut done = 0;
        while done < source.len() {
            let (at, left) = (offset + done as u64, source.len() - done);
            done += match self.next_step(at, left as u64)? {
                Step::InPlace { place, length, .. } => {
                    let length = usize::try_from(length).unwrap_or(left).min(left);
                    self.setup.storage.write(&source.slice(done, length), place)?;
                    length
                }
                Step::New { block, allocated } => {
                    let _busy = Busy { image: self, block };
                    let end = (block + allocated.count).saturating_mul(self.block);
                    let length = usize::try_from(end - at).unwrap_or(left).min(left);
                    let filled = self.fill(block, allocated, at, &source.slice(done, length));
                    let mut state = self.lock();
                    if let Err(error) = filled.and_then(|()| state.map.install(block, allocated)) {
                        state.map.give_back(allocated);
                        return Err(error);
                    }
                    length
                }
            };
            self.commit_if_pressed()?;
        }
        Ok(())
    }

    /// Waits until the first block is not busy, and finds out what to do about it.
    fn next_step(&self, offset: u64, length: u64) -> io::Result<Step> {
        let mut state = self.lock();
        loop {
            let block = offset / self.block;
            if state.first_busy(block, 1).is_some() {
                state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
                continue;
            }
            let (found, there) = state.map.find(offset, length)?;
            let last = (offset + length - 1) / self.block;
            if let Found::Data { offset: place, is_writable: true } = found {
                // Up to the next busy block.
                let there = match state.first_busy(block, last - block + 1) {
                    Some(busy) => there.min(busy * self.block - offset),
                    None => there,
                };
                return Ok(Step::InPlace { place, length: there, _hold: Arc::clone(&state.hold) });
            }
            let count = self.blocks_to_take(&mut state, block, last)?;
            let allocated = state.map.allocate(block, count)?;
            state.busy.insert(block, allocated.count);
            return Ok(Step::New { block, allocated });
        }
    }

    /// How many blocks from `block` on, `last` at most, need a new place and are not busy.
    fn blocks_to_take(&self, state: &mut State<M>, block: u64, last: u64) -> io::Result<u64> {
        let most = (MOST / self.block).max(1).min(last - block + 1);
        let most = state.first_busy(block, most).map_or(most, |busy| busy - block);
        for count in 1..most {
            let (found, _) = state.map.find((block + count) * self.block, self.block)?;
            if matches!(found, Found::Data { is_writable: true, .. }) {
                return Ok(count);
            }
        }
        Ok(most)
    }

    /// Writes new blocks: `source`, which belongs to `offset`, and around it what was there before.
    fn fill(&self, block: u64, allocated: Allocated, offset: u64, source: &Source<'_>) -> io::Result<()> {
        let start = block * self.block;
        let end = start + allocated.count * self.block;
        let behind = offset + source.len() as u64;
        let head = self.old_contents(start, offset, allocated.is_fresh)?;
        let tail = self.old_contents(behind, end, allocated.is_fresh)?;
        let at = allocated.offset + (offset - start) - head.len() as u64;
        self.setup.storage.write(&source.between(&head, &tail), at)
    }

    /// What the disk has from `start` to `end`, or nothing if that is zeros and the new place has them already.
    fn old_contents(&self, start: u64, end: u64, is_fresh: bool) -> io::Result<Vec<u8>> {
        let length = usize::try_from(end - start).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let inside = end.min(self.setup.size).max(start);
        if is_fresh && self.reads_as_zeros(start, inside)? {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; length];
        let image: &dyn Image = self;
        image.read_at(start, &mut bytes[..usize::try_from(inside - start).unwrap_or(0)])?;
        Ok(bytes)
    }

    /// Whether it is known without reading that there are zeros.
    pub(super) fn reads_as_zeros(&self, start: u64, end: u64) -> io::Result<bool> {
        let mut at = start;
        while at < end {
            let run = self.locate(at, end - at, Access::Read)?;
            if !matches!(run.place, Place::Zero) {
                return Ok(false);
            }
            at += run.length;
        }
        Ok(true)
    }
}
