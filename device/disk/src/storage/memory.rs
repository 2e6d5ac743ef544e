//! Storage in this program's memory: for tests, and for looking at hostile images without a file.
//!
//! It can play a host that crashes: every write and sync is remembered, and `after_crash` gives the contents that
//! a disk could have been left with at any moment.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Storage, Stretch};
use crate::memory::{Source, Target};

/// The longest that this storage becomes, in bytes.
const LONGEST: u64 = 256 << 20;

/// Storage in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryStorage {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// What it held first and what happened since, if that is of interest.
    journal: Option<Journal>,
}

#[derive(Debug, Clone)]
struct Journal {
    #[cfg_attr(not(test), allow(dead_code))]
    first: Vec<u8>,
    changes: Vec<Change>,
}

#[derive(Debug, Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
    Sync,
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(start, new) => {
                let end = start + new.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*start..end].copy_from_slice(new);
            }
            Self::Length(length) => bytes.resize(*length, 0),
            Self::Sync => {}
        }
    }
}

impl State {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.bytes);
        if let Some(journal) = &mut self.journal {
            journal.changes.push(change);
        }
    }
}

impl MemoryStorage {
    /// Storage that holds `bytes`.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { state: Mutex::new(State { bytes, journal: None }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of the contents.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    /// From now on remembers what happens.
    #[cfg(test)]
    pub(crate) fn keep_journal(&self) {
        let mut state = self.state();
        state.journal = Some(Journal { first: state.bytes.clone(), changes: Vec::new() });
    }

    /// How much happened since.
    #[cfg(test)]
    pub(crate) fn moment(&self) -> usize {
        self.state().journal.as_ref().map_or(0, |journal| journal.changes.len())
    }

    /// What a crash of the host at a moment could leave: of the changes since the last sync before it, those of each sector are carried
    /// out up to some point, which is where `chance` first says no.
    #[cfg(test)]
    pub(crate) fn after_crash(&self, moment: usize, mut chance: impl FnMut() -> bool) -> Vec<u8> {
        let state = self.state();
        let journal = state.journal.as_ref().expect("a journal is kept");
        let happened = &journal.changes[..moment];
        let synced = happened.iter().rposition(|change| matches!(change, Change::Sync)).unwrap_or(0);
        let mut bytes = journal.first.clone();
        for change in &happened[..synced] {
            change.apply(&mut bytes);
        }
        let mut stopped = std::collections::HashSet::new();
        for change in &happened[synced..] {
            match change {
                Change::Sync => {}
                Change::Length(_) => {
                    if chance() {
                        change.apply(&mut bytes);
                    }
                }
                Change::Write(start, new) => {
                    let mut at = *start;
                    let end = start + new.len();
                    while at < end {
                        let next = (at / 512 * 512 + 512).min(end);
                        if !stopped.contains(&(at / 512)) && !chance() {
                            stopped.insert(at / 512);
                        }
                        if !stopped.contains(&(at / 512)) {
                            Change::Write(at, new[at - start..next - start].to_vec()).apply(&mut bytes);
                        }
                        at = next;
                    }
                }
            }
        }
        bytes
    }
}

fn position(offset: u64, length: u64) -> io::Result<(usize, usize)> {
    let end = offset.checked_add(length).filter(|end| *end <= LONGEST).ok_or(io::ErrorKind::FileTooLarge)?;
    let position = |number: u64| usize::try_from(number).map_err(|_| io::ErrorKind::FileTooLarge);
    Ok((position(offset)?, position(end)?))
}

impl Storage for MemoryStorage {
    fn length(&self) -> io::Result<u64> {
        Ok(self.state().bytes.len() as u64)
    }

    fn read(&self, target: &Target<'_>, offset: u64) -> io::Result<()> {
        let state = self.state();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(state.bytes.len());
        let part = target.len().min(state.bytes.len() - start);
        target.copy_from(&state.bytes[start..start + part]);
        target.slice(part, target.len() - part).zero();
        Ok(())
    }

    fn write(&self, source: &Source<'_>, offset: u64) -> io::Result<()> {
        let (start, _) = position(offset, source.len() as u64)?;
        let new = source.to_vec();
        self.state().change(Change::Write(start, new));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.state().change(Change::Sync);
        Ok(())
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        let (_, length) = position(0, length)?;
        self.state().change(Change::Length(length));
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64, _may_unmap: bool) -> io::Result<()> {
        let mut state = self.state();
        let end = offset.saturating_add(length).min(state.bytes.len() as u64);
        let (start, end) = position(offset.min(end), end - offset.min(end))?;
        state.change(Change::Write(start, vec![0; end - start]));
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        // What was discarded reads as anything: something that shows.
        let mut state = self.state();
        let end = offset.saturating_add(length).min(state.bytes.len() as u64);
        let (start, end) = position(offset.min(end), end - offset.min(end))?;
        state.change(Change::Write(start, vec![0xdd; end - start]));
        Ok(())
    }

    fn stretch(&self, offset: u64, length: u64) -> io::Result<Stretch> {
        let left = self.length()?.saturating_sub(offset);
        let is_data = left > 0;
        Ok(Stretch { is_data, length: if is_data { length.min(left) } else { length } })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_keeps_what_was_synced_and_any_of_the_rest() {
        let storage = MemoryStorage::new(Vec::new());
        let storage_ref: &dyn Storage = &storage;
        storage.keep_journal();
        storage_ref.write_at(&[1; 1024], 0).unwrap();
        storage.sync().unwrap();
        storage_ref.write_at(&[2; 1024], 0).unwrap();
        assert_eq!(storage.moment(), 3);
        assert_eq!(storage.after_crash(1, || false), []);
        assert_eq!(storage.after_crash(3, || false), [1; 1024]);
        assert_eq!(storage.after_crash(3, || true), [2; 1024]);
        let mut turn = false;
        let torn = storage.after_crash(3, || {
            turn = !turn;
            turn
        });
        assert_eq!((torn[0], torn[512]), (2, 1));
    }
}
