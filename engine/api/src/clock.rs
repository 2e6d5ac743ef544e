//! The machine's clock: nanoseconds since the machine was made, standing still while it is paused.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use tern_chipset::Time;

/// A clock shared by everything in one machine.
///
/// Guests see it through the time-stamp counter, the local APIC's timers, the PIT, the RTC and the ACPI timer; because
/// all of them derive from this one reading, they can never drift apart.
#[derive(Debug)]
pub struct Clock {
    origin: Instant,
    pauses: Mutex<Pauses>,
}

#[derive(Debug, Default)]
struct Pauses {
    /// How long the clock has stood still so far.
    total: Duration,
    /// When the present pause began.
    since: Option<Instant>,
}

impl Clock {
    /// A running clock that shows zero.
    #[must_use]
    pub fn new() -> Self {
        Self { origin: Instant::now(), pauses: Mutex::default() }
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Time {
        let pauses = self.lock();
        let end = pauses.since.unwrap_or_else(Instant::now);
        let elapsed = end.saturating_duration_since(self.origin).saturating_sub(pauses.total);
        Time(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Stops the clock; a stopped clock stays as it is.
    pub fn pause(&self) {
        self.lock().since.get_or_insert_with(Instant::now);
    }

    /// Lets the clock go on from where it stopped.
    pub fn resume(&self) {
        let mut pauses = self.lock();
        if let Some(since) = pauses.since.take() {
            pauses.total += since.elapsed();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Pauses> {
        self.pauses.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
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
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(clock.now(), shown);
        clock.resume();
        std::thread::sleep(Duration::from_millis(2));
        assert!(clock.now() > shown);
    }
}
