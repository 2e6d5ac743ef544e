//! Control, debug and extended-feature registers (APM volume 2, chapters 3 and 13; XCR0: section 11.5).

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

bitflags! {
    /// CR0.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(transparent)]
    pub struct Cr0: u64 {
        /// Protected mode enabled.
        const PE = 1 << 0;
        /// Monitor coprocessor.
        const MP = 1 << 1;
        /// Emulate coprocessor: floating-point instructions fault.
        const EM = 1 << 2;
        /// Task switched.
        const TS = 1 << 3;
        /// Extension type, always one.
        const ET = 1 << 4;
        /// Numeric errors raise #MF.
        const NE = 1 << 5;
        /// Supervisor writes honour read-only pages.
        const WP = 1 << 16;
        /// Alignment mask.
        const AM = 1 << 18;
        /// Not write-through.
        const NW = 1 << 29;
        /// Cache disable.
        const CD = 1 << 30;
        /// Paging enabled.
        const PG = 1 << 31;
    }

    /// CR4.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
    #[serde(transparent)]
    pub struct Cr4: u64 {
        /// Virtual-8086 mode extensions.
        const VME = 1 << 0;
        /// Protected-mode virtual interrupts.
        const PVI = 1 << 1;
        /// RDTSC only at privilege level 0.
        const TSD = 1 << 2;
        /// Debug extensions: DR4 and DR5 fault.
        const DE = 1 << 3;
        /// 4 MiB pages in 32-bit paging.
        const PSE = 1 << 4;
        /// Physical-address extension.
        const PAE = 1 << 5;
        /// Machine check.
        const MCE = 1 << 6;
        /// Global pages.
        const PGE = 1 << 7;
        /// RDPMC at any privilege level.
        const PCE = 1 << 8;
        /// FXSAVE and SSE enabled.
        const OSFXSR = 1 << 9;
        /// Unmasked SSE exceptions raise #XF.
        const OSXMMEXCPT = 1 << 10;
        /// User-mode instruction prevention.
        const UMIP = 1 << 11;
        /// RDFSBASE and its kin enabled.
        const FSGSBASE = 1 << 16;
        /// Process-context identifiers.
        const PCIDE = 1 << 17;
        /// XSAVE and XCR0 enabled.
        const OSXSAVE = 1 << 18;
        /// Supervisor-mode execution prevention.
        const SMEP = 1 << 20;
        /// Supervisor-mode access prevention.
        const SMAP = 1 << 21;
    }

    /// EFER.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
    #[serde(transparent)]
    pub struct Efer: u64 {
        /// SYSCALL enabled.
        const SCE = 1 << 0;
        /// Long mode enabled.
        const LME = 1 << 8;
        /// Long mode active.
        const LMA = 1 << 10;
        /// No-execute pages enabled.
        const NXE = 1 << 11;
        /// Secure virtual machine enabled.
        const SVME = 1 << 12;
        /// Fast FXSAVE: leaves out the XMM registers at privilege level 0.
        const FFXSR = 1 << 14;
        /// Automatic indirect-branch restricted speculation.
        const AUTOIBRS = 1 << 21;
    }

    /// XCR0: the state components that XSAVE manages.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(transparent)]
    pub struct Xcr0: u64 {
        /// x87, always one.
        const X87 = 1 << 0;
        /// XMM registers and MXCSR.
        const SSE = 1 << 1;
        /// Upper halves of the YMM registers.
        const AVX = 1 << 2;
    }

    /// DR6, the debug status.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(transparent)]
    pub struct Dr6: u64 {
        /// Breakpoint 0 met.
        const B0 = 1 << 0;
        /// Breakpoint 1 met.
        const B1 = 1 << 1;
        /// Breakpoint 2 met.
        const B2 = 1 << 2;
        /// Breakpoint 3 met.
        const B3 = 1 << 3;
        /// A debug register was touched while DR7.GD was set.
        const BD = 1 << 13;
        /// Single-step.
        const BS = 1 << 14;
        /// Task switch.
        const BT = 1 << 15;
        /// Bits that read as one.
        const FIXED = 0xffff_0ff0;
    }

    /// DR7, the debug control; enables and conditions of the four breakpoints lie in the bits not named here.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(transparent)]
    pub struct Dr7: u64 {
        /// Local and global enables of all four breakpoints.
        const ENABLES = 0xff;
        /// Bit 10 reads as one.
        const FIXED = 1 << 10;
        /// General detect: touching a debug register faults.
        const GD = 1 << 13;
        /// The breakpoints' conditions and lengths.
        const CONDITIONS = 0xffff_0000;
    }
}

impl Default for Cr0 {
    /// The value after reset.
    fn default() -> Self {
        Self::CD | Self::NW | Self::ET
    }
}

impl Default for Xcr0 {
    fn default() -> Self {
        Self::X87
    }
}

impl Default for Dr6 {
    fn default() -> Self {
        Self::FIXED
    }
}

impl Dr6 {
    /// Takes in what a debug exception tells: which breakpoints were met is told of this one only, all else stays until software
    /// clears it (APM volume 2, section 13.1.1.3).
    pub fn note(&mut self, bits: u64) {
        self.remove(Self::B0 | Self::B1 | Self::B2 | Self::B3);
        self.insert(Self::from_bits_truncate(bits));
    }
}

impl Default for Dr7 {
    fn default() -> Self {
        Self::FIXED
    }
}
