//! Images whose blocks are wherever the format says: qcow2, VMDK, VHD, VHDX, and overlays. Each has a [`Map`]; what they have in
//! common is here.
//!
//! ```text
//! map.rs      what a format must know
//! pages.rs    its metadata in memory
//! write.rs    writing: in place, or to new blocks with what is around filled up
//! clear.rs    zeros and discarded ranges
//! commit.rs   metadata on its way to the file, in an order that survives crashes
//! unpack.rs   compressed blocks
//! ```
//!
//! A block is *busy* while its data is on its way to its new place: others that want to change it wait. What a running transfer
//! points to is not used for something else before that is over: transfers have a *hold*, and a freed block *cools* until all
//! holds that were given out before are let go.

mod clear;
mod commit;
mod map;
mod pages;
mod unpack;
mod write;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Access, Facts, FlushWay, Hold, Image, Owned, Place, Run};
use crate::memory::{Source, Target};
use crate::storage::Storage;

pub(crate) use map::{Allocated, Change, Cleared, Found, Freed, Map, Method, Packed};
pub(crate) use pages::Pages;

/// How an image with a map is used.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Where its blocks are.
    pub storage: Arc<dyn Storage>,
    /// What it stands on.
    pub backing: Option<Arc<dyn Image>>,
    /// Bytes of the disk.
    pub size: u64,
    /// What is told to guests.
    pub facts: Facts,
    /// Whether flushes reach the host's disk.
    pub is_flushed: bool,
}

/// An image with a map.
#[derive(Debug)]
pub(crate) struct Mapped<M: Map> {
    setup: Setup,
    /// Bytes of a block.
    block: u64,
    state: Mutex<State<M>>,
    /// A block is no longer busy.
    changed: Condvar,
    /// Had by whoever commits; whether the last commit worked.
    committing: Mutex<Committed>,
    /// How many commits have begun.
    begun: AtomicU64,
    /// The last compressed block that was read, by its place in the file.
    unpacked: Mutex<Option<(Packed, Arc<Vec<u8>>)>>,
}

/// Whether the last commit worked.
#[derive(Debug, Default)]
struct Committed(bool);

#[derive(Debug)]
struct State<M> {
    map: M,
    /// Busy blocks: the first of each stretch, and how many.
    busy: BTreeMap<u64, u64>,
    /// Given to transfers; renewed when something was freed.
    hold: Hold,
    /// What was freed, until its holds are let go.
    cooling: VecDeque<(Hold, Vec<Freed>)>,
}

impl<M> State<M> {
    /// The first busy block of `count` from `block` on.
    fn first_busy(&self, block: u64, count: u64) -> Option<u64> {
        let end = block.saturating_add(count);
        let before = self.busy.range(..=block).next_back();
        if before.is_some_and(|(start, length)| start + length > block) {
            return Some(block);
        }
        self.busy.range(block..end).next().map(|(start, _)| *start)
    }
}

impl<M: Map> Mapped<M> {
    /// An image with the blocks that `map` knows.
    pub(crate) fn new(map: M, setup: Setup) -> Self {
        let block = map.block_size();
        let state = State { map, busy: BTreeMap::new(), hold: Hold::default(), cooling: VecDeque::new() };
        Self {
            setup,
            block,
            state: Mutex::new(state),
            changed: Condvar::new(),
            committing: Mutex::default(),
            begun: AtomicU64::new(0),
            unpacked: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Uses the map, alone.
    pub(crate) fn with_map<T>(&self, action: impl FnOnce(&mut M) -> T) -> T {
        action(&mut self.lock().map)
    }

    /// What the image stands on, or zeros.
    fn locate_below(&self, offset: u64, length: u64) -> io::Result<Run> {
        let below = self.setup.backing.as_ref();
        let left = below.map_or(0, |image| image.size().saturating_sub(offset));
        match below {
            Some(image) if left > 0 => image.locate(offset, length.min(left), Access::Read),
            _ => Ok(Run { place: Place::Zero, length, hold: None }),
        }
    }

    fn unpack(&self, packed: Packed) -> io::Result<Arc<Vec<u8>>> {
        let last = || self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bytes)) = last().as_ref().filter(|(which, _)| *which == packed) {
            return Ok(Arc::clone(bytes));
        }
        let length = usize::try_from(packed.length).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut bytes = vec![0; length];
        self.setup.storage.read_at(&mut bytes, packed.offset)?;
        let bytes = Arc::new(unpack::unpack(packed, &bytes)?);
        *last() = Some((packed, Arc::clone(&bytes)));
        Ok(bytes)
    }

    /// Forgets compressed blocks: their places may hold something else now.
    fn forget_unpacked(&self) {
        *self.unpacked.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl<M: Map> Image for Mapped<M> {
    fn size(&self) -> u64 {
        self.setup.size
    }

    fn facts(&self) -> Facts {
        self.setup.facts
    }

    fn locate(&self, offset: u64, length: u64, access: Access) -> io::Result<Run> {
        let mut state = self.lock();
        let (found, length) = state.map.find(offset, length)?;
        let hold = Some(Arc::clone(&state.hold));
        if access == Access::Write {
            let blocks = (offset + length - 1) / self.block - offset / self.block + 1;
            let place = match found {
                Found::Data { offset: place, is_writable: true }
                    if state.first_busy(offset / self.block, blocks).is_none() =>
                {
                    Place::Stored(Arc::clone(&self.setup.storage), place)
                }
                _ => Place::Elsewhere,
            };
            return Ok(Run { place, length, hold });
        }
        drop(state);
        match found {
            Found::Data { offset: place, .. } => {
                Ok(Run { place: Place::Stored(Arc::clone(&self.setup.storage), place), length, hold })
            }
            Found::Zero => Ok(Run { place: Place::Zero, length, hold: None }),
            Found::Absent => self.locate_below(offset, length),
            Found::Packed { .. } => Ok(Run { place: Place::Elsewhere, length, hold }),
        }
    }

    fn read_elsewhere(&self, offset: u64, target: &Target<'_>) -> io::Result<()> {
        let mut done = 0;
        while done < target.len() {
            let (at, left) = (offset + done as u64, target.len() - done);
            let (found, length, _hold) = {
                let mut state = self.lock();
                let (found, length) = state.map.find(at, left as u64)?;
                (found, length, Arc::clone(&state.hold))
            };
            let length = usize::try_from(length).unwrap_or(left).min(left);
            let part = target.slice(done, length);
            match found {
                Found::Packed { packed, within } => {
                    let bytes = self.unpack(packed)?;
                    let start = usize::try_from(within).unwrap_or(usize::MAX).min(bytes.len());
                    part.copy_from(&bytes[start..]);
                }
                // It may have changed meanwhile, or be the image below that is compressed.
                Found::Absent => match &self.setup.backing {
                    Some(image) if image.size() > at => {
                        let below = usize::try_from(image.size() - at).unwrap_or(length).min(length);
                        image.read(at, &part.slice(0, below))?;
                        part.slice(below, length - below).zero();
                    }
                    _ => part.zero(),
                },
                Found::Data { offset: place, .. } => self.setup.storage.read(&part, place)?,
                Found::Zero => part.zero(),
            }
            done += length;
        }
        Ok(())
    }

    fn write(&self, offset: u64, source: &Source<'_>) -> io::Result<()> {
        self.write_blocks(offset, source)
    }

    fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> io::Result<()> {
        self.clear(offset, length, !may_unmap)
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        // Parts of what can be given back stay as they are.
        let unit = self.setup.facts.discard.map_or(self.block, |limits| u64::from(limits.alignment));
        let (first, end) = (offset.next_multiple_of(unit), offset + length);
        let end = if end == self.setup.size { end } else { end / unit * unit };
        if first < end { self.clear(first, end - first, false) } else { Ok(()) }
    }

    fn owned(&self, offset: u64, length: u64) -> io::Result<(Owned, u64)> {
        let (found, length) = self.lock().map.find(offset, length)?;
        let owned = match found {
            Found::Absent => Owned::No,
            Found::Zero => Owned::Zero,
            Found::Data { .. } | Found::Packed { .. } => Owned::Data,
        };
        Ok((owned, length))
    }

    fn disown(&self) -> io::Result<bool> {
        let blocks = self.setup.size.div_ceil(self.block);
        let mut block = 0;
        while block < blocks {
            let count = (blocks - block).min(1 << 16);
            if !self.lock().map.clear(block, count, Cleared::Absent)? {
                return Ok(false);
            }
            self.commit_if_pressed()?;
            block += count;
        }
        Ok(true)
    }

    fn flush(&self) -> io::Result<()> {
        if self.setup.facts.is_writable { self.commit() } else { Ok(()) }
    }

    fn flush_way(&self) -> FlushWay {
        if !self.setup.facts.is_writable {
            return FlushWay::Nothing;
        }
        let state = self.lock();
        let is_committing = self.committing.try_lock().is_err();
        if is_committing || !state.map.is_settled() || !state.cooling.is_empty() {
            FlushWay::Slow
        } else if self.setup.is_flushed {
            FlushWay::Sync(Arc::clone(&self.setup.storage))
        } else {
            FlushWay::Nothing
        }
    }
}

impl<M: Map> Drop for Mapped<M> {
    fn drop(&mut self) {
        if self.setup.facts.is_writable {
            // Whoever wants to know whether this worked has flushed before.
            let _ = self.close();
        }
    }
}
