//! Which site of the TLB a translated instruction has.
//!
//! There are fewer sites than instructions, so they are given out in turn. Only accesses of one size may share a site: its
//! limit is where such an access would leave the page.

use crate::tlb::SITES;

/// Sizes of accesses in bytes, with the number of sites that each has.
const SHARES: [(usize, usize); 5] = [(1, 56), (2, 24), (4, 136), (8, 232), (16, 64)];

const _: () = {
    let (mut sum, mut n) = (0, 0);
    while n < SHARES.len() {
        sum += SHARES[n].1;
        n += 1;
    }
    assert!(sum == SITES, "every site has a size");
};

/// The sites that are given out next.
#[derive(Debug, Default)]
pub struct Sites {
    given: [usize; SHARES.len()],
}

impl Sites {
    /// Whether accesses of `size` bytes have sites.
    pub fn has(size: usize) -> bool {
        SHARES.iter().any(|&(known, _)| known == size)
    }

    /// The next site for accesses of `size` bytes.
    ///
    /// # Panics
    /// There is none for this size; see [`Sites::has`].
    pub fn next(&mut self, size: usize) -> usize {
        let mut first = 0;
        for (given, (known, share)) in self.given.iter_mut().zip(SHARES) {
            if known == size {
                *given = (*given + 1) % share;
                return first + *given;
            }
            first += share;
        }
        unreachable!("no instruction with an access of {size} bytes is translated");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_site_serves_two_sizes() {
        let mut sites = Sites::default();
        let mut owners = [0; SITES];
        for (size, _) in SHARES {
            for _ in 0..SITES {
                let owner = &mut owners[sites.next(size)];
                assert!(*owner == 0 || *owner == size);
                *owner = size;
            }
        }
        assert!(owners.iter().all(|owner| *owner != 0));
    }
}
