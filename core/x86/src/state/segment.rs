//! Segment registers with their hidden parts, and descriptor-table registers (APM volume 2, section 4.7).

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

/// The number of a segment register, as instructions encode it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum SegmentRegister {
    /// Extra segment.
    Es = 0,
    /// Code segment.
    Cs = 1,
    /// Stack segment.
    Ss = 2,
    /// Data segment.
    Ds = 3,
    /// FS.
    Fs = 4,
    /// GS.
    Gs = 5,
}

impl SegmentRegister {
    /// All six, in encoding order.
    pub const ALL: [Self; 6] = [Self::Es, Self::Cs, Self::Ss, Self::Ds, Self::Fs, Self::Gs];
}

bitflags! {
    /// The attributes of a descriptor: its byte 5 in bits 7:0 and the high nibble of its byte 6 in bits 11:8.
    ///
    /// This is also the packing of a VMCB's segment attributes (APM volume 2, appendix B).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
    #[serde(transparent)]
    pub struct Attributes: u16 {
        /// Set by the processor on load.
        const ACCESSED = 1 << 0;
        /// Data: writable. Code: readable.
        const WRITABLE_OR_READABLE = 1 << 1;
        /// Data: expand-down. Code: conforming.
        const EXPAND_DOWN_OR_CONFORMING = 1 << 2;
        /// Code rather than data.
        const CODE = 1 << 3;
        /// Code or data rather than a system descriptor.
        const USER = 1 << 4;
        /// Descriptor privilege level, low bit.
        const DPL_0 = 1 << 5;
        /// Descriptor privilege level, high bit.
        const DPL_1 = 1 << 6;
        /// Present.
        const PRESENT = 1 << 7;
        /// For software.
        const AVAILABLE = 1 << 8;
        /// 64-bit code.
        const LONG = 1 << 9;
        /// 32-bit operands and addresses (code), 32-bit stack pointer or 4 GiB bound (data).
        const DEFAULT_BIG = 1 << 10;
        /// The limit counts 4 KiB pages.
        const GRANULARITY = 1 << 11;
    }
}

impl Attributes {
    /// The descriptor's four type bits.
    #[must_use]
    pub const fn kind(self) -> u8 {
        (self.bits() & 0xf) as u8
    }

    /// The descriptor's privilege level, 0 to 3.
    #[must_use]
    pub const fn dpl(self) -> u8 {
        ((self.bits() >> 5) & 3) as u8
    }

    /// These attributes with another privilege level (0 to 3).
    #[must_use]
    pub const fn with_dpl(self, dpl: u8) -> Self {
        Self::from_bits_retain(self.bits() & !0x60 | ((dpl as u16 & 3) << 5))
    }

    /// These attributes with other type bits (0 to 15).
    #[must_use]
    pub const fn with_kind(self, kind: u8) -> Self {
        Self::from_bits_retain(self.bits() & !0xf | (kind as u16 & 0xf))
    }
}

/// A segment register: the selector and what the processor cached from its descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// The cached attributes; without [`Attributes::PRESENT`] the register is unusable.
    pub attributes: Attributes,
    /// The cached limit in bytes, already scaled by the granularity.
    pub limit: u32,
    /// The cached base, a linear address.
    pub base: u64,
}

impl Segment {
    /// A flat 4 GiB segment with base 0 and the given selector and attributes.
    #[must_use]
    pub const fn flat(selector: u16, attributes: Attributes) -> Self {
        Self { selector, attributes, limit: u32::MAX, base: 0 }
    }

    /// A real-mode segment: base is 16 times the selector, limit 64 KiB.
    #[must_use]
    pub const fn real_mode(selector: u16) -> Self {
        Self {
            selector,
            attributes: Attributes::from_bits_retain(0x93),
            limit: 0xffff,
            base: (selector as u64) << 4,
        }
    }
}

/// GDTR or IDTR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DescriptorTable {
    /// Linear address of the table.
    pub base: u64,
    /// The table's last valid byte offset.
    pub limit: u16,
}
