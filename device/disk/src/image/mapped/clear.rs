//! Zeros without writing them, and discarded ranges.

use std::io;
use std::sync::{Arc, PoisonError};

use super::Mapped;
use super::map::{Cleared, Found, Map};

/// The most blocks that are changed at a time, so that others get at the map meanwhile.
const MOST: u64 = 4096;

impl<M: Map> Mapped<M> {
    /// Lets the range read as zeros; `is_kept` lets blocks keep the space that they have.
    pub(super) fn clear(&self, offset: u64, length: u64, is_kept: bool) -> io::Result<()> {
        let end = offset + length;
        // A last block that is only partly within the disk is whole as far as anybody can see.
        let whole_end = if end == self.setup.size { end } else { end / self.block * self.block };
        let whole_start = offset.next_multiple_of(self.block).min(end);
        if whole_start >= whole_end {
            return self.zero_within(offset, end, is_kept);
        }
        self.zero_within(offset, whole_start, is_kept)?;
        if is_kept {
            self.zero_kept(whole_start, whole_end)?;
            return self.zero_within(whole_end, end, is_kept);
        }
        let (mut block, last) = (whole_start / self.block, whole_end.div_ceil(self.block));
        while block < last {
            let count = MOST.min(last - block);
            if !self.clear_blocks(block, count)? {
                let end = ((block + count) * self.block).min(whole_end);
                self.zero_within(block * self.block, end, is_kept)?;
            }
            self.commit_if_pressed()?;
            block += count;
        }
        self.zero_within(whole_end, end, is_kept)
    }

    /// Puts zeros in place where there is a place, and else does without one.
    fn zero_kept(&self, start: u64, end: u64) -> io::Result<()> {
        let mut at = start;
        while at < end {
            let (found, length) = self.lock().map.find(at, (end - at).min(self.block))?;
            let is_in_place = matches!(found, Found::Data { is_writable: true, .. });
            if is_in_place || !self.clear_blocks(at / self.block, 1)? {
                self.zero_within(at, at + length, true)?;
            }
            self.commit_if_pressed()?;
            at += self.block;
        }
        Ok(())
    }

    fn clear_blocks(&self, block: u64, count: u64) -> io::Result<bool> {
        let mut state = self.lock();
        while state.first_busy(block, count).is_some() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.map.clear(block, count, Cleared::Zero)
    }

    /// Puts zeros where something else is.
    fn zero_within(&self, start: u64, end: u64, is_kept: bool) -> io::Result<()> {
        let mut at = start;
        while at < end {
            let mut state = self.lock();
            while state.first_busy(at / self.block, 1).is_some() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let (found, length) = state.map.find(at, (end - at).min(self.block - at % self.block))?;
            let hold = Arc::clone(&state.hold);
            drop(state);
            match found {
                Found::Data { offset, is_writable: true } => {
                    self.setup.storage.zero(offset, length, !is_kept)?;
                }
                _ if self.reads_as_zeros(at, at + length)? => {}
                _ => self.write_zeros(at, length)?,
            }
            drop(hold);
            at += length;
        }
        Ok(())
    }

    fn write_zeros(&self, offset: u64, length: u64) -> io::Result<()> {
        // At most a block.
        let zeros = vec![0; usize::try_from(length).map_err(|_| io::ErrorKind::OutOfMemory)?];
        self.write_blocks(offset, &crate::memory::Source::of(&zeros))
    }
}
