//! Keeping what is loaded apart: every piece claims its addresses before it is written.

use std::collections::BTreeMap;
use std::ops::Range;

use super::PlaceError;
use super::layout::PAGE;
use crate::boot::memory_map::{EXTENDED_MEMORY_START, HOLE_START, LOW_MEMORY_END, MemoryMap};

const MIB: u64 = 1 << 20;

struct Claim {
    end: u64,
    owner: &'static str,
}

/// The addresses that are taken.
pub(super) struct Claims<'a> {
    map: &'a MemoryMap,
    /// By first address; disjoint.
    claims: BTreeMap<u64, Claim>,
    /// Bytes of modules still to be placed, in whole pages, for advice on how much memory is enough.
    to_come: u64,
}

impl<'a> Claims<'a> {
    pub(super) fn new(map: &'a MemoryMap, to_come: u64) -> Self {
        Self { map, claims: BTreeMap::new(), to_come }
    }

    /// Takes `length` bytes (at least 1) at `base` for `owner`.
    pub(super) fn claim(&mut self, owner: &'static str, base: u64, length: u64) -> Result<(), PlaceError> {
        let outside = |end| self.outside(owner, base..end);
        let end = base.checked_add(length).ok_or_else(|| outside(u64::MAX))?;
        if !self.map.ram().any(|ram| ram.start <= base && end <= ram.end) {
            return Err(outside(end));
        }
        if let Some(other) = self.last_before(end).filter(|other| other.0.end > base) {
            return Err(PlaceError::Overlap {
                first: owner,
                first_range: base..end,
                second: other.1,
                second_range: other.0,
            });
        }
        self.claims.insert(base, Claim { end, owner });
        Ok(())
    }

    /// Takes `length` bytes (at least 1) of whole pages for `owner` in extended memory, as high as possible, below
    /// `ceiling` and the device hole.
    pub(super) fn claim_high(
        &mut self,
        owner: &'static str,
        length: u64,
        ceiling: u64,
    ) -> Result<u64, PlaceError> {
        let ceiling = ceiling.min(HOLE_START);
        let mut top_of = self.map.ram().rev().filter_map(|ram| {
            let ram = ram.start.max(EXTENDED_MEMORY_START)..ram.end.min(ceiling);
            self.highest_gap(&ram, length)
        });
        let base = top_of.next().ok_or_else(|| self.no_room(owner, length, ceiling))?;
        drop(top_of);
        self.claim_module(owner, base, length)
    }

    /// Takes `length` bytes (at least 1) of whole pages for `owner` after everything claimed in extended memory.
    pub(super) fn claim_after(&mut self, owner: &'static str, length: u64) -> Result<u64, PlaceError> {
        let base = self.end().next_multiple_of(PAGE);
        if base.checked_add(length).is_none_or(|end| end > HOLE_START) {
            return Err(self.no_room(owner, length, HOLE_START));
        }
        self.claim_module(owner, base, length)
    }

    fn claim_module(&mut self, owner: &'static str, base: u64, length: u64) -> Result<u64, PlaceError> {
        self.claim(owner, base, length)?;
        self.to_come = self.to_come.saturating_sub(length.next_multiple_of(PAGE));
        Ok(base)
    }

    fn highest_gap(&self, ram: &Range<u64>, length: u64) -> Option<u64> {
        let mut top = ram.end;
        loop {
            let base = top.checked_sub(length)? / PAGE * PAGE;
            if base < ram.start {
                return None;
            }
            match self.last_before(base + length) {
                Some((claim, _)) if claim.end > base => top = claim.start,
                _ => return Some(base),
            }
        }
    }

    /// The last claim that begins before `end`: as claims are disjoint, also the one that reaches furthest.
    fn last_before(&self, end: u64) -> Option<(Range<u64>, &'static str)> {
        self.claims.range(..end).next_back().map(|(base, claim)| (*base..claim.end, claim.owner))
    }

    /// The end of what is claimed, at least where extended memory begins.
    fn end(&self) -> u64 {
        let last = self.claims.last_key_value().map_or(0, |(_, claim)| claim.end);
        last.max(EXTENDED_MEMORY_START)
    }

    /// The machine's RAM below the device hole, in MiB: where the last such region ends.
    fn memory_mib(&self) -> u64 {
        self.map.ram().rfind(|ram| ram.start < HOLE_START).map_or(0, |ram| ram.end / MIB)
    }

    fn outside(&self, owner: &'static str, range: Range<u64>) -> PlaceError {
        let needed = range.end.saturating_add(PAGE).saturating_add(self.to_come);
        let memory_end = self.map.ram().next_back().map_or(0, |ram| ram.end);
        let is_for_ram = range.end <= LOW_MEMORY_END || range.start >= EXTENDED_MEMORY_START;
        if is_for_ram && range.end > memory_end && needed <= HOLE_START {
            self.too_little(owner, needed)
        } else {
            PlaceError::OutsideRam { owner, range }
        }
    }

    fn no_room(&self, owner: &'static str, length: u64, ceiling: u64) -> PlaceError {
        let needed = self.end().saturating_add(2 * PAGE).saturating_add(length.max(self.to_come));
        if needed <= ceiling {
            self.too_little(owner, needed)
        } else {
            PlaceError::TooLarge { owner, length, ceiling }
        }
    }

    fn too_little(&self, owner: &'static str, needed: u64) -> PlaceError {
        PlaceError::TooLittleMemory { owner, memory_mib: self.memory_mib(), needed_mib: needed.div_ceil(MIB) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> MemoryMap {
        MemoryMap::pc(64 * MIB).unwrap()
    }

    #[test]
    fn two_owners_never_share_an_address() {
        let map = map();
        let mut claims = Claims::new(&map, 0);
        claims.claim("a", 0x20_0000, 0x1000).unwrap();
        for (base, length) in [(0x20_0000, 1), (0x1f_ffff, 2), (0x20_0fff, 1), (0x10_0000, 0x80_0000)] {
            assert!(matches!(claims.claim("b", base, length), Err(PlaceError::Overlap { .. })));
        }
        claims.claim("b", 0x1f_ffff, 1).unwrap();
        claims.claim("c", 0x20_1000, 1).unwrap();
    }

    #[test]
    fn high_places_are_the_highest_free_pages() {
        let map = map();
        let mut claims = Claims::new(&map, 0);
        claims.claim("kernel", 63 * MIB, MIB / 2).unwrap();
        assert_eq!(claims.claim_high("a", 5000, u64::MAX).unwrap(), 64 * MIB - 2 * PAGE);
        assert_eq!(claims.claim_high("b", MIB / 2, u64::MAX).unwrap(), 63 * MIB - MIB / 2);
        assert_eq!(claims.claim_high("c", PAGE, 16 * MIB).unwrap(), 16 * MIB - PAGE);
    }

    #[test]
    fn high_places_lie_below_the_hole() {
        let map = MemoryMap::pc(4096 * MIB).unwrap();
        assert_eq!(Claims::new(&map, 0).claim_high("a", PAGE, u64::MAX).unwrap(), HOLE_START - PAGE);
    }

    #[test]
    fn following_places_come_after_everything() {
        let map = map();
        let mut claims = Claims::new(&map, 0);
        claims.claim("structures", 0x1_0000, 5).unwrap();
        assert_eq!(claims.claim_after("a", 5).unwrap(), MIB);
        assert_eq!(claims.claim_after("b", 5).unwrap(), MIB + PAGE);
        assert!(matches!(claims.claim_after("c", 63 * MIB), Err(PlaceError::TooLittleMemory { .. })));
        assert!(matches!(claims.claim_after("d", u64::MAX), Err(PlaceError::TooLarge { .. })));
    }

    #[test]
    fn advice_on_memory_is_enough_when_followed() {
        let advice = |memory, initrd| {
            let map = MemoryMap::pc(memory * MIB).unwrap();
            let mut claims = Claims::new(&map, initrd);
            let placed = claims
                .claim("kernel", 16 * MIB, 49 * MIB - 5)
                .and_then(|()| claims.claim_high("initrd", initrd, u64::MAX).map(|_| ()));
            match placed {
                Ok(()) => None,
                Err(PlaceError::TooLittleMemory { needed_mib, .. }) => Some(needed_mib),
                Err(other) => panic!("{other}"),
            }
        };
        for (memory, initrd) in [(32, 5), (66, 60 * MIB - 5), (1, 20 * MIB + 1)] {
            let needed = advice(memory, initrd).expect("this must not fit");
            assert_eq!(advice(needed, initrd), None);
        }
    }

    #[test]
    fn what_no_memory_size_can_hold_gets_no_such_advice() {
        let map = map();
        let mut claims = Claims::new(&map, 0);
        for base in [0xa_0000, 0xf_f000, HOLE_START, 0xffff_ffff_8100_0000, u64::MAX] {
            assert!(matches!(claims.claim("kernel", base, 4096), Err(PlaceError::OutsideRam { .. })));
        }
        assert!(matches!(
            claims.claim_high("initrd", HOLE_START, u64::MAX),
            Err(PlaceError::TooLarge { .. })
        ));
    }
}
