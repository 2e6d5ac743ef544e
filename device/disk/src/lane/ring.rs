//! Transfers through io_uring(7).

#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};

use super::plan::{Plan, Transfer};
use crate::image::{Access, Hold};
use crate::memory::Target;
use crate::request::Completion;
use crate::storage::Storage;

/// Entries of the submission queue; the completion queue has twice as many.
const ENTRIES: u32 = 128;

/// The most pieces of one transfer (`IOV_MAX`); what is more follows when these are done.
const MOST_PIECES: usize = 1024;

/// A ring and what is under way in it.
pub(super) struct Ring {
    ring: IoUring,
    requests: Vec<Option<Request>>,
    /// Unused places in `requests`.
    free: Vec<usize>,
    /// Transfers for which the ring had no room yet.
    waiting: VecDeque<Step>,
    /// Transfers that the ring has.
    inside: usize,
    /// Whether the submission queue has entries that the kernel was not told of.
    is_stale: bool,
}

/// Names a transfer of a request.
#[derive(Debug, Clone, Copy)]
struct Step {
    request: u32,
    transfer: u32,
}

impl Step {
    fn to_bits(self) -> u64 {
        u64::from(self.request) << 32 | u64::from(self.transfer)
    }

    fn from_bits(bits: u64) -> Self {
        // Both halves fit by construction.
        Self { request: (bits >> 32) as u32, transfer: bits as u32 }
    }
}

#[derive(Debug)]
struct Request {
    tag: u64,
    what: What,
    transfers: Vec<Transfer>,
    left: usize,
    error: Option<io::Error>,
    _holds: Vec<Hold>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Read,
    Write,
    Sync,
}

impl Ring {
    /// Makes a ring that tells `event` of completions.
    ///
    /// # Errors
    /// The kernel has no io_uring, or forbids it.
    pub(super) fn new(event: BorrowedFd<'_>) -> io::Result<Self> {
        let ring = IoUring::new(ENTRIES)?;
        if !ring.params().is_feature_nodrop() || !ring.params().is_feature_submit_stable() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        ring.submitter().register_eventfd(event.as_raw_fd())?;
        Ok(Self {
            ring,
            requests: Vec::new(),
            free: Vec::new(),
            waiting: VecDeque::new(),
            inside: 0,
            is_stale: false,
        })
    }

    /// Begins the transfers of a plan, of which there is at least one.
    ///
    /// # Safety
    /// The buffers may be accessed until the completion was returned or this was dropped.
    pub(super) unsafe fn transfer(&mut self, tag: u64, plan: Plan, access: Access) {
        let what = if access == Access::Read { What::Read } else { What::Write };
        self.begin(tag, what, plan.transfers, plan.holds);
    }

    /// Begins a sync.
    pub(super) fn sync(&mut self, tag: u64, storage: std::sync::Arc<dyn Storage>) {
        let transfer = Transfer { storage, offset: 0, buffers: Vec::new(), length: 0 };
        self.begin(tag, What::Sync, vec![transfer], Vec::new());
    }

    fn begin(&mut self, tag: u64, what: What, transfers: Vec<Transfer>, holds: Vec<Hold>) {
        let left = transfers.len();
        let request = Request { tag, what, transfers, left, error: None, _holds: holds };
        let index = match self.free.pop() {
            Some(index) => {
                self.requests[index] = Some(request);
                index
            }
            None => {
                self.requests.push(Some(request));
                self.requests.len() - 1
            }
        };
        for transfer in 0..left {
            // A plan has few transfers, and there are fewer requests than 2^32.
            self.waiting.push_back(Step { request: index as u32, transfer: transfer as u32 });
        }
    }

    /// Gives the ring what it has room for. If the kernel does not take it now, `false`: try again.
    pub(super) fn start(&mut self) -> bool {
        let room = self.ring.params().cq_entries() as usize;
        loop {
            while self.inside < room
                && let Some(step) = self.waiting.front().copied()
            {
                let Some(entry) = self.entry(step) else {
                    self.waiting.pop_front();
                    continue;
                };
                // SAFETY: the pieces' addresses are in a vector that the request owns until this step's completion, and that
                // nobody changes meanwhile; the memory they lead to may be accessed, as `transfer` was promised; the file is
                // kept open by the request.
                if unsafe { self.ring.submission().push(&entry) }.is_err() {
                    break;
                }
                self.waiting.pop_front();
                self.inside += 1;
                self.is_stale = true;
            }
            if !self.is_stale {
                return true;
            }
            match self.ring.submit() {
                Ok(_) => {
                    self.is_stale = !self.ring.submission().is_empty();
                    if self.waiting.is_empty() || self.inside >= room || self.is_stale {
                        return !self.is_stale;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }

    fn entry(&self, step: Step) -> Option<squeue::Entry> {
        let request = self.requests.get(step.request as usize)?.as_ref()?;
        let transfer = request.transfers.get(step.transfer as usize)?;
        let (descriptor, _) = transfer.storage.descriptor()?;
        let file = types::Fd(descriptor.as_raw_fd());
        let pieces = transfer.buffers.as_ptr().cast::<libc::iovec>();
        // At most 1024.
        let count = transfer.buffers.len().min(MOST_PIECES) as u32;
        let entry = match request.what {
            What::Read => opcode::Readv::new(file, pieces, count).offset(transfer.offset).build(),
            What::Write => opcode::Writev::new(file, pieces, count).offset(transfer.offset).build(),
            What::Sync => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
        };
        Some(entry.user_data(step.to_bits()))
    }

    /// Appends what was completed, and starts what became possible by that; returns as [`Self::start`].
    pub(super) fn completions(&mut self, done: &mut Vec<Completion>) -> bool {
        loop {
            let next = self.ring.completion().next();
            let Some(entry) = next else { break };
            self.inside -= 1;
            self.note(Step::from_bits(entry.user_data()), entry.result(), done);
        }
        self.start()
    }

    /// Notes a transfer's result.
    fn note(&mut self, step: Step, result: i32, done: &mut Vec<Completion>) {
        let Some(Some(request)) = self.requests.get_mut(step.request as usize) else { return };
        let Some(transfer) = request.transfers.get_mut(step.transfer as usize) else { return };
        let is_over = match usize::try_from(result) {
            Ok(_) if request.what == What::Sync => true,
            Ok(0) if transfer.length > 0 && request.what == What::Read => {
                // Beyond the end of the file there are zeros.
                // SAFETY: as `transfer` was promised; the kernel is done with the buffers.
                unsafe { Target::new(transfer.buffers.clone()) }.zero();
                true
            }
            Ok(0) if transfer.length > 0 => {
                request.error.get_or_insert(io::ErrorKind::WriteZero.into());
                true
            }
            Ok(count) => {
                transfer.advance(count.min(transfer.length));
                transfer.length == 0
            }
            Err(_) => {
                let error = io::Error::from_raw_os_error(result.saturating_neg());
                let again = matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR));
                if !again {
                    request.error.get_or_insert(error);
                }
                !again
            }
        };
        if !is_over {
            self.waiting.push_back(step);
            return;
        }
        request.left -= 1;
        if request.left == 0 {
            let error = request.error.take();
            done.push(Completion { tag: request.tag, result: error.map_or(Ok(()), Err) });
            self.requests[step.request as usize] = None;
            self.free.push(step.request as usize);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // The kernel may access the buffers until it has said that it is done.
        self.waiting.clear();
        while self.inside > 0 {
            if let Err(error) = self.ring.submit_and_wait(1)
                && error.kind() != io::ErrorKind::Interrupted
            {
                thread::sleep(Duration::from_millis(1));
            }
            while self.ring.completion().next().is_some() {
                self.inside -= 1;
            }
        }
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({} inside, {} waiting)", self.inside, self.waiting.len())
    }
}
