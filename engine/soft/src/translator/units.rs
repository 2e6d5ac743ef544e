//! The units that were made, found by where their code lies.

use super::Translated;
use super::code_cache::Placed;
use super::emit::Checks;
use super::scan::Route;
use crate::blocks::Block;

/// A unit that was made.
#[derive(Debug, Clone, Copy)]
pub struct Made {
    /// Where its code lies.
    pub placed: Placed,
    /// Bytes of what often runs, and of what seldom does.
    pub sizes: (usize, usize),
    /// The block that begins where it begins.
    pub block: *mut Block,
    /// How its accesses are checked.
    pub checks: Checks,
    /// The way that it goes.
    pub route: Route,
    /// The unit that leads here, as it was the same code before.
    pub supersedes: Option<Translated>,
    /// It is not translated anew because of the time that is spent in it.
    pub is_settled: bool,
    /// It is written down for perf.
    pub is_known: bool,
}

/// All units of a translator.
#[derive(Debug, Default)]
pub struct Units {
    /// In the order in which they were made: of later ones, what often runs lies higher, and what seldom does, lower.
    made: Vec<Made>,
    /// Where of each lies what seldom runs, once more: of a large program's units few lines are in the host's caches, and these are
    /// searched.
    cold: Vec<u32>,
}

impl Units {
    /// What each takes, in bytes.
    pub const WEIGHT: usize = size_of::<Made>() + size_of::<u32>();

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.made.len()
    }

    /// Adds the newest one.
    pub fn push(&mut self, made: Made) {
        self.cold.push(made.placed.cold);
        self.made.push(made);
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.made.clear();
        self.cold.clear();
    }

    /// The unit that begins at an offset of the code memory.
    pub fn beginning_at(&self, hot: u32) -> Option<&Made> {
        self.number_of(hot).map(|number| &self.made[number])
    }

    /// As [`Units::beginning_at`], to change it.
    pub fn beginning_at_mut(&mut self, hot: u32) -> Option<&mut Made> {
        self.number_of(hot).map(|number| &mut self.made[number])
    }

    fn number_of(&self, hot: u32) -> Option<usize> {
        self.made.binary_search_by_key(&hot, |unit| unit.placed.hot).ok()
    }

    /// The unit whose cold code has a call that ends at this offset of the code memory. With that the unit may end, and its neighbour
    /// begin.
    pub fn calling_before(&mut self, behind: u32) -> Option<&mut Made> {
        let number = self.cold.partition_point(|&cold| cold >= behind);
        self.made.get_mut(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_behind_a_units_last_call_is_not_its_neighbours() {
        let mut units = Units::default();
        // Cold code goes down: the second unit's ends where the first one's begins.
        for (hot, cold) in [(1000, 3000), (1100, 2900)] {
            units.push(Made {
                placed: Placed { hot, cold },
                sizes: (100, 100),
                block: std::ptr::null_mut(),
                checks: Checks::Grouped,
                route: Route::default(),
                supersedes: None,
                is_settled: false,
                is_known: false,
            });
        }
        let mut hot = |behind| units.calling_before(behind).map(|unit| unit.placed.hot);
        assert_eq!(hot(3000), Some(1100));
        assert_eq!((hot(3001), hot(2901)), (Some(1000), Some(1100)));
        assert_eq!(hot(2900), None);
    }
}
