//! Making sure that every processor has forgotten the pages that it may write without asking.
//!
//! A processor notes a page as written when it is allowed to write it, which its TLB remembers. Whoever takes the notes
//! must see to it that later writes are noted anew: after [`Rendezvous::all`] each processor has dropped its TLB's entries,
//! and every write by an older entry is in memory.
//!
//! ```text
//!  processor's thread                         whoever takes the log
//!  enter: inside, then look at the epoch      take the notes
//!  in the guest: look when called             next epoch, call everybody
//!  behind? flush, say so                      wait until all inside have said so
//!  leave: not inside, say so                  copy the pages
//! ```

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

/// One processor's part.
#[derive(Debug, Default)]
struct Presence {
    inside: AtomicBool,
    seen: AtomicU64,
}

/// All processors' flushes.
#[derive(Debug)]
pub struct Rendezvous {
    epoch: AtomicU64,
    processors: Box<[Presence]>,
    changed: Condvar,
    change: Mutex<()>,
}

impl Rendezvous {
    /// For a machine with `cpus` processors.
    pub fn new(cpus: u32) -> Self {
        Self {
            epoch: AtomicU64::new(0),
            processors: (0..cpus).map(|_| Presence::default()).collect(),
            changed: Condvar::new(),
            change: Mutex::new(()),
        }
    }

    /// Processor `index` enters the guest; says whether it must flush before, and counts that as done.
    #[must_use]
    pub fn enter(&self, index: usize) -> bool {
        let Some(processor) = self.processors.get(index) else { return false };
        processor.inside.store(true, Ordering::SeqCst);
        self.catch_up(index)
    }

    /// Processor `index`, in the guest, was called: says whether it must flush, which it does before it goes on.
    #[must_use]
    pub fn catch_up(&self, index: usize) -> bool {
        let Some(processor) = self.processors.get(index) else { return false };
        let epoch = self.epoch.load(Ordering::SeqCst);
        if processor.seen.load(Ordering::SeqCst) == epoch {
            return false;
        }
        processor.seen.store(epoch, Ordering::SeqCst);
        self.tell();
        true
    }

    /// Processor `index` has left the guest.
    pub fn leave(&self, index: usize) {
        if let Some(processor) = self.processors.get(index) {
            processor.inside.store(false, Ordering::SeqCst);
            // Nobody waits unless it is behind.
            if processor.seen.load(Ordering::SeqCst) != self.epoch.load(Ordering::SeqCst) {
                self.tell();
            }
        }
    }

    /// Makes every processor flush and waits for those that are in the guest. `call` makes them look.
    pub fn all(&self, call: impl Fn()) {
        let epoch = self.epoch.fetch_add(1, Ordering::SeqCst) + 1;
        call();
        let is_behind = |processor: &Presence| {
            processor.inside.load(Ordering::SeqCst) && processor.seen.load(Ordering::SeqCst) < epoch
        };
        let change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(change, |()| self.processors.iter().any(is_behind)));
    }

    fn tell(&self) {
        // Taking the lock orders this after the waiter's last look.
        drop(self.change.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn processors_outside_flush_when_they_enter() {
        let rendezvous = Rendezvous::new(2);
        assert!(!rendezvous.enter(0));
        rendezvous.leave(0);
        rendezvous.all(|| {});
        assert!(rendezvous.enter(0) && rendezvous.enter(1));
        assert!(!rendezvous.catch_up(0));
    }

    #[test]
    fn one_inside_is_waited_for_until_it_has_caught_up_or_left() {
        for leaves in [false, true] {
            let rendezvous = Arc::new(Rendezvous::new(1));
            assert!(!rendezvous.enter(0));
            let (call, called) = std::sync::mpsc::channel();
            let processor = Arc::clone(&rendezvous);
            let flushed = Arc::new(AtomicBool::new(false));
            let done = Arc::clone(&flushed);
            let thread = std::thread::spawn(move || {
                called.recv().unwrap();
                done.store(true, Ordering::SeqCst);
                if leaves {
                    processor.leave(0);
                } else {
                    assert!(processor.catch_up(0));
                }
            });
            rendezvous.all(|| call.send(()).unwrap());
            assert!(flushed.load(Ordering::SeqCst));
            thread.join().unwrap();
        }
    }
}
