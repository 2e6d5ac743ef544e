//! Instructions at which something is found often, so that they are better translated in another way.
//!
//! *Restless* ones go from page to page. A site remembers one page; where most accesses are to another page than the last one, looking
//! at the table at once is better. Misses of sites are sampled, and the sites that have most of them are found out so.
//!
//! Others access *devices*. Translated code would be left for each of these accesses; it calls the interpreter instead, and goes on.

use std::collections::{HashMap, HashSet};

/// One of so many misses is looked at.
pub const SAMPLED: i32 = 100;

/// One of so many devices' accesses is looked at. It should take more than a few: what copies to memory now and then, too, would do that
/// by the interpreter from then on.
pub const SAMPLED_DEVICES: u32 = 16;

/// So many finds in a short time are often.
const MANY: u32 = 3;

/// A find that comes less often than once in so many guest instructions costs little: it is one of a hundred misses, each of which may
/// come once in 2048.
const SELDOM: u64 = 2048 * SAMPLED as u64;

/// How many instructions are remembered at a time.
const REMEMBERED: usize = 4096;

/// An instruction by the physical address of its first byte and the version of its page.
pub type Address = (u64, u32);

/// Finds at one instruction.
#[derive(Debug, Clone, Copy)]
struct Finds {
    count: u32,
    /// How many guest instructions there were at the first.
    began: u64,
}

/// What is known of instructions at which one thing is found.
#[derive(Debug, Default)]
pub struct Frequent {
    known: HashSet<Address>,
    finds: HashMap<Address, Finds>,
}

impl Frequent {
    /// Whether it is found often at an instruction.
    pub fn has(&self, address: Address) -> bool {
        self.known.contains(&address)
    }

    /// Notes a find at the instruction at `address`, after so many guest instructions. Says whether they are often now; then the
    /// unit it was found in is to be translated anew.
    pub fn note(&mut self, address: Address, instructions: u64) -> bool {
        if self.has(address) {
            return true;
        }
        if self.finds.len() >= REMEMBERED {
            self.finds.clear();
        }
        let first = Finds { count: 0, began: instructions };
        let finds = self.finds.entry(address).or_insert(first);
        if instructions.saturating_sub(finds.began) > u64::from(finds.count) * SELDOM {
            *finds = first;
        }
        finds.count += 1;
        finds.count >= MANY && self.known.insert(address)
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
    fn what_is_found_often_is_known() {
        let mut frequent = Frequent::default();
        assert!(!frequent.note((0x1000, 0), 0) && !frequent.note((0x1000, 0), 100));
        assert!(frequent.note((0x1000, 0), 200));
        assert!(frequent.note((0x1000, 0), 300));
        assert!(frequent.has((0x1000, 0)) && !frequent.has((0x1000, 1)));
    }

    #[test]
    fn rare_finds_do_not_count() {
        let mut frequent = Frequent::default();
        assert!((0..1000).all(|n| !frequent.note((0x1000, 0), n * (SELDOM + 1))));
    }
}
