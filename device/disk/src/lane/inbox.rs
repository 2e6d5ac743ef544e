//! Where completions wait for whoever owns the lane, and the eventfd(2) that tells of them.

use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::event::{EventfdFlags, eventfd};

use crate::request::Completion;

/// Completions of one lane.
#[derive(Debug)]
pub(super) struct Inbox {
    done: Mutex<Vec<Completion>>,
    event: OwnedFd,
}

impl Inbox {
    pub(super) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Self { done: Mutex::default(), event })
    }

    /// Puts one in, and tells.
    pub(super) fn put(&self, completion: Completion) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        let was_empty = done.is_empty();
        done.push(completion);
        drop(done);
        // Whoever empties the box has taken back the telling before.
        if was_empty {
            self.tell();
        }
    }

    /// Makes the descriptor readable.
    pub(super) fn tell(&self) {
        // It fails only if the counter is at its end, and then it is readable.
        let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
    }

    /// Takes back the telling, then everything that is in.
    pub(super) fn empty_into(&self, target: &mut Vec<Completion>) {
        // It fails if there was nothing to take back.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        target.append(&mut mem::take(&mut *done));
    }

    /// Readable when there may be something in.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
