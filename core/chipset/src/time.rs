//! The machine's own time line.

use core::ops::{Add, Sub};
use serde::{Deserialize, Serialize};

/// Nanoseconds since the machine was made; stops while the machine is paused.
///
/// 64 bits last 584 years. Arithmetic saturates, because guests choose the distances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(u64);

impl Time {
    /// The moment the machine was made.
    pub const ZERO: Self = Self(0);

    /// The moment `nanoseconds` after the machine was made.
    pub const fn from_nanos(nanoseconds: u64) -> Self {
        Self(nanoseconds)
    }

    /// Nanoseconds since the machine was made.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How many whole cycles of a clock of `hertz` fit into this time.
    pub(crate) const fn ticks(self, hertz: u64) -> u64 {
        let ticks = self.0 as u128 * hertz as u128 / NANOS_PER_SECOND as u128;
        if ticks > u64::MAX as u128 { u64::MAX } else { ticks as u64 }
    }

    /// The first moment at which `ticks` cycles of a clock of `hertz` have passed.
    pub(crate) const fn of_ticks(ticks: u64, hertz: u64) -> Self {
        let nanos = (ticks as u128 * NANOS_PER_SECOND as u128).div_ceil(hertz as u128);
        if nanos > u64::MAX as u128 { Self(u64::MAX) } else { Self(nanos as u64) }
    }
}

/// Nanoseconds in a second.
pub(crate) const NANOS_PER_SECOND: u64 = 1_000_000_000;

impl Add for Time {
    type Output = Self;
    fn add(self, span: Self) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}

impl Sub for Time {
    type Output = Self;
    /// The span since `earlier`; zero if `earlier` is in fact later.
    fn sub(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_moment_of_a_tick_is_the_first_that_has_seen_it() {
        for hertz in [32_768, 1_193_182, 3_579_545] {
            for ticks in [1, 2, 3, 1000, 65_536, 1 << 33] {
                let moment = Time::of_ticks(ticks, hertz);
                assert_eq!(moment.ticks(hertz), ticks);
                assert_eq!((moment - Time::from_nanos(1)).ticks(hertz), ticks - 1);
            }
        }
    }

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let end = Time::from_nanos(u64::MAX);
        assert_eq!(end + Time::from_nanos(1), end);
        assert_eq!(Time::ZERO - end, Time::ZERO);
        assert_eq!(Time::of_ticks(u64::MAX, 1), end);
        assert_eq!(end.ticks(u64::MAX), u64::MAX);
    }
}
