//! The command's streams, each a thread.
//!
//! ```text
//!  host ── Input ──▶ Feed ──▶ standard input            told by Credit what it has taken
//!  host ◀── Output ── drain ◀── standard output, error   waits for Credit
//! ```

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use tern_command_protocol::{FromGuest, MOST_DATA, Stream, WINDOW};

use crate::port::Sender;

/// Input that has come and was not yet taken. The host sends no more than a window of it.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    state: Mutex<Feeding>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Feeding {
    waiting: VecDeque<Vec<u8>>,
    has_ended: bool,
}

impl Feed {
    fn lock(&self) -> MutexGuard<'_, Feeding> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, data: Vec<u8>) {
        self.lock().waiting.push_back(data);
        self.changed.notify_one();
    }

    pub(crate) fn end(&self) {
        self.lock().has_ended = true;
        self.changed.notify_one();
    }

    fn next(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        loop {
            match state.waiting.pop_front() {
                Some(data) => return Some(data),
                None if state.has_ended => return None,
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Gives the command its input until it has ended, or takes no more.
    pub(crate) fn run(&self, mut target: impl Write, host: &Sender) {
        while let Some(data) = self.next() {
            let taken = target.write_all(&data);
            let count = u32::try_from(data.len()).unwrap_or(0);
            let told = match taken {
                Ok(()) => host.send(&FromGuest::Credit(count)),
                Err(_) => {
                    let _ = host.send(&FromGuest::InputGone);
                    return;
                }
            };
            if told.is_err() {
                return;
            }
        }
    }
}

/// How much of a stream may be sent.
#[derive(Debug)]
pub(crate) struct Allowance {
    state: Mutex<Allowed>,
    changed: Condvar,
    /// Can be read when nobody takes any more.
    gone: OwnedFd,
}

#[derive(Debug)]
struct Allowed {
    bytes: u32,
    is_gone: bool,
}

impl Allowance {
    pub(crate) fn new() -> io::Result<Self> {
        let state = Mutex::new(Allowed { bytes: WINDOW, is_gone: false });
        Ok(Self { state, changed: Condvar::new(), gone: eventfd(0, EventfdFlags::CLOEXEC)? })
    }

    fn lock(&self) -> MutexGuard<'_, Allowed> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, count: u32) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_add(count);
        self.changed.notify_one();
    }

    /// Nobody takes any more.
    pub(crate) fn gone(&self) {
        self.lock().is_gone = true;
        self.changed.notify_one();
        // It stays readable.
        let _ = rustix::io::write(&self.gone, &1_u64.to_ne_bytes());
    }

    /// Waits until something may be sent, and says how much.
    fn wait(&self) -> Option<usize> {
        let state = self.lock();
        let waited = self.changed.wait_while(state, |state| state.bytes == 0 && !state.is_gone);
        let state = waited.unwrap_or_else(PoisonError::into_inner);
        (!state.is_gone).then(|| usize::try_from(state.bytes).unwrap_or(MOST_DATA).min(MOST_DATA))
    }

    fn take(&self, count: usize) {
        let mut state = self.lock();
        state.bytes = state.bytes.saturating_sub(u32::try_from(count).unwrap_or(u32::MAX));
    }
}

/// Passes a stream of the command on until it has ended, nobody takes it any more, or there is nothing in it and the command is over:
/// what it has left running in the background may hold it open for good. `over` can be read then.
pub(crate) fn drain(
    source: &OwnedFd,
    stream: Stream,
    over: &OwnedFd,
    allowance: &Allowance,
    host: &Sender,
) -> io::Result<()> {
    let mut data = vec![0; MOST_DATA];
    while let Some(most) = allowance.wait() {
        let mut descriptors = [source, over, &allowance.gone].map(|fd| PollFd::new(fd, PollFlags::IN));
        match poll(&mut descriptors, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let [has_something, is_over, is_gone] =
            descriptors.map(|descriptor| !descriptor.revents().is_empty());
        if is_gone || is_over && !has_something {
            break;
        }
        if !has_something {
            continue;
        }
        match rustix::io::read(source, &mut data[..most]) {
            Ok(0) => break,
            Ok(count) => {
                allowance.take(count);
                host.send(&FromGuest::Output(stream, data[..count].to_vec()))?;
            }
            Err(rustix::io::Errno::INTR) => {}
            // A terminal that nobody has open any more.
            Err(_) => break,
        }
    }
    Ok(())
}
