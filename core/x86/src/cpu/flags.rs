//! The six arithmetic flags, kept as what they are computed from until somebody asks.
//!
//! Most instructions write the flags and few read them. So an instruction leaves only its sign-extended result and its
//! carries, and each flag is derived by a couple of bit operations without knowing which instruction it was:
//!
//! ```text
//! carries: 63      62        … 15:8      …  3   …  0
//!          CF   carry into     parity       AF     SF differs from
//!               the top bit    correction          the result's top bit
//! ```
//!
//! OF is bit 63 xor bit 62. ZF is `result == 0`, SF the result's top bit xor bit 0, PF the parity of the result's low
//! byte xor bits 15:8. The corrections let any combination be represented, as POPF can load it.

use super::word::Word;
use crate::state::Rflags;

const CF_SHIFT: u32 = 63;
const TOP: u64 = 3 << 62;
const AF_BIT: u64 = 1 << 3;

/// The arithmetic flags in their lazy form.
#[derive(Debug, Clone, Copy, Default)]
pub struct LazyFlags {
    result: u64,
    carries: u64,
}

impl LazyFlags {
    /// The flags of an instruction of width `W` with the given result. Bit `i` of `carries` is the carry (or borrow)
    /// out of bit `i`.
    #[inline(always)]
    pub fn arithmetic<W: Word>(result: W, carries: u64) -> Self {
        Self { result: result.sign_extend(), carries: carries << (64 - W::BITS) & TOP | carries & AF_BIT }
    }

    /// The flags of a logical instruction: CF, OF and AF are clear.
    #[inline(always)]
    pub fn logic<W: Word>(result: W) -> Self {
        Self { result: result.sign_extend(), carries: 0 }
    }

    /// ZF, SF and PF from a result, the others as given.
    #[inline(always)]
    pub fn from_parts<W: Word>(result: W, cf: bool, of: bool, af: bool) -> Self {
        let carries = u64::from(cf) << 63 | u64::from(cf ^ of) << 62 | u64::from(af) << 3;
        Self { result: result.sign_extend(), carries }
    }

    /// CF.
    #[inline(always)]
    pub const fn cf(self) -> bool {
        self.carries >> CF_SHIFT != 0
    }

    /// OF.
    #[inline(always)]
    pub const fn of(self) -> bool {
        (self.carries ^ self.carries << 1) >> 63 != 0
    }

    /// AF.
    #[inline(always)]
    pub const fn af(self) -> bool {
        self.carries & AF_BIT != 0
    }

    /// ZF.
    #[inline(always)]
    pub const fn zf(self) -> bool {
        self.result == 0
    }

    /// SF.
    #[inline(always)]
    pub const fn sf(self) -> bool {
        (self.result >> 63 ^ self.carries & 1) != 0
    }

    /// PF.
    #[inline(always)]
    pub const fn pf(self) -> bool {
        ((self.result ^ self.carries >> 8) as u8).count_ones().is_multiple_of(2)
    }

    /// Sets CF and keeps the others.
    #[inline(always)]
    pub fn set_cf(&mut self, cf: bool) {
        let of = self.of();
        self.carries = self.carries & !TOP | u64::from(cf) << 63 | u64::from(cf ^ of) << 62;
    }

    /// Sets CF and OF and keeps the others.
    #[inline(always)]
    pub fn set_cf_of(&mut self, cf: bool, of: bool) {
        self.carries = self.carries & !TOP | u64::from(cf) << 63 | u64::from(cf ^ of) << 62;
    }

    /// Sets ZF and keeps the others.
    pub fn set_zf(&mut self, zf: bool) {
        let mut bits = self.bits();
        bits.set(Rflags::ZF, zf);
        *self = Self::from_bits(bits);
    }

    /// The flags in their RFLAGS positions.
    pub fn bits(self) -> Rflags {
        let mut bits = Rflags::empty();
        bits.set(Rflags::CF, self.cf());
        bits.set(Rflags::PF, self.pf());
        bits.set(Rflags::AF, self.af());
        bits.set(Rflags::ZF, self.zf());
        bits.set(Rflags::SF, self.sf());
        bits.set(Rflags::OF, self.of());
        bits
    }

    /// Any combination of flags; other bits of `bits` are ignored.
    pub fn from_bits(bits: Rflags) -> Self {
        let (zf, sf) = (bits.contains(Rflags::ZF), bits.contains(Rflags::SF));
        let cf = bits.contains(Rflags::CF);
        let of = bits.contains(Rflags::OF);
        // A result of zero low byte has even parity, so the correction is 1 where PF is clear.
        let parity = u64::from(!bits.contains(Rflags::PF)) << 8;
        let result = if zf { 0 } else { u64::from(sf) << 63 | 1 << 8 };
        let carries = u64::from(cf) << 63
            | u64::from(cf ^ of) << 62
            | parity
            | u64::from(bits.contains(Rflags::AF)) << 3
            | u64::from(zf && sf);
        Self { result, carries }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_survives() {
        for n in 0..64u64 {
            let spread = [Rflags::CF, Rflags::PF, Rflags::AF, Rflags::ZF, Rflags::SF, Rflags::OF];
            let bits = spread
                .iter()
                .enumerate()
                .filter(|(i, _)| n >> i & 1 != 0)
                .fold(Rflags::empty(), |all, (_, &flag)| all | flag);
            assert_eq!(LazyFlags::from_bits(bits).bits(), bits);
            for cf in [false, true] {
                let mut flags = LazyFlags::from_bits(bits);
                flags.set_cf(cf);
                let mut expected = bits;
                expected.set(Rflags::CF, cf);
                assert_eq!(flags.bits(), expected);
            }
        }
    }

    #[test]
    fn carries_of_a_64_bit_addition_do_not_disturb_the_corrections() {
        let (a, b) = (u64::MAX, 1u64);
        let sum = a.wrapping_add(b);
        let flags = LazyFlags::arithmetic(sum, a & b | (a | b) & !sum);
        assert_eq!(flags.bits(), Rflags::CF | Rflags::PF | Rflags::AF | Rflags::ZF);
    }
}
