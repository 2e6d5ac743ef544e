//! Which accesses go from page to page, so that a site of their own does not serve them.
//!
//! A site remembers one page. Where most accesses are to another page than the last one, looking at the table at once is
//! better. Misses of sites are sampled; if they come often, the sites that have most of them are found out, and their
//! instructions are translated anew, as *restless* ones.

use std::collections::{HashMap, HashSet};

/// One of so many misses is looked at.
pub const SAMPLED: i32 = 100;

/// So many samples in a short time make an instruction restless.
const MANY: u32 = 3;

/// An instruction that misses less often than once in so many guest instructions costs little.
const SELDOM: u64 = 2048;

/// How many instructions are remembered at a time.
const REMEMBERED: usize = 4096;

/// An instruction by the physical address of its first byte and the version of its page.
type Address = (u64, u32);

/// Samples of one instruction.
#[derive(Debug, Clone, Copy)]
struct Samples {
    count: u32,
    /// How many guest instructions there were at the first.
    began: u64,
}

/// What is known of restless instructions.
#[derive(Debug, Default)]
pub struct Restless {
    known: HashSet<Address>,
    samples: HashMap<Address, Samples>,
}

impl Restless {
    /// Whether an instruction is.
    pub fn has(&self, address: Address) -> bool {
        self.known.contains(&address)
    }

    /// Notes a sampled miss by the instruction at `address`, after so many guest instructions. Says whether the instruction
    /// is restless now; then the unit that missed is to be translated anew.
    pub fn sample(&mut self, address: Address, instructions: u64) -> bool {
        if self.has(address) {
            return true;
        }
        if self.samples.len() >= REMEMBERED {
            self.samples.clear();
        }
        let first = Samples { count: 0, began: instructions };
        let samples = self.samples.entry(address).or_insert(first);
        let expected = u64::from(samples.count) * SAMPLED as u64 * SELDOM;
        if instructions.saturating_sub(samples.began) > expected {
            *samples = first;
        }
        samples.count += 1;
        samples.count >= MANY && self.known.insert(address)
    }

    /// Forgets everything: the code that it was learned from is gone.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_misses_often_becomes_restless() {
        let mut restless = Restless::default();
        assert!(!restless.sample((0x1000, 0), 0) && !restless.sample((0x1000, 0), 100));
        assert!(restless.sample((0x1000, 0), 200));
        assert!(restless.sample((0x1000, 0), 300));
        assert!(restless.has((0x1000, 0)) && !restless.has((0x1000, 1)));
    }

    #[test]
    fn rare_misses_do_not_count() {
        let mut restless = Restless::default();
        let far = SELDOM * SAMPLED as u64 + 1;
        assert!((0..1000).all(|n| !restless.sample((0x1000, 0), n * far)));
    }
}
