//! A disk's threads, for what blocks. They are started when there is work for them, and end with the disk.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tern_engine::start_thread;

/// Work.
pub(super) type Job = Box<dyn FnOnce() + Send>;

/// The most threads of a disk: more would hardly wait for the host's device at the same time.
const MOST: usize = 8;

/// A disk's threads. When the last reference goes, they finish what is queued, and end.
pub(crate) struct Pool {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
    is_over: bool,
}

impl Pool {
    pub(crate) fn new() -> Self {
        Self { shared: Arc::default() }
    }

    /// Has `job` done, some time soon, by one of the threads; or by this one, if the host has no thread for us.
    pub(super) fn run(&self, job: Job) {
        let mut state = self.shared.lock();
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() {
            drop(state);
            self.shared.changed.notify_one();
            return;
        }
        if state.threads == MOST {
            return;
        }
        let shared = Arc::clone(&self.shared);
        state.threads += 1;
        if start_thread("disk", move || shared.work()).is_ok() {
            return;
        }
        state.threads -= 1;
        if state.threads == 0 {
            let jobs: Vec<Job> = state.jobs.drain(..).collect();
            drop(state);
            jobs.into_iter().for_each(|job| job());
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.lock();
            } else if state.is_over {
                state.threads -= 1;
                drop(state);
                self.changed.notify_all();
                return;
            } else {
                state.idle += 1;
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.idle -= 1;
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().is_over = true;
        self.shared.changed.notify_all();
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        write!(f, "Pool({} threads, {} idle, {} jobs)", state.threads, state.idle, state.jobs.len())
    }
}
