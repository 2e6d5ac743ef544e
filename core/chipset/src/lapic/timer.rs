//! The local APIC's timer: counting down once or periodically, or waiting for a TSC value.
//!
//! SDM vol. 3 § 11.5.4. The counting modes are computed from the moment the count will end;
//! nothing ticks.

use crate::Time;
use serde::{Deserialize, Serialize};

/// The timer's input clock before its divider, in Hz: one tick per nanosecond.
pub const TIMER_FREQUENCY: u64 = 1_000_000_000;

/// The shortest period in nanoseconds. A guest that programs less gets this: nothing could serve
/// more than 100,000 interrupts per second, and the owner's clock must not be kept busy in vain.
const SHORTEST_PERIOD: u64 = 10_000;

/// The LVT's timer mode field (bits 18:17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
    Reserved,
}

impl Mode {
    pub(super) const fn of_lvt(entry: u32) -> Self {
        match entry >> 17 & 3 {
            0 => Self::OneShot,
            1 => Self::Periodic,
            2 => Self::TscDeadline,
            _ => Self::Reserved,
        }
    }

    /// Whether the count registers drive the timer.
    pub(super) const fn counts(self) -> bool {
        matches!(self, Self::OneShot | Self::Periodic)
    }
}

/// What the timer's registers hold, but for its LVT entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerState {
    /// Initial count register.
    pub initial_count: u32,
    /// Divide configuration register.
    pub divide_configuration: u32,
    /// When the count will reach zero; none if it does not run.
    pub expiry: Option<Time>,
    /// IA32_TSC_DEADLINE; zero if it is not armed.
    pub tsc_deadline: u64,
}

impl TimerState {
    /// Bits of the divide configuration register that exist.
    pub(super) const DIVIDE_MASK: u32 = 0b1011;

    /// The divider: 1 to 128.
    fn divider(&self) -> u64 {
        let exponent = self.divide_configuration & 3 | self.divide_configuration >> 1 & 4;
        1 << ((exponent + 1) & 7)
    }

    fn period(&self) -> u64 {
        let period = u64::from(self.initial_count) * self.divider();
        period.max(SHORTEST_PERIOD)
    }

    /// Starts (or with zero stops) the count.
    pub(super) fn start(&mut self, mode: Mode, count: u32, now: Time) {
        self.initial_count = count;
        let span = match mode {
            Mode::Periodic => self.period(),
            _ => u64::from(count) * self.divider(),
        };
        self.expiry = (count != 0).then(|| now + Time::from_nanos(span));
    }

    /// What the current count register shows.
    pub(super) fn current_count(&self, mode: Mode, now: Time) -> u32 {
        let Some(expiry) = self.expiry else { return 0 };
        let remaining = match (expiry - now).as_nanos() {
            0 if mode == Mode::Periodic => self.period() - (now - expiry).as_nanos() % self.period(),
            remaining => remaining,
        };
        let count = remaining.div_ceil(self.divider());
        u32::try_from(count).map_or(self.initial_count, |count| count.min(self.initial_count))
    }

    /// Changes the divider; the count goes on from where it is.
    pub(super) fn set_divide_configuration(&mut self, mode: Mode, value: u32, now: Time) {
        let remaining = self.current_count(mode, now);
        self.divide_configuration = value & Self::DIVIDE_MASK;
        if self.expiry.is_some() {
            let span = u64::from(remaining) * self.divider();
            self.expiry = Some(now + Time::from_nanos(span));
        }
    }

    /// Stops everything: the LVT's mode changed between counting and waiting for the TSC.
    pub(super) fn disarm(&mut self) {
        self.initial_count = 0;
        self.expiry = None;
        self.tsc_deadline = 0;
    }

    /// Whether the count has reached zero. However many periods have passed, the answer is one
    /// "yes": an operating system that lost ticks finds out from its clock, and a flood of late
    /// interrupts would only cost it more. The phase is kept.
    pub(super) fn poll_count(&mut self, mode: Mode, now: Time) -> bool {
        let Some(expiry) = self.expiry.filter(|expiry| *expiry <= now) else {
            return false;
        };
        self.expiry = (mode == Mode::Periodic).then(|| {
            let late = (now - expiry).as_nanos();
            now + Time::from_nanos(self.period() - late % self.period())
        });
        true
    }

    /// Whether the TSC has reached the deadline, which is then disarmed.
    pub(super) fn poll_tsc(&mut self, tsc: u64) -> bool {
        let due = self.tsc_deadline != 0 && self.tsc_deadline <= tsc;
        if due {
            self.tsc_deadline = 0;
        }
        due
    }
}
