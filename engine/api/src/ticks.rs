//! How the processor's own counter of ticks tells the time: on one straight line after the other.

/// How long the rate is measured before a line may rest on it, in nanoseconds.
const FIRST_MEASUREMENT: u64 = 10_000_000;
/// A line's longest life, in nanoseconds. What it is off by until then is less than what a clock's reading takes.
const LONGEST: f64 = 1e9;
/// A line that is ahead waits for the clock by going so much slower at most, in parts of a million.
const SLOWEST: f64 = 500e-6;
/// What the clock and the ticks may disagree by, in nanoseconds, and in parts of a million of the time that has passed.
const TOLERANCE: (f64, f64) = (1e6, 1000e-6);
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

    /// What nobody has read a later time than by it.
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
    /// When there can be a line, by the clock.
    due: u64,
    last: Reading,
    line: TickLine,
}

impl Ruler {
    /// Begins to measure.
    pub fn new(first: Reading) -> Self {
        let due = first.clock.saturating_add(FIRST_MEASUREMENT);
        Self { first, due, last: first, line: TickLine::default() }
    }

    /// The latest time that anybody may have read.
    pub const fn latest(&self) -> u64 {
        self.line.end()
    }

    /// When the next line can be had, by the clock.
    pub const fn due(&self) -> u64 {
        self.due
    }

    /// The line from `now` on, which is due, when the last one holds no longer. It shows what the clock does, or waits for it. `None` if
    /// the counter has not counted as the clock did, which does not count while the host sleeps: the measurement begins again.
    pub fn next(&mut self, now: Reading) -> Option<TickLine> {
        if self.line.ticks != 0 && self.is_torn(now) {
            let shows = self.latest();
            *self = Self { line: TickLine { shows, ..TickLine::default() }, ..Self::new(now) };
            return None;
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

    /// Whether the counter and the clock have gone different ways since the line began.
    fn is_torn(&self, now: Reading) -> bool {
        let (ticks, nanoseconds) = now.since(self.last);
        let off = (ticks * self.line.multiplier as f64 / ONE - nanoseconds).abs();
        ticks < 0.0 || off > TOLERANCE.0.max(nanoseconds * TOLERANCE.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A host whose counter counts `rate` times a nanosecond, and whose clock takes up to 40 ns to read.
    struct Host {
        rate: f64,
        time: f64,
        random: u64,
    }

    impl Host {
        fn pass(&mut self, nanoseconds: f64) -> Reading {
            self.time += nanoseconds;
            self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let late = (self.random >> 33) % 40;
            Reading {
                ticks: 1_000_000 + (self.time * self.rate) as u64,
                clock: 5_000 + self.time as u64 + late,
            }
        }
    }

    #[test]
    fn lines_follow_the_clock_and_never_go_back() {
        for rate in [0.1, 0.999, 2.445_406, 6.0] {
            let mut host = Host { rate, time: 0.0, random: 7 };
            let mut ruler = Ruler::new(host.pass(0.0));
            host.pass(11e6);
            let (mut latest, mut lines) = (0, 0);
            for step in 0..20_000 {
                let now = host.pass(if step % 1000 == 0 { 3e9 } else { 1e6 });
                let shown = match ruler.line.at(now.ticks) {
                    Some(shown) => shown,
                    None => {
                        lines += 1;
                        ruler.next(now).unwrap().shows
                    }
                };
                assert!(shown >= latest, "step {step}: {shown} after {latest}");
                let true_time = 5_000 + host.time as u64;
                // The first lines rest on 11 ms.
                let tolerance = if step < 100 { 200 } else { 60 };
                assert!(shown.abs_diff(true_time) < tolerance, "step {step}: {shown}, really {true_time}");
                latest = shown;
            }
            assert!((20..1500).contains(&lines), "{lines}");
        }
    }

    #[test]
    fn a_clock_that_stood_still_is_waited_for() {
        let mut host = Host { rate: 2.0, time: 0.0, random: 7 };
        let mut ruler = Ruler::new(host.pass(0.0));
        let line = ruler.next(host.pass(20e6)).unwrap();
        let latest = line.at(line.begin + line.ticks - 1).unwrap();
        // The host sleeps for an hour: its counter counts, its clock does not.
        let slept = |Reading { ticks, clock }| Reading { ticks, clock: clock - 3_600_000_000_000 };
        let woken = slept(host.pass(3600e9));
        assert_eq!(ruler.next(woken), None);
        assert!(ruler.due() > woken.clock);
        let line = ruler.next(slept(host.pass(11e6))).unwrap();
        assert!(line.shows >= latest);
        let (mut shown, mut off) = (line.shows, u64::MAX);
        for _ in 0..200 {
            let now = slept(host.pass(1.1e9));
            let line = ruler.next(now).unwrap();
            assert!(line.shows >= shown);
            assert!(line.shows - now.clock <= off);
            (shown, off) = (line.shows, line.shows - now.clock);
        }
        assert!(off < 60, "{off}");
    }

    #[test]
    fn a_counter_that_begins_anew_tears_the_line() {
        let mut host = Host { rate: 2.0, time: 0.0, random: 7 };
        let mut ruler = Ruler::new(host.pass(0.0));
        let line = ruler.next(host.pass(20e6)).unwrap();
        assert_eq!(line.at(5), None);
        let now = host.pass(1e6);
        assert_eq!(ruler.next(Reading { ticks: 5, ..now }), None);
        assert!(ruler.latest() >= line.at(line.begin + line.ticks - 1).unwrap());
    }

    #[test]
    fn a_counter_that_stands_still_gives_no_line() {
        let mut ruler = Ruler::new(Reading { ticks: 7, clock: 0 });
        let now = Reading { ticks: 7, clock: 20_000_000 };
        assert!(ruler.next(now).is_none_or(|line| line.at(7).is_none()));
    }
}
