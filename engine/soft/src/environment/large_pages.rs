//! Which linear addresses lie in large pages, roughly.
//!
//! The TLB knows pages of 4 KiB only. INVLPG of any address in a large page drops the whole of it (APM volume 2, section
//! 5.5.2), so wherever one may have been used, everything is dropped. Addresses are remembered by a bit each, which some
//! share: an answer may be a needless yes, never a wrong no.

/// Bits of each kind.
const BITS: usize = 1 << 12;

/// log2 of the sizes that are told apart: up to 4 MiB, and more.
const MIB_2: u32 = 21;
const GIB_1: u32 = 30;

/// Large pages that translations have been remembered of.
#[derive(Debug)]
pub struct LargePages {
    /// Of the lower half of the address space, and of the upper.
    halves: [Half; 2],
}

#[derive(Debug, Clone, Copy)]
struct Half {
    medium: [u64; BITS / 64],
    huge: [u64; BITS / 64],
}

impl LargePages {
    /// None yet.
    pub const fn new() -> Self {
        Self { halves: [Half { medium: [0; BITS / 64], huge: [0; BITS / 64] }; 2] }
    }

    /// Remembers a page of 2^`page_bits` bytes at `linear`.
    pub fn note(&mut self, linear: u64, page_bits: u32) {
        let half = &mut self.halves[(linear >> 63) as usize];
        match page_bits {
            ..MIB_2 => {}
            MIB_2..GIB_1 => {
                let first = linear & (u64::MAX << page_bits);
                for part in 0..1u64 << (page_bits - MIB_2) {
                    set(&mut half.medium, (first >> MIB_2) + part);
                }
            }
            _ => set(&mut half.huge, linear >> GIB_1),
        }
    }

    /// Whether `linear` may lie in one.
    pub const fn may_cover(&self, linear: u64) -> bool {
        let half = &self.halves[(linear >> 63) as usize];
        has(&half.medium, linear >> MIB_2) || has(&half.huge, linear >> GIB_1)
    }

    /// Nothing is remembered any more.
    pub const fn forget(&mut self) {
        *self = Self::new();
    }
}

const fn set(bits: &mut [u64; BITS / 64], number: u64) {
    let bit = number as usize % BITS;
    bits[bit / 64] |= 1 << (bit % 64);
}

const fn has(bits: &[u64; BITS / 64], number: u64) -> bool {
    let bit = number as usize % BITS;
    bits[bit / 64] >> (bit % 64) & 1 != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_of_a_large_page_is_covered_and_its_neighbours_are_not() {
        let mut large = LargePages::new();
        large.note(0x1234, 12);
        assert!(!large.may_cover(0x1234));
        large.note(0x40_1000, 21);
        assert!(large.may_cover(0x40_0000) && large.may_cover(0x5f_ffff) && !large.may_cover(0x60_0000));
        large.note(0x80_1000, 22);
        assert!(large.may_cover(0x80_0000) && large.may_cover(0xbf_ffff) && !large.may_cover(0xc0_0000));
        large.note(0xffff_8880_4000_0000, 30);
        assert!(large.may_cover(0xffff_8880_7fff_ffff));
        large.forget();
        assert!(!large.may_cover(0x40_0000));
    }
}
