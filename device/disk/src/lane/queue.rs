//! A queue's lane: checks each request, and chooses its way.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::inbox::Inbox;
use super::plan::plan;
use super::pool::Pool;
use super::ring::Ring;
use crate::disk::{Lane, RangeLimits};
use crate::image::{Access, Facts, FlushWay, Image};
use crate::memory::{Source, Target, length_of};
use crate::options::Transport;
use crate::request::{Completion, Operation};

/// A way to an image.
#[derive(Debug)]
pub(crate) struct QueueLane {
    // Dropped first: it tells the inbox's descriptor.
    ring: Option<Ring>,
    transport: Transport,
    inbox: Arc<Inbox>,
    /// What needed no waiting.
    done: Vec<Completion>,
    image: Arc<dyn Image>,
    facts: Facts,
    pool: Arc<Pool>,
    in_flight: usize,
}

/// A request that a thread carries out.
#[derive(Debug)]
enum Work {
    Read(u64, Target<'static>),
    Write(u64, Source<'static>),
    WriteZeroes(u64, u64, bool),
    Discard(u64, u64),
    Flush,
}

impl Work {
    fn carry_out(&self, image: &dyn Image) -> io::Result<()> {
        match self {
            Self::Read(offset, target) => image.read(*offset, target),
            Self::Write(offset, source) => image.write(*offset, source),
            Self::WriteZeroes(offset, length, may_unmap) => image.write_zeroes(*offset, *length, *may_unmap),
            Self::Discard(offset, length) => image.discard(*offset, *length),
            Self::Flush => image.flush(),
        }
    }
}

/// Sees to it that there is a completion, come what may.
struct Answer {
    tag: u64,
    result: Option<io::Result<()>>,
    inbox: Arc<Inbox>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        let result = self.result.take().unwrap_or_else(|| Err(io::Error::other("the disk's thread died")));
        self.inbox.put(Completion { tag: self.tag, result });
    }
}

impl QueueLane {
    /// A way to `image`.
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub(crate) fn new(image: Arc<dyn Image>, pool: Arc<Pool>, transport: Transport) -> io::Result<Self> {
        let inbox = Arc::new(Inbox::new()?);
        // Where io_uring is refused, threads do as well.
        let ring = match transport {
            Transport::Automatic => Ring::new(inbox.descriptor()).ok(),
            Transport::Threads => None,
        };
        let facts = image.facts();
        Ok(Self { ring, transport, inbox, done: Vec::new(), image, facts, pool, in_flight: 0 })
    }

    /// Whether the request makes sense.
    fn check(&self, operation: &Operation<'_>) -> io::Result<()> {
        let is_write = !matches!(operation, Operation::Read { .. } | Operation::Flush);
        if is_write && !self.facts.is_writable {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let within = |offset: u64, length: u64| {
            let block = u64::from(self.facts.block_size);
            let is_aligned = offset.is_multiple_of(block) && length.is_multiple_of(block);
            let end = offset.checked_add(length);
            if is_aligned && end.is_some_and(|end| end <= self.image.size()) {
                Ok(())
            } else {
                Err(io::ErrorKind::InvalidInput.into())
            }
        };
        let limited = |limits: Option<RangeLimits>, offset, length| match limits {
            None => Err(io::ErrorKind::Unsupported.into()),
            Some(limits) if length > limits.most => Err(io::ErrorKind::InvalidInput.into()),
            Some(_) => within(offset, length),
        };
        match *operation {
            Operation::Read { offset, buffers } | Operation::Write { offset, buffers } => {
                within(offset, length_of(buffers).ok_or(io::ErrorKind::InvalidInput)? as u64)
            }
            Operation::Flush => Ok(()),
            Operation::Discard { offset, length } => limited(self.facts.discard, offset, length),
            Operation::WriteZeroes { offset, length, .. } => limited(self.facts.write_zeroes, offset, length),
        }
    }

    /// Begins a request that makes sense; `true` if it is done already.
    ///
    /// # Safety
    /// As [`Lane::submit`].
    unsafe fn begin(&mut self, tag: u64, operation: Operation<'_>) -> io::Result<bool> {
        let work = match operation {
            Operation::Read { offset, buffers } => {
                // SAFETY: the caller's promise; it lives until the completion.
                let target = unsafe { Target::new(buffers.to_vec()) };
                // SAFETY: the caller's promise.
                match unsafe { self.directly(tag, offset, &target, Access::Read) }? {
                    Taken::Done => return Ok(true),
                    Taken::UnderWay => return Ok(false),
                    Taken::No => Work::Read(offset, target),
                }
            }
            Operation::Write { offset, buffers } => {
                // SAFETY: the caller's promise. It is not written to: its pieces only go into the plan of a write.
                let places = unsafe { Target::new(buffers.to_vec()) };
                // SAFETY: the caller's promise.
                match unsafe { self.directly(tag, offset, &places, Access::Write) }? {
                    Taken::Done => return Ok(true),
                    Taken::UnderWay => return Ok(false),
                    // SAFETY: the caller's promise; it lives until the completion.
                    Taken::No => Work::Write(offset, unsafe { Source::new(buffers.to_vec()) }),
                }
            }
            Operation::Flush => match (self.image.flush_way(), &mut self.ring) {
                (FlushWay::Nothing, _) => return Ok(true),
                (FlushWay::Sync(storage), _) if storage.is_in_memory() => {
                    storage.sync()?;
                    return Ok(true);
                }
                (FlushWay::Sync(storage), Some(ring)) if storage.descriptor().is_some() => {
                    ring.sync(tag, storage);
                    return Ok(false);
                }
                _ => Work::Flush,
            },
            Operation::Discard { offset, length } => Work::Discard(offset, length),
            Operation::WriteZeroes { offset, length, may_unmap } => {
                Work::WriteZeroes(offset, length, may_unmap)
            }
        };
        let image = Arc::clone(&self.image);
        let mut answer = Answer { tag, result: None, inbox: Arc::clone(&self.inbox) };
        self.pool.run(Box::new(move || {
            answer.result = Some(work.carry_out(&*image));
            // Everything that the job holds goes before its completion is known.
            drop((work, image));
            drop(answer);
        }));
        Ok(false)
    }

    /// Transfers between memory and files, without a thread: at once, or by the ring.
    ///
    /// # Safety
    /// As [`Lane::submit`].
    unsafe fn directly(
        &mut self,
        tag: u64,
        offset: u64,
        memory: &Target<'_>,
        access: Access,
    ) -> io::Result<Taken> {
        if self.transport == Transport::Threads {
            return Ok(Taken::No);
        }
        let Some(mut plan) = plan(&*self.image, offset, memory, access)? else { return Ok(Taken::No) };
        for (start, length) in &plan.zeros {
            memory.slice(*start, *length).zero();
        }
        // SAFETY: the caller's promise.
        unsafe { plan.carry_out_at_once(access) };
        if plan.transfers.is_empty() {
            return Ok(Taken::Done);
        }
        let Some(ring) = &mut self.ring else { return Ok(Taken::No) };
        // SAFETY: the caller's promise.
        unsafe { ring.transfer(tag, plan, access) };
        Ok(Taken::UnderWay)
    }
}

/// What became of a request without a thread.
enum Taken {
    No,
    UnderWay,
    Done,
}

impl Lane for QueueLane {
    unsafe fn submit(&mut self, tag: u64, operation: Operation<'_>) {
        self.in_flight += 1;
        // SAFETY: the caller's promise.
        let begun = self.check(&operation).and_then(|()| unsafe { self.begin(tag, operation) });
        match begun {
            Ok(false) => {}
            Ok(true) => self.done.push(Completion { tag, result: Ok(()) }),
            Err(error) => self.done.push(Completion { tag, result: Err(error) }),
        }
    }

    fn start(&mut self) {
        if self.ring.as_mut().is_some_and(|ring| !ring.start()) {
            // The kernel was short of something: come back.
            self.inbox.tell();
        }
    }

    fn completions(&mut self, done: &mut Vec<Completion>) {
        if !self.done.is_empty() && self.done.len() == self.in_flight {
            // There is nothing else that could have been told: the host need not be asked.
            self.in_flight = 0;
            return done.append(&mut self.done);
        }
        let before = done.len();
        done.append(&mut self.done);
        self.inbox.empty_into(done);
        if self.ring.as_mut().is_some_and(|ring| !ring.completions(done)) {
            self.inbox.tell();
        }
        self.in_flight -= done.len() - before;
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn wait_descriptor(&self) -> BorrowedFd<'_> {
        self.inbox.descriptor()
    }
}

impl Drop for QueueLane {
    fn drop(&mut self) {
        self.drain(&mut Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Raw;
    use crate::storage::memory::MemoryStorage;

    #[test]
    fn a_ring_is_there_unless_it_is_refused() {
        let image: Arc<dyn Image> = Arc::new(Raw::new(Arc::new(MemoryStorage::default()), 0, 0, true, true));
        let lane = |transport| QueueLane::new(Arc::clone(&image), Arc::new(Pool::new()), transport).unwrap();
        assert!(lane(Transport::Threads).ring.is_none());
        let is_refused = io_uring::IoUring::new(8).is_err();
        assert_eq!(lane(Transport::Automatic).ring.is_none(), is_refused);
    }
}
