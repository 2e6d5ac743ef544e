//! Which site of the TLB a translated instruction has.
//!
//! There are fewer sites than instructions, so they are given out in turn. Only accesses of one size may share a site: its
//! limit is where such an access would leave the page.

use crate::tlb::{FIRST_SITE, REMEMBERED, SITES, View};

/// Sizes of accesses, and of groups of them, in bytes, with the number of each 256 sites that they have.
const SHARES: [(usize, usize); 9] =
    [(1, 24), (2, 8), (4, 48), (8, 76), (16, 20), (32, 36), (64, 24), (128, 12), (256, 8)];

const _: () = {
    let (mut sum, mut n) = (0, 0);
    while n < SHARES.len() {
        sum += SHARES[n].1;
        n += 1;
    }
    assert!(sum == 256, "every site has a size");
};

/// The sites that are given out next.
#[derive(Debug, Default)]
pub struct Sites {
    given: [[usize; SHARES.len()]; REMEMBERED],
}

impl Sites {
    /// Whether single accesses of `size` bytes have sites.
    pub fn has(size: usize) -> bool {
        SHARES[..5].iter().any(|&(known, _)| known == size)
    }

    /// The next site of a view for accesses of `size` bytes.
    ///
    /// # Panics
    /// There is none for this size; see [`Sites::has`].
    pub fn next(&mut self, view: View, size: usize) -> usize {
        let (scale, mut first) = (SITES[view as usize] / 256, FIRST_SITE[view as usize]);
        for (given, (known, share)) in self.given[view as usize].iter_mut().zip(SHARES) {
            if known == size {
                *given = (*given + 1) % (share * scale);
                return first + *given;
            }
            first += share * scale;
        }
        unreachable!("no instruction with an access of {size} bytes is translated");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlb::ALL_SITES;

    #[test]
    fn no_site_serves_two_sizes_or_two_views() {
        let mut sites = Sites::default();
        let mut owners = [None; ALL_SITES];
        for view in [View::User, View::Supervisor, View::SupervisorAc] {
            for (size, _) in SHARES {
                for _ in 0..ALL_SITES {
                    let owner = &mut owners[sites.next(view, size)];
                    assert!(owner.is_none_or(|owner| owner == (view, size)));
                    *owner = Some((view, size));
                }
            }
        }
        assert!(owners.iter().all(Option::is_some));
    }
}
