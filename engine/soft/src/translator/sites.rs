//! Which site of the TLB a translated instruction has.
//!
//! There are fewer sites than instructions, so they are given out in turn. Only accesses of one size may share a site: its
//! limit is where such an access would leave the page. And only reads, or only writes: what may be read may not always be written.
//!
//! A single access uses what its site knows at once. A group's members rely on it until the unit ends, so that no two groups of a
//! unit may share a site.

use crate::tlb::{FIRST_SITE, REMEMBERED, SITES, View};

/// What a site serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Single accesses of so many bytes.
    Single(usize),
    /// Groups of accesses that take so many bytes together.
    Group(usize),
}

/// With the number of each 256 sites that they have.
const SHARES: [(Extent, usize); 10] = {
    use Extent::{Group, Single};
    [
        (Single(1), 24),
        (Single(2), 8),
        (Single(4), 46),
        (Single(8), 74),
        (Single(16), 20),
        (Single(32), 4),
        (Group(32), 36),
        (Group(64), 24),
        (Group(128), 12),
        (Group(256), 8),
    ]
};

const _: () = {
    let (mut sum, mut n) = (0, 0);
    while n < SHARES.len() {
        assert!(SHARES[n].1.is_multiple_of(2), "half are for reads, half for writes");
        sum += SHARES[n].1;
        n += 1;
    }
    assert!(sum == 256, "every site has a size");
};

/// The sites that are given out next.
#[derive(Debug, Default)]
pub struct Sites {
    /// By view, and by size and whether it writes.
    given: [[[usize; 2]; SHARES.len()]; REMEMBERED],
    /// How many the present unit has, by size and whether it writes.
    of_unit: [[usize; 2]; SHARES.len()],
}

impl Sites {
    /// Whether single accesses of `size` bytes have sites.
    pub fn has(size: usize) -> bool {
        SHARES.iter().any(|&(known, _)| known == Extent::Single(size))
    }

    /// Another unit begins: what its groups get is all different.
    pub const fn begin_unit(&mut self) {
        self.of_unit = [[0; 2]; SHARES.len()];
    }

    /// The next site of a view for reads, or writes, of this extent; `None` if there is none for it at all, see [`Sites::has`], or for a
    /// group if the unit has all of them already.
    pub fn next(&mut self, view: View, extent: Extent, write: bool) -> Option<usize> {
        let (scale, mut first) = (SITES[view as usize] / 256, FIRST_SITE[view as usize]);
        for (n, (known, share)) in SHARES.into_iter().enumerate() {
            if known == extent {
                let half = share * scale / 2;
                let of_unit = &mut self.of_unit[n][usize::from(write)];
                if matches!(extent, Extent::Group(_)) && *of_unit == half {
                    return None;
                }
                *of_unit += 1;
                let given = &mut self.given[view as usize][n][usize::from(write)];
                *given = (*given + 1) % half;
                return Some(first + *given + if write { half } else { 0 });
            }
            first += share * scale;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tlb::{ALL_SITES, VIEWS};

    #[test]
    fn no_site_serves_two_sizes_or_two_views_or_reads_and_writes() {
        let mut sites = Sites::default();
        let mut owners = [None; ALL_SITES];
        for view in VIEWS {
            for (extent, _) in SHARES {
                for n in 0..2 * ALL_SITES {
                    let write = n % 2 == 1;
                    sites.begin_unit();
                    let owner = &mut owners[sites.next(view, extent, write).expect("a unit's first")];
                    assert!(owner.is_none_or(|owner| owner == (view, extent, write)));
                    *owner = Some((view, extent, write));
                }
            }
        }
        assert!(owners.iter().all(Option::is_some));
    }

    #[test]
    fn no_two_groups_of_a_unit_share_a_site() {
        let mut sites = Sites::default();
        for view in VIEWS {
            for (extent, write) in [(Extent::Group(32), true), (Extent::Group(256), false)] {
                sites.begin_unit();
                let mut own = Vec::new();
                while let Some(site) = sites.next(view, extent, write) {
                    assert!(!own.contains(&site));
                    own.push(site);
                }
                assert!(own.len() >= 4);
            }
        }
    }
}
