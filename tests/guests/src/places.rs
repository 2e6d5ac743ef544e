//! How many processors are kept busy at a time.
//!
//! A guest with time limits needs the host's processors for itself. Each machine takes as many places as it has
//! processors, and there are as many as the host has; a machine with more than that runs alone.
//!
//! Who has places and waited for more might wait for itself, or for another that does the same. So a test waits for its first
//! machine only, and starts further ones at once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, PoisonError};
use std::thread;

static TOTAL: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));
/// More than there are if tests have several machines.
static TAKEN: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

thread_local! {
    /// How many machines this test has that took places.
    static MACHINES: Arc<AtomicUsize> = Arc::default();
}

/// Places that are taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Places {
    count: usize,
    /// Of the test that took them, which may not be the one that drops them.
    machines: Arc<AtomicUsize>,
}

impl Places {
    /// Takes places for `cpus` processors, or all that the host has; waits until they are free if this test has none yet. What
    /// runs no guest takes none.
    pub(crate) fn take(cpus: usize) -> Self {
        let count = cpus.min(*TOTAL);
        let machines = MACHINES.with(Arc::clone);
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        if machines.fetch_add(1, Ordering::Relaxed) == 0 {
            let is_full = |taken: &mut usize| *taken + count > *TOTAL;
            taken = FREED.wait_while(taken, is_full).unwrap_or_else(PoisonError::into_inner);
        }
        *taken += count;
        Self { count, machines }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) -= self.count;
        self.machines.fetch_sub(1, Ordering::Relaxed);
        FREED.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_test_never_waits_for_its_own_machines_and_others_wait_for_them() {
        let first = Places::take(usize::MAX);
        let second = Places::take(1);
        let (sender, receiver) = channel();
        let other = thread::spawn(move || {
            let _places = Places::take(1);
            sender.send(()).unwrap();
        });
        let moment = Duration::from_millis(50);
        assert!(receiver.recv_timeout(moment).is_err());
        drop(first);
        // On a host of one processor, the second machine has all of them.
        assert!(*TOTAL > 1 || receiver.recv_timeout(moment).is_err());
        drop(second);
        other.join().unwrap();
        receiver.recv().unwrap();
    }
}
