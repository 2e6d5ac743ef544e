//! In which units most of the time is spent.
//!
//! Whenever time is up, the unit that ran then is noted. What is found there often gets code that is better, and larger:
//! its accesses to memory have sites of their own. There are few sites and they cost something to forget, so that not all
//! code can have them; the large programs that spend a little time in each of thousands of units are faster without.

use std::collections::HashMap;

/// So many samples make a unit hot.
const MANY: u32 = 3;

/// A unit that is found less often than once in so many samples is not hot.
const SELDOM: u64 = 48;

/// How many units are remembered at a time.
const REMEMBERED: usize = 1024;

/// Samples of one unit.
#[derive(Debug, Clone, Copy)]
struct Samples {
    count: u32,
    /// How many samples there were of all units at the first.
    began: u64,
    /// Where it led at the last of them that count for that.
    leads_to: Option<u16>,
    /// How many more have led there than elsewhere.
    agree: u32,
}

/// A unit that most of the time is spent in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hot {
    /// Where it mostly leads, as an offset in its page, if that is known and not behind itself or to another page.
    pub leads_to: Option<u16>,
}

/// What is known of where the time is spent.
#[derive(Debug, Default)]
pub struct HotSpots {
    /// By the units' offsets.
    units: HashMap<u32, Samples>,
    taken: u64,
}

impl HotSpots {
    /// Notes that time was up in `unit` as it led to an offset in its page, or elsewhere. Says whether it has become hot now.
    pub fn sample(&mut self, unit: u32, led_to: Option<u16>) -> Option<Hot> {
        self.taken += 1;
        if self.units.len() >= REMEMBERED {
            self.units.clear();
        }
        let first = Samples { count: 0, began: self.taken, leads_to: led_to, agree: 0 };
        let samples = self.units.entry(unit).or_insert(first);
        if self.taken - samples.began > u64::from(samples.count) * SELDOM {
            *samples = first;
        }
        samples.count += 1;
        if samples.leads_to == led_to {
            samples.agree += 1;
        } else if samples.agree > 0 {
            samples.agree -= 1;
        } else {
            samples.leads_to = led_to;
        }
        let Samples { count, leads_to, agree, .. } = *samples;
        (count >= MANY).then(|| {
            self.units.remove(&unit);
            Hot { leads_to: leads_to.filter(|_| agree > 0) }
        })
    }

    /// Forgets everything: the units are gone.
    pub fn forget(&mut self) {
        self.units.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_is_found_often_becomes_hot_once() {
        let mut spots = HotSpots::default();
        let found: Vec<bool> = (0..5).map(|_| spots.sample(16, None).is_some()).collect();
        assert_eq!(found, [false, false, true, false, false]);
    }

    #[test]
    fn time_that_is_spent_everywhere_makes_nothing_hot() {
        let mut spots = HotSpots::default();
        assert!((0..100_000).all(|n| spots.sample(n % 200, None).is_none()));
    }
}
