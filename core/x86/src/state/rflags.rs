//! The flags register (APM volume 2, section 3.1.6).

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

bitflags! {
    /// RFLAGS.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(transparent)]
    pub struct Rflags: u64 {
        /// Carry.
        const CF = 1 << 0;
        /// Always one.
        const FIXED = 1 << 1;
        /// Parity of the low byte of the result.
        const PF = 1 << 2;
        /// Auxiliary carry: out of bit 3.
        const AF = 1 << 4;
        /// Zero.
        const ZF = 1 << 6;
        /// Sign.
        const SF = 1 << 7;
        /// Trap: single-step.
        const TF = 1 << 8;
        /// Interrupts enabled.
        const IF = 1 << 9;
        /// Direction of string instructions: set means downwards.
        const DF = 1 << 10;
        /// Overflow.
        const OF = 1 << 11;
        /// I/O privilege level, low bit.
        const IOPL_0 = 1 << 12;
        /// I/O privilege level, high bit.
        const IOPL_1 = 1 << 13;
        /// Nested task.
        const NT = 1 << 14;
        /// Resume: masks instruction breakpoints for one instruction.
        const RF = 1 << 16;
        /// Virtual-8086 mode.
        const VM = 1 << 17;
        /// Alignment check, and the SMAP override of supervisor code.
        const AC = 1 << 18;
        /// Virtual interrupt flag.
        const VIF = 1 << 19;
        /// Virtual interrupt pending.
        const VIP = 1 << 20;
        /// CPUID may be used.
        const ID = 1 << 21;
    }
}

impl Rflags {
    /// The six arithmetic flags.
    pub const STATUS: Self =
        Self::CF.union(Self::PF).union(Self::AF).union(Self::ZF).union(Self::SF).union(Self::OF);
    /// Both bits of the I/O privilege level.
    pub const IOPL: Self = Self::IOPL_0.union(Self::IOPL_1);

    /// The I/O privilege level, 0 to 3.
    #[must_use]
    pub const fn iopl(self) -> u8 {
        ((self.bits() >> 12) & 3) as u8
    }
}

impl Default for Rflags {
    fn default() -> Self {
        Self::FIXED
    }
}
