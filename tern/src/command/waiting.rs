//! What is shown while a guest boots for a command: that it does, on a terminal, after a second and until the command starts; and after
//! half a minute, where to look.

use std::io::{self, IsTerminal};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tern_image::{OnStderr, Progress as _};

use crate::threads;

/// How long nothing is shown.
const PATIENCE: Duration = Duration::from_secs(1);

/// After how much more a boot takes long enough to be asked about.
const LONG: Duration = Duration::from_secs(30);

const HINT: &str = "the guest has not started the command for half a minute: `tern ps` tells the machine's name, and `tern console NAME` \
                    shows what its guest does";

/// Whether the waiting is over, and who is to hear of it.
type Over = (Mutex<bool>, Condvar);

/// A boot that is waited for.
pub(super) struct Waiting {
    over: Arc<Over>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Waiting {
    /// Begins to wait; with `quiet`, nothing is ever shown.
    ///
    /// # Errors
    /// The host has no threads left.
    pub(super) fn start(quiet: bool) -> io::Result<Self> {
        let over = Arc::new(Over::default());
        let thread = if quiet {
            None
        } else {
            let over = Arc::clone(&over);
            Some(threads::start("command-waits", move || show(&over))?)
        };
        Ok(Self { over, thread: Mutex::new(thread) })
    }

    /// The waiting is over; what was shown is gone when this returns.
    pub(super) fn end(&self) {
        *self.over.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.over.1.notify_all();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

fn show(over: &Over) {
    if is_over_within(over, PATIENCE) {
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
    let is_long = !is_over_within(over, LONG);
    if is_long {
        progress.end();
        progress.note(HINT);
        begin();
        let lock = over.0.lock().unwrap_or_else(PoisonError::into_inner);
        drop(over.1.wait_while(lock, |is_over| !*is_over));
    }
    progress.end();
}

fn is_over_within(over: &Over, time: Duration) -> bool {
    let lock = over.0.lock().unwrap_or_else(PoisonError::into_inner);
    let waited = over.1.wait_timeout_while(lock, time, |is_over| !*is_over);
    *waited.unwrap_or_else(PoisonError::into_inner).0
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
