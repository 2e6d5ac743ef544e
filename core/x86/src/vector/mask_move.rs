//! MASKMOVQ and MASKMOVDQU: stores of selected bytes at DS:rDI (APM volumes 4 and 5).

use super::fields;
use crate::state::FpuState;

/// What a masked move stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaskedMove {
    /// The bytes of the source register; MASKMOVQ has eight.
    pub bytes: [u8; 16],
    /// Bit *n* is set if byte *n* is to be stored at offset *n*.
    pub selected: u16,
}

impl MaskedMove {
    fn new(source: u128, mask: u128) -> Self {
        let mut selected = 0;
        for (n, byte) in mask.to_le_bytes().into_iter().enumerate() {
            selected |= u16::from(byte >> 7) << n;
        }
        Self { bytes: source.to_le_bytes(), selected }
    }
}

/// MASKMOVDQU of XMM registers `source` and `mask` (0 to 15).
#[must_use]
pub fn maskmovdqu(fpu: &FpuState, source: usize, mask: usize) -> MaskedMove {
    MaskedMove::new(fpu.xmm(source), fpu.xmm(mask))
}

/// MASKMOVQ (waiting) of MMX registers `source` and `mask` (0 to 7). Before the stores comes [`enter_mmx`].
#[must_use]
pub fn maskmovq(fpu: &FpuState, source: usize, mask: usize) -> MaskedMove {
    let mmx = |physical: usize| {
        let bytes = fields::st(fpu, (physical + 8 - fields::top(fpu)) & 7);
        u128::from(fields::read_u64(&bytes, 0))
    };
    MaskedMove::new(mmx(source), mmx(mask))
}

/// The transition from x87 to MMX: all registers become valid, the stack top 0.
pub fn enter_mmx(fpu: &mut FpuState) {
    fields::move_top(fpu, 0);
    fpu.set_ftw(0xff);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_top_bit_of_each_mask_byte_selects() {
        let mut fpu = FpuState::new();
        fpu.set_xmm(1, u128::from_le_bytes(*b"abcdefghijklmnop"));
        fpu.set_xmm(2, 0x80 | 0xff << 24 | 0x7f << 32 | 0x80 << 120);
        let m = maskmovdqu(&fpu, 1, 2);
        assert_eq!(&m.bytes, b"abcdefghijklmnop");
        assert_eq!(m.selected, 1 << 0 | 1 << 3 | 1 << 15);
    }

    #[test]
    fn mmx_registers_are_physical_and_do_not_move_with_the_stack_top() {
        let mut fpu = FpuState::new();
        fpu.set_fsw(6 << 11);
        // Physical registers 1 and 7 are ST(3) and ST(1) below a top of 6.
        fields::set_st(&mut fpu, 3, *b"01234567\xff\xff");
        fields::set_st(&mut fpu, 1, [0x80, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0xff]);
        let before = maskmovq(&fpu, 1, 7);
        assert_eq!(&before.bytes[..8], b"01234567");
        assert_eq!(before.selected, 0x81);
        enter_mmx(&mut fpu);
        assert_eq!(maskmovq(&fpu, 1, 7), before);
        assert_eq!((fields::top(&fpu), fpu.ftw()), (0, 0xff));
        assert_eq!(&fields::st(&fpu, 1)[..8], b"01234567");
    }
}
