//! What the meaning of code bytes depends on besides the bytes.

use bitflags::bitflags;

bitflags! {
    /// The part of the processor's mode that a decoded block is valid for.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct Mode: u8 {
        /// 64-bit code: CS.L is set in long mode.
        const LONG = 1 << 0;
        /// 32-bit code: CS.D is set.
        const CODE32 = 1 << 1;
        /// A 32-bit stack pointer: SS.B is set.
        const STACK32 = 1 << 2;
        /// Protected mode, and ES, CS, SS and DS are usable, writable where they must be, with base 0 and a 4 GiB limit.
        const FLAT = 1 << 3;
        /// The opcode of BSF with F3 is TZCNT, as the model says.
        const TZCNT = 1 << 4;
        /// The opcode of BSR with F3 is LZCNT, as the model says.
        const LZCNT = 1 << 5;
    }
}

impl Mode {
    /// The width of code, as decoders name it: 16, 32 or 64.
    #[must_use]
    pub const fn bitness(self) -> u32 {
        if self.contains(Self::LONG) {
            64
        } else if self.contains(Self::CODE32) {
            32
        } else {
            16
        }
    }
}
