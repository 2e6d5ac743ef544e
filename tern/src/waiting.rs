//! What is shown while a guest boots: that it does, on a terminal, after a second and until the guest shows something itself or a command
//! starts in it; and of a command that does not start within half a minute, where to look.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tern_engine::start_thread;
use tern_image::{OnStderr, Progress as _};

/// How long nothing is shown.
const PATIENCE: Duration = Duration::from_secs(1);

/// After how much more a boot takes long enough to be asked about.
const LONG: Duration = Duration::from_secs(30);

/// Where to look for a command that does not start.
pub(crate) const HINT: &str = "the guest has not started the command for half a minute: `tern ps` tells the machine's name, and `tern console NAME` \
                    shows what its guest does";

/// A boot that is waited for.
pub(crate) struct Waiting(Mutex<Option<Shown>>);

/// The thread that shows it, until the sender is dropped.
struct Shown {
    over: Sender<()>,
    thread: JoinHandle<()>,
}

impl Waiting {
    /// Begins to wait. After half a minute `hint` is told, wherever standard error leads.
    ///
    /// # Errors
    /// The host has no threads left.
    pub(crate) fn start(hint: Option<&'static str>) -> io::Result<Self> {
        if hint.is_none() && !io::stderr().is_terminal() {
            return Ok(Self::silent());
        }
        let (over, waits) = channel();
        let thread = start_thread("waits", move || show(&waits, hint))?;
        Ok(Self(Mutex::new(Some(Shown { over, thread }))))
    }

    /// Nothing is ever shown.
    pub(crate) fn silent() -> Self {
        Self(Mutex::new(None))
    }

    /// The waiting is over; what was shown is gone when this returns.
    pub(crate) fn end(&self) {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Shown { over, thread }) = shown {
            drop(over);
            let _ = thread.join();
        }
    }
}

/// A guest's output, the first of which ends the waiting.
pub(crate) struct Awaited<W> {
    waiting: Option<Arc<Waiting>>,
    output: W,
}

impl<W> Awaited<W> {
    pub(crate) fn new(waiting: &Arc<Waiting>, output: W) -> Self {
        Self { waiting: Some(Arc::clone(waiting)), output }
    }
}

impl<W: Write> Write for Awaited<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(waiting) = self.waiting.take() {
            waiting.end();
        }
        self.output.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

fn show(waits: &Receiver<()>, hint: Option<&str>) {
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
        if let Some(hint) = hint {
            progress.end();
            progress.note(hint);
            begin();
        }
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
        for waiting in [Waiting::silent(), Waiting::start(Some(HINT)).unwrap()] {
            waiting.end();
            waiting.end();
        }
    }

    #[test]
    fn the_first_output_is_the_end_of_waiting() {
        let waiting = Arc::new(Waiting::start(Some(HINT)).unwrap());
        let mut shown = Vec::new();
        let mut output = Awaited::new(&waiting, &mut shown);
        output.write_all(b"first").unwrap();
        assert!(waiting.0.lock().unwrap().is_none());
        output.write_all(b" and second").unwrap();
        assert_eq!(shown, b"first and second");
    }
}
