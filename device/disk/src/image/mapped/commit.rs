//! Metadata on its way to the file.
//!
//! ```text
//! data is written ──► stage 1 ──► sync ──► stage 2 ──► sync … ──► what was freed before may cool
//! ```
//!
//! A crash at any point leaves an image that knows everything of the last commit, and maybe some of what came after; space may be lost, data
//! not. A process that is killed is the same with less lost: what is written is in the host's page cache, in that order.

use std::io;
use std::mem;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::Mapped;
use super::map::{Change, Freed, Map};

impl<M: Map> Mapped<M> {
    /// Makes everything that was written before this call survive.
    pub(super) fn commit(&self) -> io::Result<()> {
        let seen = self.begun.load(Ordering::SeqCst);
        let mut last = self.committing.lock().unwrap_or_else(PoisonError::into_inner);
        // One that began after this call was made is over: it did our work, if it worked.
        if self.begun.load(Ordering::SeqCst) > seen && last.0 && self.lock().map.is_settled() {
            return Ok(());
        }
        self.begun.fetch_add(1, Ordering::SeqCst);
        let result = self.commit_alone();
        last.0 = result.is_ok();
        result
    }

    fn commit_alone(&self) -> io::Result<()> {
        let stages = self.lock().map.prepare()?;
        let written = self.write_stages(&stages);
        let mut state = self.lock();
        if written.is_err() {
            state.map.not_committed();
            return written;
        }
        let freed = state.map.committed();
        if !freed.is_empty() {
            let hold = mem::take(&mut state.hold);
            state.cooling.push_back((hold, freed));
        }
        let mut cooled = Vec::new();
        while let Some((hold, _)) = state.cooling.front_mut()
            && Arc::get_mut(hold).is_some()
            && let Some((_, freed)) = state.cooling.pop_front()
        {
            cooled.extend(freed);
        }
        drop(state);
        self.reclaim(cooled)
    }

    fn write_stages(&self, stages: &[Vec<Change>]) -> io::Result<()> {
        let storage = &self.setup.storage;
        let sync = || if self.setup.is_flushed { storage.sync() } else { Ok(()) };
        let is_needed = |(index, stage): &(usize, &Vec<Change>)| *index == 0 || !stage.is_empty();
        for (_, stage) in stages.iter().enumerate().filter(is_needed) {
            for change in joined(stage) {
                storage.write_at(&change.bytes, change.offset)?;
            }
            sync()?;
        }
        if stages.is_empty() { sync() } else { Ok(()) }
    }

    /// Gives back to the host what nobody points to any more, and lets the map use it again.
    fn reclaim(&self, mut freed: Vec<Freed>) -> io::Result<()> {
        if freed.is_empty() {
            return Ok(());
        }
        self.forget_unpacked();
        freed.sort_unstable_by_key(|freed| freed.offset);
        let mut state = self.lock();
        let mut unused: Vec<Freed> = Vec::new();
        for one in freed {
            if !state.map.reclaim(one)? {
                continue;
            }
            match unused.last_mut() {
                Some(last) if last.offset + last.length == one.offset => last.length += one.length,
                _ => unused.push(one),
            }
        }
        // Still alone, so that nobody can have taken them for something else.
        for one in unused {
            self.setup.storage.discard(one.offset, one.length)?;
        }
        Ok(())
    }

    /// Commits if there is much to commit.
    pub(super) fn commit_if_pressed(&self) -> io::Result<()> {
        if self.lock().map.is_pressed() { self.commit() } else { Ok(()) }
    }

    /// Commits until there is nothing left: what was freed last is reclaimed, and that is committed.
    pub(super) fn close(&self) -> io::Result<()> {
        for _ in 0..4 {
            let state = self.lock();
            if state.map.is_settled() && state.cooling.is_empty() {
                break;
            }
            drop(state);
            self.commit()?;
        }
        Ok(())
    }
}

/// Neighbours in one piece, so that fewer writes are made of them.
fn joined(changes: &[Change]) -> Vec<Change> {
    let mut joined: Vec<Change> = Vec::with_capacity(changes.len());
    for change in changes {
        match joined.last_mut() {
            Some(last)
                if last.offset + last.bytes.len() as u64 == change.offset && last.bytes.len() < 1 << 20 =>
            {
                last.bytes.extend_from_slice(&change.bytes);
            }
            _ => joined.push(change.clone()),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_written_together() {
        let change = |offset, length| Change { offset, bytes: vec![0; length] };
        let joined = joined(&[change(0, 512), change(512, 512), change(2048, 512), change(1024, 512)]);
        assert_eq!(joined.iter().map(|change| change.bytes.len()).collect::<Vec<_>>(), [1024, 512, 512]);
    }
}
