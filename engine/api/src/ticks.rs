//! How the processor's own counter of ticks tells the time: on one straight line after the other.

/// How long the rate is measured at least before a line may rest on it, in nanoseconds.
const SHORTEST: u64 = 10_000_000;
/// A line's longest life, in nanoseconds, and the longest first measurement. By a clock that goes evenly, a line is then off by less than
/// its reading takes; by one that is being set it is off by what that is set by in a second.
const LONGEST: f64 = 1e9;
/// The rate is that of so many last nanoseconds, and up to twice as many.
const WINDOW: f64 = 8e9;
/// A line that is ahead waits for the clock by going so much slower at most.
const SLOWEST: f64 = 500e-6;
/// The counter and the clock have gone different ways if they disagree by so many nanoseconds, and by more than this part of the
/// time that has passed.
const TOLERANCE: f64 = 1e6;
/// More than any clock is set by.
const RELATIVE_TOLERANCE: f64 = 0.1;
/// Longer sleeps of the host are noticed, in nanoseconds.
const SLEEP: u64 = 1_000_000;
/// One, as a multiplier.
const ONE: f64 = (1_u64 << TickLine::FRACTION) as f64;

/// Nanoseconds that depend on ticks by a straight line, for a while. All who read the time by a line and the one that follows
/// it read times that never go back, from whichever processors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct TickLine {
    /// Where it begins, in ticks.
    pub begin: u64,
    /// For how many ticks it holds, at most a second; 0 if there is none.
    pub ticks: u64,
    /// Nanoseconds a tick, with 32 binary digits behind the point. Its product with [`TickLine::ticks`] fits in 64 bits.
    pub multiplier: u64,
    /// What it shows where it begins, in nanoseconds.
    pub shows: u64,
}

impl TickLine {
    /// Binary digits behind the point of [`TickLine::multiplier`].
    pub const FRACTION: u8 = 32;

    /// What it shows at `now`, if it holds then.
    #[inline]
    #[must_use]
    pub const fn at(&self, now: u64) -> Option<u64> {
        let since = now.wrapping_sub(self.begin);
        if since < self.ticks { Some(self.after(since)) } else { None }
    }

    #[inline]
    const fn after(&self, ticks: u64) -> u64 {
        self.shows.wrapping_add(ticks.wrapping_mul(self.multiplier) >> Self::FRACTION)
    }

    /// What it shows where it ends: later than what anybody has read by it.
    const fn end(&self) -> u64 {
        self.after(self.ticks)
    }
}

/// What the counter and the clock showed at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The counter.
    pub ticks: u64,
    /// The clock, in nanoseconds.
    pub clock: u64,
    /// For how long the host has slept until then, in nanoseconds. The clock stands still meanwhile.
    pub slept: u64,
}

impl Reading {
    /// Ticks and nanoseconds since an earlier reading.
    fn since(self, earlier: Self) -> (f64, f64) {
        let difference = |now: u64, then: u64| now.wrapping_sub(then).cast_signed() as f64;
        (difference(self.ticks, earlier.ticks), difference(self.clock, earlier.clock))
    }
}

/// Lays line behind line along a clock.
#[derive(Debug)]
pub struct Ruler {
    /// Where the measurement of the rate began.
    first: Reading,
    /// Where the next one will have begun.
    middle: Reading,
    /// Where the line begins; without one, as `first`.
    last: Reading,
    /// When there can be a line, by the clock.
    due: u64,
    line: TickLine,
}

impl Ruler {
    /// Begins to measure. Somebody may have read a time up to `latest`.
    pub fn new(first: Reading, latest: u64) -> Self {
        let due = first.clock.saturating_add(SHORTEST);
        let line = TickLine { shows: latest, ..TickLine::default() };
        Self { first, middle: first, last: first, due, line }
    }

    /// The latest time that anybody may have read.
    pub const fn latest(&self) -> u64 {
        self.line.end()
    }

    /// When the next line can be had, by the clock.
    pub const fn due(&self) -> u64 {
        self.due
    }

    /// The line from `now` on, which is due, when the last one holds no longer. It shows what the clock does, or waits for it.
    /// `None` if the counter has not counted as the clock did: the measurement begins again.
    pub fn next(&mut self, now: Reading) -> Option<TickLine> {
        if self.is_torn(now) {
            *self = Self::new(now, self.latest());
            return None;
        }
        if now.since(self.middle).1 > WINDOW {
            (self.first, self.middle) = (self.middle, now);
        }
        let (ticks, nanoseconds) = now.since(self.first);
        let rate = nanoseconds / ticks;
        let life = nanoseconds.min(LONGEST);
        let shows = self.latest().max(now.clock);
        let slower = ((shows - now.clock) as f64 / life).min(SLOWEST);
        self.last = now;
        self.line = TickLine {
            begin: now.ticks,
            ticks: (life / rate) as u64,
            multiplier: (rate * (1.0 - slower) * ONE) as u64,
            shows,
        };
        Some(self.line)
    }

    /// There will be no more lines.
    pub fn give_up(&mut self) {
        self.due = u64::MAX;
    }

    /// Whether the counter and the clock have gone different ways since the line began, or the measurement.
    fn is_torn(&self, now: Reading) -> bool {
        let (ticks, nanoseconds) = now.since(self.last);
        let off = if self.line.ticks == 0 {
            // Of a short measurement there is nothing to compare with.
            if nanoseconds > LONGEST { f64::INFINITY } else { 0.0 }
        } else {
            (ticks * self.line.multiplier as f64 / ONE - nanoseconds).abs()
        };
        let asleep = now.slept.abs_diff(self.last.slept) > SLEEP;
        asleep || ticks <= 0.0 || off > TOLERANCE.max(nanoseconds * RELATIVE_TOLERANCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host whose counter counts `rate` times a nanosecond, and whose clock takes up to 40 ns to read.
    struct Host {
        rate: f64,
        time: f64,
        slept: f64,
        random: u64,
    }

    impl Host {
        fn new(rate: f64) -> Self {
            Self { rate, time: 0.0, slept: 0.0, random: 7 }
        }

        fn clock(&self) -> u64 {
            5_000 + self.time as u64
        }

        fn pass(&mut self, nanoseconds: f64) -> Reading {
            self.time += nanoseconds;
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let late = (self.random >> 33) % 40;
            let ticks = 1_000_000 + ((self.time + self.slept) * self.rate) as u64;
            Reading { ticks, clock: self.clock() + late, slept: self.slept as u64 }
        }
    }

    #[test]
    fn lines_follow_the_clock_and_never_go_back() {
        for rate in [0.1, 0.999, 2.445_406, 6.0] {
            let mut host = Host::new(rate);
            let mut ruler = Ruler::new(host.pass(0.0), 0);
            host.pass(11e6);
            let (mut latest, mut lines) = (0, 0);
            for step in 0..20_000 {
                let now = host.pass(if step % 1000 == 0 { 3e9 } else { 1e6 });
                let shown = match ruler.line.at(now.ticks) {
                    Some(shown) => shown,
                    None => {
                        lines += 1;
                        match ruler.next(now) {
                            Some(line) => line.shows,
                            // The first measurement took too long.
                            None => now.clock.max(ruler.latest()),
                        }
                    }
                };
                assert!(shown >= latest, "step {step}: {shown} after {latest}");
                let tolerance = if step < 100 { 400 } else { 60 };
                assert!(
                    shown.abs_diff(host.clock()) < tolerance,
                    "step {step}: {shown}, really {}",
                    host.clock()
                );
                latest = shown;
            }
            assert!((20..1500).contains(&lines), "{lines}");
        }
    }

    /// A ruler with a line, and the latest time that can be read by it.
    fn with_line(host: &mut Host) -> (Ruler, u64) {
        let mut ruler = Ruler::new(host.pass(0.0), 0);
        let line = ruler.next(host.pass(20e6)).unwrap();
        let latest = line.at(line.begin + line.ticks - 1).unwrap();
        (ruler, latest)
    }

    #[test]
    fn a_clock_that_stood_still_is_waited_for() {
        let mut host = Host::new(2.0);
        let (mut ruler, latest) = with_line(&mut host);
        // The host sleeps right behind the line's beginning: its counter counts, its clock does not.
        host.slept = 3600e9;
        let woken = host.pass(1.0);
        assert_eq!(ruler.next(woken), None);
        assert!(ruler.due() > woken.clock);
        let mut shown = latest;
        let mut off = u64::MAX;
        for step in 0..200 {
            let now = host.pass(if step == 0 { 11e6 } else { 1.1e9 });
            let line = ruler.next(now).unwrap();
            assert!(line.shows >= shown);
            assert!(line.shows - now.clock <= off);
            (shown, off) = (line.shows, line.shows - now.clock);
        }
        assert!(off < 60, "{off}");
    }

    #[test]
    fn a_sleep_while_the_rate_is_measured_begins_the_measurement_again() {
        for (slept, passed) in [(3600e9, 11e6), (2e6, 11e6), (0.0, 2e9)] {
            let mut host = Host::new(2.0);
            let mut ruler = Ruler::new(host.pass(0.0), 0);
            host.slept = slept;
            assert_eq!(ruler.next(host.pass(passed)), None, "{slept}");
            let line = ruler.next(host.pass(20e6)).unwrap();
            let rate = line.multiplier as f64 / ONE;
            assert!((0.4999..0.5001).contains(&rate), "{rate}");
        }
    }

    #[test]
    fn a_counter_that_begins_anew_or_stands_still_tears_the_line() {
        for ticks in [0, 5, u64::MAX] {
            let mut host = Host::new(2.0);
            let (mut ruler, latest) = with_line(&mut host);
            let now = Reading { ticks, ..host.pass(1e9) };
            assert_eq!(ruler.line.at(ticks), None);
            assert_eq!(ruler.next(now), None);
            assert!(ruler.latest() >= latest);
            // The same before there is a line.
            assert_eq!(ruler.next(Reading { clock: now.clock + 20_000_000, ..now }), None);
        }
    }

    #[test]
    fn a_clock_that_is_being_set_is_followed() {
        let mut host = Host::new(2.0);
        let mut ruler = Ruler::new(host.pass(0.0), 0);
        let mut shown = 0;
        for (step, by) in [0.0, 500e-6, -500e-6, 0.08, 0.0].iter().flat_map(|by| [by; 40]).enumerate() {
            // The clock goes by as much faster as it is set.
            host.rate = 2.0;
            host.slept -= if step == 0 { 0.0 } else { 1e9 * by };
            let now = Reading { slept: 0, ..host.pass(if step == 0 { 20e6 } else { 1e9 * (1.0 + by) }) };
            let line = ruler.next(now).unwrap();
            assert!(line.shows >= shown);
            // A line that is too fast is slowed down by 500 parts of a million; more takes as long as it is.
            let tolerance = if by.abs() < 0.01 && step < 120 { 1_100_000 } else { 100_000_000 };
            assert!(
                line.shows.abs_diff(now.clock) < tolerance,
                "step {step}: {}",
                line.shows.abs_diff(now.clock)
            );
            shown = line.shows;
        }
    }
}
