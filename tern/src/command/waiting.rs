//! What is shown while a guest boots for a command: that it does, on a terminal, after a second and until the command starts; and after
//! half a minute, where to look.

use std::io::{self, IsTerminal};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tern_engine::start_thread;
use tern_image::{OnStderr, Progress as _};

/// How long nothing is shown.
const PATIENCE: Duration = Duration::from_secs(1);

/// After how much more a boot takes long enough to be asked about.
const LONG: Duration = Duration::from_secs(30);

const HINT: &str = "the guest has not started the command for half a minute: `tern ps` tells the machine's name, and `tern console NAME` \
                    shows what its guest does";

/// A boot that is waited for.
pub(super) struct Waiting(Mutex<Option<Shown>>);

/// The thread that shows it, until the sender is dropped.
struct Shown {
    over: Sender<()>,
    thread: JoinHandle<()>,
}

impl Waiting {
    /// Begins to wait; with `quiet`, nothing is ever shown.
    ///
    /// # Errors
    /// The host has no threads left.
    pub(super) fn start(quiet: bool) -> io::Result<Self> {
        if quiet {
            return Ok(Self(Mutex::new(None)));
        }
        let (over, waits) = channel();
        let thread = start_thread("command-waits", move || show(&waits))?;
        Ok(Self(Mutex::new(Some(Shown { over, thread }))))
    }

    /// The waiting is over; what was shown is gone when this returns.
    pub(super) fn end(&self) {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Shown { over, thread }) = shown {
            drop(over);
            let _ = thread.join();
        }
    }
}

fn show(waits: &Receiver<()>) {
    let is_over_within = |time| waits.recv_timeout(time) != Err(RecvTimeoutError::Timeout);
    if is_over_within(PATIENCE) {
        return;
    }
    let progress = OnStderr::new();
    let is_seen = io::stderr().is_terminal();
    let begin = || {
        if is_seen {
            progress.begin("starting the guest", None);
        }
    };
    begin();
    if !is_over_within(LONG) {
        progress.end();
        progress.note(HINT);
        begin();
        // An error is the end.
        let _ = waits.recv();
    }
    progress.end();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_no_more_is_not_kept_and_may_say_so_twice() {
        for quiet in [true, false] {
            let waiting = Waiting::start(quiet).unwrap();
            waiting.end();
            waiting.end();
        }
    }
}
