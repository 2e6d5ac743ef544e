//! Reproducible randomness, rich in the numbers at which arithmetic goes wrong.

use crate::layout::{CONSTANTS, DATA, STACK};

/// A splitmix64 generator.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The generator of case `number` in the run with `seed`.
    #[must_use]
    pub fn new(seed: u64, number: u64) -> Self {
        let mut random = Self(seed);
        let mixed = random.bits();
        Self(mixed ^ number.wrapping_mul(0xd134_2543_de82_ef95))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// 16 random bits.
    pub fn bits16(&mut self) -> u16 {
        (self.bits() >> 48) as u16
    }

    /// 32 random bits.
    pub fn bits32(&mut self) -> u32 {
        (self.bits() >> 32) as u32
    }

    /// A random byte.
    pub fn byte(&mut self) -> u8 {
        (self.bits() >> 56) as u8
    }

    /// A number below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.bits() >> 8) % bound
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `items`, of which there is at least one.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len() as u64) as usize]
    }

    /// An integer of any width, often one at an edge.
    pub fn integer(&mut self) -> u64 {
        let power = 1u64 << self.below(64);
        match self.below(12) {
            0 => 0,
            1 => 1,
            2 => u64::MAX,
            3 => power,
            4 => power - 1,
            5 => power.wrapping_neg(),
            6 => {
                *self.pick(&[0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff])
            }
            7 => self.below(70),
            8 => u64::from(self.bits32()),
            9 => self.address(),
            10 => self.bits() >> self.below(64),
            _ => self.bits(),
        }
    }

    /// A linear address for a memory operand: mostly aligned and mapped, sometimes at the edge of a page.
    pub fn address(&mut self) -> u64 {
        let area = match self.below(16) {
            0 => CONSTANTS,
            1 => STACK,
            _ => DATA,
        };
        let size = area.size() as u64;
        let offset = match self.below(16) {
            0 => size - 1 - self.below(40),
            1 => self.below(16).wrapping_sub(8),
            2 => size / 2 - self.below(24),
            3..=6 => self.below(size - 512),
            _ => self.below(size / 64 - 16) * 64 + 16 * self.below(4),
        };
        area.linear.wrapping_add(offset)
    }

    fn single(&mut self) -> u32 {
        let sign = self.bits32() & 0x8000_0000;
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
            9 => 0x3f80_0000 + (self.bits32() & 0x00ff_ffff),
            10 => self.bits32() & 0x007f_ffff,
            11 => 0x2000_0000 + (self.bits32() & 0x01ff_ffff),
            12 => 0x4f00_0000,
            _ => self.bits32() & 0x7fff_ffff,
        }
    }

    fn double(&mut self) -> u64 {
        let sign = self.bits() & 1 << 63;
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
            9 => 0x3ff0_0000_0000_0000 + (self.bits() & 0x001f_ffff_ffff_ffff),
            10 => self.bits() & 0x000f_ffff_ffff_ffff,
            11 => 0x2000_0000_0000_0000 + (self.bits() & 0x001f_ffff_ffff_ffff),
            12 => 0x41e0_0000_0000_0000,
            _ => self.bits() & !(1 << 63),
        }
    }

    /// Sixteen bytes: singles, doubles, integers, text or noise.
    pub fn vector(&mut self) -> u128 {
        let mut lane = || match self.below(5) {
            0 => u64::from(self.single()) | u64::from(self.single()) << 32,
            1 | 2 => self.double(),
            3 => self.integer(),
            _ => self.bits() & (self.bits() | 0x00ff_00ff_00ff_00ff),
        };
        u128::from(lane()) | u128::from(lane()) << 64
    }

    /// Ten bytes: an extended real of any kind, including those that do not exist any more, or noise.
    pub fn extended(&mut self) -> [u8; 10] {
        let integer_bit = 1 << 63;
        let (exponent, significand) = match self.below(14) {
            0 => (0, 0),
            1 => (0, self.bits() >> 1),
            2 => (0, integer_bit | self.bits()),
            3 => (0x7fff, integer_bit),
            4 => (0x7fff, integer_bit | 1 << 62 | 1),
            5 => (0x7fff, integer_bit | 1),
            6 => (0x7fff, self.bits()),
            7 => (self.bits16() & 0x7fff, self.bits()),
            8 => (0x3fff, integer_bit),
            9 => (0x7ffe, u64::MAX),
            10 => (1 + self.below(3) as u16, integer_bit | self.bits()),
            _ => (0x3fe0 + self.below(0x60) as u16, integer_bit | self.bits()),
        };
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&significand.to_le_bytes());
        bytes[8..].copy_from_slice(&(self.bits16() & 0x8000 | exponent).to_le_bytes());
        bytes
    }
}
