//! The host's monotonic clock (`clock_gettime(2)`), read by way of the processor's time-stamp counter where the host's kernel does
//! the same: translated code can read that one by itself.

#![allow(unsafe_code)]

use std::arch::x86_64::{__cpuid, _mm_lfence, _rdtsc};
use std::fs;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::time::{ClockId, clock_gettime};

use crate::ticks::{Reading, Ruler, TickLine};

/// What the kernel reads its clocks by.
const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
/// How often the counter and the clock are read for one reading: nothing should come between.
const ATTEMPTS: usize = 4;

/// The line that holds now; changed by whoever has [`RULER`].
static LINE: SharedLine = SharedLine::new();
/// What lays the lines; `None` where the counter cannot be trusted.
static RULER: OnceLock<Option<Mutex<Ruler>>> = OnceLock::new();

/// What the clock shows, in nanoseconds since the host's start, but for its sleep. It never goes back.
#[inline]
pub fn now() -> u64 {
    match LINE.read().at(ordered_ticks()) {
        Some(now) => now,
        None => lay_line().1,
    }
}

/// The line that holds now, if there is one.
pub fn line() -> Option<TickLine> {
    let line = LINE.read();
    if line.at(ordered_ticks()).is_some() { Some(line) } else { lay_line().0 }
}

/// The next line, if there is one, and what the clock shows.
#[cold]
fn lay_line() -> (Option<TickLine>, u64) {
    let ruler = RULER.get_or_init(|| is_trusted().then(|| Mutex::new(Ruler::new(reading()))));
    let Some(ruler) = ruler else { return (None, monotonic()) };
    let mut ruler = ruler.lock().unwrap_or_else(PoisonError::into_inner);
    let line = LINE.read();
    if let Some(now) = line.at(ordered_ticks()) {
        return (Some(line), now);
    }
    let clock = monotonic();
    if clock >= ruler.due() {
        let line = ruler.next(reading());
        LINE.write(line.unwrap_or_default());
        if let Some(line) = line {
            return (Some(line), line.shows);
        }
        if !is_trusted() {
            ruler.give_up();
        }
    }
    (None, clock.max(ruler.latest()))
}

/// Whether the counter counts at one rate, whatever the processor does, and the kernel finds it the same on all of them.
fn is_trusted() -> bool {
    const POWER_MANAGEMENT: u32 = 0x8000_0007;
    const INVARIANT: u32 = 1 << 8;
    let invariant =
        __cpuid(0x8000_0000).eax >= POWER_MANAGEMENT && __cpuid(POWER_MANAGEMENT).edx & INVARIANT != 0;
    invariant && fs::read_to_string(CLOCK_SOURCE).is_ok_and(|source| source.trim_end() == "tsc")
}

/// Both at the same time, the counter right before the clock: so a line that begins there is not behind the clock.
fn reading() -> Reading {
    let attempt = || {
        let ticks = ordered_ticks();
        let clock = monotonic();
        (ordered_ticks().wrapping_sub(ticks), Reading { ticks, clock })
    };
    let first = attempt();
    (1..ATTEMPTS)
        .map(|_| attempt())
        .chain([first])
        .min_by_key(|(took, _)| *took)
        .map_or(first.1, |(_, reading)| reading)
}

/// The time-stamp counter, read when all instructions before are done.
#[inline]
fn ordered_ticks() -> u64 {
    // SAFETY: neither touches memory, and every x86-64 processor has them.
    unsafe {
        _mm_lfence();
        _rdtsc()
    }
}

/// The clock itself.
fn monotonic() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // It counts from the host's start, and is never negative.
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

/// A line that one thread changes while others read it: they read again when its version is odd, or another one afterwards.
struct SharedLine {
    version: AtomicU32,
    words: [AtomicU64; 4],
}

impl SharedLine {
    const fn new() -> Self {
        Self { version: AtomicU32::new(0), words: [const { AtomicU64::new(0) }; 4] }
    }

    #[inline]
    fn read(&self) -> TickLine {
        loop {
            let version = self.version.load(Ordering::Acquire);
            let [begin, ticks, multiplier, shows] =
                [0, 1, 2, 3].map(|n: usize| self.words[n].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version {
                return TickLine { begin, ticks, multiplier, shows };
            }
            std::hint::spin_loop();
        }
    }

    /// One thread at a time.
    fn write(&self, line: TickLine) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        let words = [line.begin, line.ticks, line.multiplier, line.shows];
        for (place, word) in self.words.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn time_never_goes_back_and_is_the_hosts() {
        let until = Instant::now() + Duration::from_millis(300);
        let latest = AtomicU64::new(0);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while Instant::now() < until {
                        let seen = latest.load(Ordering::SeqCst);
                        let before = monotonic();
                        let shown = now();
                        let after = monotonic();
                        assert!(shown >= seen, "{shown} after {seen}");
                        assert!(
                            shown + 100_000 >= before && shown <= after + 100_000,
                            "{before} {shown} {after}"
                        );
                        latest.fetch_max(shown, Ordering::SeqCst);
                    }
                });
            }
        });
    }

    #[test]
    fn a_line_shows_what_the_clock_does() {
        now();
        thread::sleep(Duration::from_millis(30));
        let Some(line) = line() else {
            assert!(!is_trusted(), "there must be a line by now");
            return;
        };
        let shown = line.at(ordered_ticks());
        let clock = now();
        assert!(shown.is_none_or(|shown| shown <= clock && clock - shown < 1_000_000_000));
    }
}
