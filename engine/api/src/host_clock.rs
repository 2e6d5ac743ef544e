//! The host's monotonic clock (`clock_gettime(2)`), read by way of the processor's time-stamp counter where the host's kernel does
//! the same: translated code can read that one by itself.

#![allow(unsafe_code)]

use std::arch::x86_64::{__cpuid, _mm_lfence, _rdtsc};
use std::fs;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, PoisonError};

use rustix::time::{ClockId, clock_gettime};

use crate::ticks::{Reading, Ruler, TickLine};

/// What the kernel reads its clocks by.
const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
/// How often the counter and the clock are read for one reading: nothing should come between.
const ATTEMPTS: usize = 4;

/// Whether the counter can be trusted is looked at again after so many lines.
const LINES_OF_TRUST: u32 = 8;

/// The line that holds now; changed by whoever has [`RULER`].
static LINE: SharedLine = SharedLine::new();
/// While there is no line: when there can be the next one, by the clock.
static DUE: AtomicU64 = AtomicU64::new(0);
/// While there is no line: the latest time that anybody may have read by one.
static LATEST: AtomicU64 = AtomicU64::new(0);
/// What lays the lines, and how many it has laid.
static RULER: Mutex<Option<(Ruler, u32)>> = Mutex::new(None);

/// What the clock shows, in nanoseconds since the host's start, but for its sleep. It never goes back.
#[inline]
pub fn now() -> u64 {
    now_and_line().0
}

/// What the clock shows, and the line on which it is, if there is one.
#[inline]
pub fn now_and_line() -> (u64, Option<TickLine>) {
    let line = LINE.read();
    match line.at(ordered_ticks()) {
        Some(now) => (now, Some(line)),
        None => lay_line(),
    }
}

/// What the clock shows, and the next line, if there is one.
#[cold]
fn lay_line() -> (u64, Option<TickLine>) {
    let clock = monotonic();
    if clock < DUE.load(Ordering::Relaxed) {
        return (clock.max(LATEST.load(Ordering::Relaxed)), None);
    }
    let mut ruler = RULER.lock().unwrap_or_else(PoisonError::into_inner);
    // Somebody else may just have laid it.
    let line = LINE.read();
    if let Some(now) = line.at(ordered_ticks()) {
        return (now, Some(line));
    }
    let now = reading();
    let (ruler, lines) = ruler.get_or_insert_with(|| (Ruler::new(now, 0), 0));
    let is_due = now.clock >= ruler.due();
    let mut line = if is_due { ruler.next(now) } else { None };
    let is_torn = is_due && line.is_none();
    if (is_torn || lines.is_multiple_of(LINES_OF_TRUST)) && !is_trusted() {
        line = None;
        ruler.give_up();
    }
    *lines = lines.wrapping_add(1);
    match line {
        Some(line) => {
            LINE.write(line);
            (line.shows, Some(line))
        }
        None => {
            LATEST.store(ruler.latest(), Ordering::Relaxed);
            DUE.store(ruler.due(), Ordering::Relaxed);
            LINE.write(TickLine::default());
            (now.clock.max(ruler.latest()), None)
        }
    }
}

/// Whether the counter counts at one rate, whatever the processor does, and the kernel finds it the same on all of them.
fn is_trusted() -> bool {
    const POWER_MANAGEMENT: u32 = 0x8000_0007;
    const INVARIANT: u32 = 1 << 8;
    let invariant =
        __cpuid(0x8000_0000).eax >= POWER_MANAGEMENT && __cpuid(POWER_MANAGEMENT).edx & INVARIANT != 0;
    invariant && fs::read_to_string(CLOCK_SOURCE).is_ok_and(|source| source.trim_end() == "tsc")
}

/// The counter right before the clock: so a line that begins there is not behind the clock.
fn reading() -> Reading {
    let attempt = || {
        let ticks = ordered_ticks();
        let clock = monotonic();
        let slept = read(ClockId::Boottime).saturating_sub(clock);
        (ordered_ticks().wrapping_sub(ticks), Reading { ticks, clock, slept })
    };
    let attempts: [_; ATTEMPTS] = std::array::from_fn(|_| attempt());
    let [first, ..] = attempts;
    attempts.into_iter().min_by_key(|(took, _)| *took).unwrap_or(first).1
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
    read(ClockId::Monotonic)
}

/// A clock of the host, in nanoseconds.
fn read(clock: ClockId) -> u64 {
    let now = clock_gettime(clock);
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
        let mut attempts = 0_u32;
        loop {
            let version = self.version.load(Ordering::Acquire);
            let [begin, ticks, multiplier, shows] =
                [0, 1, 2, 3].map(|n: usize| self.words[n].load(Ordering::Relaxed));
            fence(Ordering::Acquire);
            if version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version {
                return TickLine { begin, ticks, multiplier, shows };
            }
            // Whoever writes may have lost its place on a processor.
            if attempts < 100 {
                std::hint::spin_loop()
            } else {
                std::thread::yield_now()
            }
            attempts = attempts.saturating_add(1);
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
        let (now, line) = now_and_line();
        // The first measurement may have begun long ago, and begins again then.
        thread::sleep(Duration::from_millis(30));
        let Some(line) = line.or_else(|| now_and_line().1) else {
            assert!(!is_trusted(), "there must be a line by now");
            return;
        };
        let shown = line.at(ordered_ticks());
        let later = now_and_line().0;
        assert!(now <= later && shown.is_none_or(|shown| shown <= later && later - shown < 1_000_000_000));
    }
}
