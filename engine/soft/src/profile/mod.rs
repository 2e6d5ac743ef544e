//! What an engine tells of its work to whoever looks for where time goes.
//!
//! | file | what it tells |
//! |---|---|
//! | `gauge` | what processors are at, sampled: for `--stats` |
//! | `jitdump` | translated code as perf(1) reads it |

pub mod gauge;
mod jitdump;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use jitdump::JitDump;

/// What is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Profile {
    /// How long processors are at which work: part of their statistics then.
    pub is_sampled: bool,
    /// How many checks of translated code find their page: part of their statistics then. Each check costs an instruction more.
    pub counts_hits: bool,
    /// What is translated: in the file `jit-PID.dump` in the current folder, for perf(1).
    pub is_dumped: bool,
}

/// Where all processors of this process write down what they translate; nowhere if nobody wants to know.
#[derive(Debug, Clone, Default)]
pub struct SharedJitDump(Option<Arc<Mutex<JitDump>>>);

impl SharedJitDump {
    /// The place, if the profile wants one.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn new(profile: Profile) -> io::Result<Self> {
        let dump = profile.is_dumped.then(|| JitDump::create(Path::new("."))).transpose()?;
        Ok(Self(dump.map(|dump| Arc::new(Mutex::new(dump)))))
    }

    /// The place, if there is one.
    pub fn lock(&self) -> Option<MutexGuard<'_, JitDump>> {
        Some(self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
