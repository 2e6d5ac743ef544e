//! The machine's clock: nanoseconds since the machine was made, standing still while it is paused.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tern_chipset::Time;

use crate::host_clock;
use crate::ticks::TickLine;

/// A clock shared by everything in one machine.
///
/// Guests see it through the time-stamp counter, the local APIC's timers, the PIT, the RTC and the ACPI timer; because
/// all of them derive from this one reading, they can never drift apart.
#[derive(Debug)]
pub struct Clock {
    /// What the host's clock showed when this one showed zero, in nanoseconds.
    origin: u64,
    /// Nanoseconds for which the clock has stood still so far.
    skew: AtomicU64,
    /// What the clock shows while it is paused; [`RUNNING`] otherwise.
    paused_at: AtomicU64,
    /// Makes pausing and resuming exclude each other.
    switch: Mutex<()>,
}

const RUNNING: u64 = u64::MAX;

impl Clock {
    /// A running clock that shows zero.
    #[must_use]
    pub fn new() -> Self {
        Self {
            origin: host_clock::now(),
            skew: AtomicU64::new(0),
            paused_at: AtomicU64::new(RUNNING),
            switch: Mutex::default(),
        }
    }

    /// A clock that stands still and shows this time.
    #[must_use]
    pub fn paused_at(time: Time) -> Self {
        let clock = Self::new();
        clock.paused_at.store(time.as_nanos(), Ordering::Release);
        clock
    }

    /// Now.
    #[must_use]
    #[inline]
    pub fn now(&self) -> Time {
        self.now_and_line().0
    }

    /// Now, and the straight line on which the clock is for a while, unless it is paused meanwhile. `None` if there is none, or
    /// it is paused.
    #[must_use]
    #[inline]
    pub fn now_and_line(&self) -> (Time, Option<TickLine>) {
        loop {
            let skew = self.skew.load(Ordering::Acquire);
            let shown = self.paused_at.load(Ordering::Acquire);
            if shown != RUNNING {
                return (Time::from_nanos(shown), None);
            }
            let (now, line) = host_clock::now_and_line();
            // A pause that came and went meanwhile has changed the skew.
            if self.skew.load(Ordering::Acquire) == skew {
                let here = |host: u64| host.wrapping_sub(self.origin).wrapping_sub(skew);
                let line = line.map(|line| TickLine { shows: here(line.shows), ..line });
                return (Time::from_nanos(here(now)), line);
            }
        }
    }

    /// Stops the clock; a stopped clock stays as it is.
    pub fn pause(&self) {
        let _switch = self.switch.lock();
        let shown = self.now();
        self.paused_at.store(shown.as_nanos(), Ordering::Release);
    }

    /// Lets the clock go on from where it stopped.
    pub fn resume(&self) {
        let _switch = self.switch.lock();
        let shown = self.paused_at.load(Ordering::Acquire);
        if shown != RUNNING {
            self.skew.store(self.elapsed().wrapping_sub(shown), Ordering::Release);
            self.paused_at.store(RUNNING, Ordering::Release);
        }
    }

    /// Real nanoseconds since the clock was made; they overflow after 584 years.
    fn elapsed(&self) -> u64 {
        host_clock::now().wrapping_sub(self.origin)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_clock_stands_still() {
        let clock = Clock::new();
        clock.pause();
        let shown = clock.now();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert_eq!(clock.now(), shown);
        clock.resume();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(clock.now() > shown);
    }

    #[test]
    fn a_clock_goes_on_from_any_time() {
        let year = Time::from_nanos(365 * 86_400 * 1_000_000_000);
        let clock = Clock::paused_at(year);
        assert_eq!(clock.now(), year);
        clock.resume();
        assert!(clock.now() >= year && clock.now() - year < Time::from_nanos(1_000_000_000_000));
    }
}
