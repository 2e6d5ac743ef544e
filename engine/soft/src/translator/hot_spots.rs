//! In which units most of the time is spent.
//!
//! Now and then when time is up, the unit that ran then is noted. What is found there often gets code that is better, and larger:
//! its accesses to memory have sites of their own. There are few sites and they cost something to forget, so that not all
//! code can have them; the large programs that spend a little time in each of thousands of units are faster without.
//!
//! It is noted as well where the unit led to then. What mostly goes one way gets code that follows it ([`super::scan::Route`]), and
//! is found again while there is farther to follow.

use std::collections::HashMap;

/// Of the times that time is up, one in so many is a sample. Of a large program's units few are in the host's caches, and to find the one that
/// ran takes as long as some hundreds of instructions.
pub const SAMPLED_TIMES: u32 = 4;

/// So many samples make a unit hot.
const MANY: usize = 3;

/// A unit that is found less often than once in so many samples is not hot.
const SELDOM: u64 = 48;

/// How many units are remembered at a time.
const REMEMBERED: usize = 1024;

/// Samples of one unit.
#[derive(Debug, Clone, Copy)]
struct Samples {
    count: usize,
    /// How many samples there were of all units at the first.
    began: u64,
    /// Where it led at each.
    led_to: [Option<u16>; MANY],
}

/// A unit that most of the time is spent in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hot {
    /// Where it mostly leads, as an offset in its page, if it mostly leads to one place there.
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
        let first = Samples { count: 0, began: self.taken, led_to: [None; MANY] };
        let samples = self.units.entry(unit).or_insert(first);
        if self.taken - samples.began > samples.count as u64 * SELDOM {
            *samples = first;
        }
        samples.led_to[samples.count] = led_to;
        samples.count += 1;
        let led_to = samples.led_to;
        (samples.count == MANY).then(|| {
            self.units.remove(&unit);
            let is_most = |to: &Option<u16>| 2 * led_to.iter().filter(|other| *other == to).count() > MANY;
            Hot { leads_to: led_to.into_iter().find(is_most).flatten() }
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
    fn where_a_unit_leads_is_where_it_was_found_to_lead_mostly() {
        for (led_to, leads_to) in [
            ([Some(7), Some(7), Some(7)], Some(7)),
            ([Some(7), Some(9), Some(9)], Some(9)),
            ([Some(9), Some(9), None], Some(9)),
            ([None, None, Some(9)], None),
            ([Some(7), Some(8), Some(9)], None),
        ] {
            let mut spots = HotSpots::default();
            let hot = led_to.map(|led_to| spots.sample(16, led_to));
            assert_eq!(hot, [None, None, Some(Hot { leads_to })], "{led_to:?}");
        }
    }

    #[test]
    fn time_that_is_spent_everywhere_makes_nothing_hot() {
        let mut spots = HotSpots::default();
        assert!((0..100_000).all(|n| spots.sample(n % 200, None).is_none()));
    }
}
