//! What processors are at, looked at a thousand times a second.
//!
//! Each processor notes what it begins; a thread of its own looks at the notes and counts. That costs a processor a store where it
//! changes its work, and nothing is measured unless somebody wants to know.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tern_engine::start_thread;

/// How often processors are looked at.
const INTERVAL: Duration = Duration::from_millis(1);

/// What a processor is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Work {
    /// Nothing of the engine's: it halts, or the machine answers it.
    Outside,
    /// Running translated code.
    Translated,
    /// Doing for translated code what that cannot do by itself: walking page tables, finding code, rare instructions.
    Asked,
    /// Interpreting.
    Interpreting,
    /// Translating.
    Translating,
}

impl Work {
    /// Each at its own number.
    const ALL: [Self; 5] =
        [Self::Outside, Self::Translated, Self::Asked, Self::Interpreting, Self::Translating];
}

/// The kinds of work that are told, with the names that users read.
const TOLD: [(Work, &str); 4] = [
    (Work::Translated, "ms-translated-code"),
    (Work::Asked, "ms-slow-path"),
    (Work::Interpreting, "ms-interpreter"),
    (Work::Translating, "ms-translator"),
];

/// What one processor is at, and how long it was found at what, in microseconds.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Gauge {
    /// First, so that translated code finds it where the gauge is.
    work: AtomicU8,
    found: [AtomicU64; Work::ALL.len()],
}

impl Gauge {
    /// Notes what begins.
    #[inline(always)]
    pub fn set(&self, work: Work) {
        self.work.store(work as u8, Ordering::Relaxed);
    }

    /// Notes what begins; gives what the processor was at.
    #[inline(always)]
    pub fn begin(&self, work: Work) -> Work {
        let before = usize::from(self.work.load(Ordering::Relaxed));
        self.set(work);
        Work::ALL.get(before).copied().unwrap_or(Work::Outside)
    }

    /// Counts `passed`, the time since the last look, for what the processor is at now.
    fn look(&self, passed: Duration) {
        let work = usize::from(self.work.load(Ordering::Relaxed));
        if let Some(found) = self.found.get(work) {
            found.fetch_add(passed.as_micros().try_into().unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// How many milliseconds the processor was at what, about; nothing if nobody looked.
    pub fn named(&self) -> Vec<(&'static str, u64)> {
        let found = |work: Work| self.found[work as usize].load(Ordering::Relaxed) / 1000;
        let told: Vec<_> = TOLD.iter().map(|&(work, name)| (name, found(work))).collect();
        if told.iter().all(|&(_, count)| count == 0) { Vec::new() } else { told }
    }
}

/// The thread that looks; dropping this ends it.
#[derive(Debug)]
pub struct Sampler {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sampler {
    /// Begins to look at these processors.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn start(gauges: Vec<Arc<Gauge>>) -> std::io::Result<Self> {
        let ended = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ended);
        let look = move || {
            let mut last = Instant::now();
            while !until.load(Ordering::Relaxed) {
                thread::sleep(INTERVAL);
                let now = Instant::now();
                gauges.iter().for_each(|gauge| gauge.look(now - last));
                last = now;
            }
        };
        Ok(Self { ended, thread: Some(start_thread("sampler", look)?) })
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It counts, and nothing in that panics.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_counts_for_what_a_processor_is_at() {
        let gauge = Gauge::default();
        assert_eq!(gauge.named(), []);
        gauge.look(INTERVAL);
        assert_eq!(gauge.named(), [], "halting is not the engine's time");
        for (work, times) in [(Work::Translated, 3), (Work::Asked, 1), (Work::Translating, 2)] {
            gauge.set(work);
            gauge.look(times * INTERVAL);
        }
        let expected = [3, 1, 0, 2];
        assert_eq!(gauge.named().iter().map(|(_, count)| *count).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_was_begun_before_is_known_after() {
        for work in Work::ALL {
            let gauge = Gauge::default();
            gauge.set(work);
            assert_eq!(gauge.begin(Work::Translating), work);
            assert_eq!(gauge.begin(work), Work::Translating);
        }
    }

    #[test]
    fn the_sampler_looks_until_it_is_dropped() {
        let gauge = Arc::new(Gauge::default());
        gauge.set(Work::Interpreting);
        let sampler = Sampler::start(vec![Arc::clone(&gauge)]).unwrap();
        while gauge.named().is_empty() {
            thread::yield_now();
        }
        drop(sampler);
        let after = gauge.named();
        thread::sleep(5 * INTERVAL);
        assert_eq!(gauge.named(), after);
    }
}
