//! How often something is repeated, and what a repetition took.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

/// Something that can be done again and again.
pub(crate) struct Repetition {
    /// How many of what the row's unit names are done each time.
    pub units: u32,
    /// What doing it gives, each time.
    pub answer: u64,
    pub work: Box<dyn FnMut() -> io::Result<u64>>,
}

impl fmt::Debug for Repetition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { units, answer, work: _ } = self;
        write!(formatter, "Repetition {{ units: {units}, answer: {answer:#x} }}")
    }
}

impl Repetition {
    /// Does it `times` times, and tells how long that took.
    ///
    /// # Errors
    /// If it cannot be done, or gives another answer than it must.
    pub fn repeat(&mut self, times: u32) -> io::Result<Duration> {
        let start = Instant::now();
        for _ in 0..times {
            let answer = (self.work)()?;
            if answer != self.answer {
                return Err(io::Error::other(format!(
                    "the answer is {:#x}, and came out as {answer:#x}",
                    self.answer
                )));
            }
        }
        Ok(start.elapsed())
    }
}

/// How many seconds one unit takes. Only the last and longest batch counts: those before it warm up, and tell how many
/// repetitions take `minimum`.
///
/// # Errors
/// As [`Repetition::repeat`].
pub(crate) fn measure(mut repetition: Repetition, minimum: Duration) -> io::Result<f64> {
    let mut times = 1;
    loop {
        let took = repetition.repeat(times)?;
        if took >= minimum {
            return Ok(took.as_secs_f64() / (f64::from(times) * f64::from(repetition.units)));
        }
        times = next(times, took, minimum);
    }
}

/// How many repetitions to try after `times` of them took less than `minimum`: a little more than should do, but never
/// many times more, because the first ones also pay for what is only done once.
fn next(times: u32, took: Duration, minimum: Duration) -> u32 {
    let factor = (minimum.as_secs_f64() * 1.1 / took.as_secs_f64().max(1e-9)).clamp(1.5, 16.0);
    // In range: at most 16 times what a u32 holds, and the cast saturates.
    (f64::from(times) * factor).ceil() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_answer_is_an_error() {
        let repetition = Repetition { units: 1, answer: 1, work: Box::new(|| Ok(2)) };
        assert!(measure(repetition, Duration::ZERO).is_err());
    }

    #[test]
    fn a_unit_takes_its_share_of_the_time() {
        let work = || {
            std::thread::sleep(Duration::from_millis(2));
            Ok(0)
        };
        let repetition = Repetition { units: 4, answer: 0, work: Box::new(work) };
        assert!(measure(repetition, Duration::from_millis(5)).unwrap() >= 0.000_5);
    }

    #[test]
    fn the_number_of_repetitions_grows_towards_the_minimum() {
        let minimum = Duration::from_millis(300);
        assert_eq!(next(10, Duration::from_millis(100), minimum), 33);
        assert_eq!(next(10, Duration::from_millis(299), minimum), 15);
        assert_eq!(next(10, Duration::ZERO, minimum), 160);
        assert_eq!(next(u32::MAX, Duration::ZERO, minimum), u32::MAX);
    }
}
