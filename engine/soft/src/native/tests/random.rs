//! Reproducible states that are rich in the numbers at which arithmetic goes wrong.

use tern_x86::cpuid::InstructionSets;
use tern_x86::state::{FpuState, Mxcsr};

use super::super::instruction_sets;

/// A splitmix64 generator.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `bound`.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }

    fn single(&mut self) -> u32 {
        let sign = self.next() as u32 & 0x8000_0000;
        sign | match self.below(14) {
            0 => 0,
            1 => 1,
            2 => 0x007f_ffff,
            3 => 0x0080_0000 + self.below(4) as u32,
            4 => 0x7f80_0000,
            5 => 0x7fc0_0001,
            6 => 0x7f80_0001,
            7 => 0x7f7f_ffff - self.below(4) as u32,
            8 => 0x3f80_0000,
            9 => 0x3f80_0000 + (self.next() as u32 & 0x00ff_ffff),
            10 => self.next() as u32 & 0x007f_ffff,
            11 => 0x2000_0000 + (self.next() as u32 & 0x01ff_ffff),
            12 => 0x4f00_0000,
            _ => self.next() as u32 & 0x7fff_ffff,
        }
    }

    fn double(&mut self) -> u64 {
        let sign = self.next() & 1 << 63;
        sign | match self.below(14) {
            0 => 0,
            1 => 1,
            2 => 0x000f_ffff_ffff_ffff,
            3 => 0x0010_0000_0000_0000 + self.below(4),
            4 => 0x7ff0_0000_0000_0000,
            5 => 0x7ff8_0000_0000_0001,
            6 => 0x7ff0_0000_0000_0001,
            7 => 0x7fef_ffff_ffff_ffff - self.below(4),
            8 => 0x3ff0_0000_0000_0000,
            9 => 0x3ff0_0000_0000_0000 + (self.next() & 0x001f_ffff_ffff_ffff),
            10 => self.next() & 0x000f_ffff_ffff_ffff,
            11 => 0x2000_0000_0000_0000 + (self.next() & 0x001f_ffff_ffff_ffff),
            12 => 0x41e0_0000_0000_0000,
            _ => self.next() & !(1 << 63),
        }
    }

    /// Sixteen bytes: singles, doubles, text or noise.
    pub(super) fn vector(&mut self) -> u128 {
        let mut lanes = || match self.below(4) {
            0 => u64::from(self.single()) | u64::from(self.single()) << 32,
            1 | 2 => self.double(),
            _ => self.next() & (self.next() | 0x00ff_00ff_00ff_00ff),
        };
        u128::from(lanes()) | u128::from(lanes()) << 64
    }

    /// Ten bytes: an extended real or noise.
    pub(super) fn extended(&mut self) -> [u8; 10] {
        let sign = self.next() as u16 & 0x8000;
        let integer_bit = 1 << 63;
        let (exponent, significand) = match self.below(14) {
            0 => (0, 0),
            1 => (0, self.next() >> 1),
            2 => (0, integer_bit | self.next()),
            3 => (0x7fff, integer_bit),
            4 => (0x7fff, integer_bit | 1 << 62 | 1),
            5 => (0x7fff, integer_bit | 1),
            6 => (0x7fff, self.next()),
            7 => (self.next() as u16 & 0x7fff, self.next()),
            8 => (0x3fff, integer_bit),
            9 => (0x7ffe, u64::MAX),
            10 => (1 + self.below(3) as u16, integer_bit | self.next()),
            _ => (0x3fe0 + self.below(0x60) as u16, integer_bit | self.next()),
        };
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&significand.to_le_bytes());
        bytes[8..].copy_from_slice(&(sign | exponent).to_le_bytes());
        bytes
    }

    /// A state without pending x87 exception. One in two masks all exceptions.
    pub(super) fn fpu(&mut self) -> FpuState {
        let mut fpu = FpuState::new();
        let masks = if self.below(2) == 0 { 0x3f } else { self.next() as u16 & 0x3f };
        fpu.set_fcw(self.next() as u16 & 0x1f00 | 0x40 | masks);
        fpu.set_fsw(self.next() as u16 & 0x7f40 | self.next() as u16 & masks);
        fpu.set_ftw(if self.below(2) == 0 { 0xff } else { self.byte() });
        for n in 0..8 {
            let value = self.extended();
            fpu.image_mut()[32 + 16 * n..][..10].copy_from_slice(&value);
        }
        for n in 0..16 {
            let value = self.vector();
            fpu.set_xmm(n, value);
        }
        if instruction_sets().contains(InstructionSets::AVX) && self.below(4) != 0 {
            for half in fpu.ymm_mut().chunks_mut(16) {
                half.copy_from_slice(&self.vector().to_le_bytes());
            }
        }
        let random = self.next() as u32;
        let masks = if self.below(2) == 0 { Mxcsr::MASKS.bits() } else { random >> 16 & 0x1f80 };
        fpu.set_mxcsr(Mxcsr::from_bits_truncate(random & 0xe07f | masks));
        fpu
    }
}
