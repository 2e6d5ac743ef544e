//! Progress of what may take long: nothing is shown of what is over within a second.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tern_image::{OnStderr, Progress as _};

/// How long nothing is shown.
const PATIENCE: Duration = Duration::from_secs(1);

/// A step that may take long. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Patience {
    what: String,
    since: Instant,
    shown: Mutex<Option<OnStderr>>,
}

impl Patience {
    /// A step that begins now.
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), since: Instant::now(), shown: Mutex::new(None) }
    }

    /// So much of so much is done.
    pub(crate) fn told(&self, done: u64, total: u64) {
        if self.since.elapsed() < PATIENCE {
            return;
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let progress = shown.get_or_insert_with(|| {
            let progress = OnStderr::new();
            progress.begin(&self.what, Some(total));
            progress
        });
        progress.advance(done);
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        if let Some(progress) = self.shown.get_mut().unwrap_or_else(PoisonError::into_inner) {
            progress.end();
        }
    }
}
