//! How many processors are kept busy at a time.
//!
//! A guest with time limits needs the host's processors for itself. Each machine takes as many places as it has
//! processors, and there are as many as the host has; a machine with more than that runs alone.

use std::sync::{Condvar, LazyLock, Mutex, PoisonError};
use std::thread;

static TOTAL: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));
static TAKEN: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

/// Places that are taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Places(usize);

impl Places {
    /// Waits until `cpus` processors, or all that the host has, are free. What runs no guest takes none.
    pub(crate) fn take(cpus: usize) -> Self {
        let wanted = cpus.min(*TOTAL);
        let taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken =
            FREED.wait_while(taken, |taken| *taken + wanted > *TOTAL).unwrap_or_else(PoisonError::into_inner);
        *taken += wanted;
        Self(wanted)
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= self.0;
        FREED.notify_all();
    }
}
