//! Which accesses go from page to page, so that a site of their own does not serve them.
//!
//! A site remembers one page. Where most accesses are to another page than the last one, looking at the table at once is
//! better. Misses of sites are sampled; if they come often, the sites that have most of them are found out, and their
//! instructions are translated anew, as *restless* ones.

use std::collections::{HashMap, HashSet};

/// One of so many misses is looked at.
pub const SAMPLED: i32 = 32;

/// Samples that are judged together.
const WINDOW: u32 = 256;

/// Of a window, so many samples make an instruction restless.
const MANY: u32 = 3;

/// Misses that come less often than once in so many guest instructions cost little.
const SELDOM: u64 = 128;

/// An instruction by the physical address of its first byte.
type Address = u64;

/// What is known of restless instructions.
#[derive(Debug, Default)]
pub struct Restless {
    known: HashSet<Address>,
    samples: HashMap<Address, u32>,
    count: u32,
    /// How many guest instructions there were when the window began.
    began: u64,
}

impl Restless {
    /// Whether the instruction at a physical address is.
    pub fn has(&self, address: Address) -> bool {
        self.known.contains(&address)
    }

    /// Notes a sampled miss by the instruction at `address`, after so many guest instructions. Says whether the instruction
    /// is restless now; then the unit that missed is to be translated anew.
    pub fn sample(&mut self, address: Address, instructions: u64) -> bool {
        if self.has(address) {
            return true;
        }
        if self.count == 0 {
            self.began = instructions;
            self.samples.clear();
        }
        self.count = (self.count + 1) % WINDOW;
        let samples = self.samples.entry(address).or_default();
        *samples += 1;
        let misses = u64::from(self.count.max(1)) * SAMPLED as u64;
        *samples >= MANY && instructions - self.began < misses * SELDOM && self.known.insert(address)
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
        assert!(!restless.sample(0x1000, 0) && !restless.sample(0x1000, 100));
        assert!(restless.sample(0x1000, 200));
        assert!(restless.sample(0x1000, 300));
        assert!(restless.has(0x1000) && !restless.has(0x1004));
    }

    #[test]
    fn rare_misses_do_not_count() {
        let mut restless = Restless::default();
        let far = SELDOM * SAMPLED as u64 * 2;
        assert!((0..u64::from(WINDOW)).all(|n| !restless.sample(0x1000, n * far)));
    }
}
