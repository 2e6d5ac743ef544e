//! Where things lie in the 64-bit environment. Physical addresses, mapped to themselves for the supervisor.
//!
//! ```text
//! 0x008000  start of further processors
//! 0x100000  32-bit start, 0x101000 64-bit code
//! 0x140000  GDT, IDT, TSS, variables
//! 0x150000  page tables
//! 0x17f000  stacks, each growing down from its top
//! 0x200000  frames that tests map into the window
//! 0x600000  stacks of further processors
//! ```
//!
//! | linear addresses | what is there |
//! |---|---|
//! | 0 | the first 4 GiB, supervisor only, in 2 MiB pages |
//! | [`WINDOW`] | 512 pages of 4 KiB, empty: a test maps what it wants by [`WINDOW_TABLE`] |
//! | [`USER`] | the first 1 GiB again, for user mode |

/// Where processors start in real mode.
pub const TRAMPOLINE: u64 = 0x8000;
/// The 32-bit entry.
pub const START: u64 = 0x10_0000;
/// 64-bit code.
pub const CODE: u64 = 0x10_1000;
/// Global descriptors.
pub const GDT: u64 = 0x14_0000;
/// The GDT's limit: room for [`FREE_SELECTOR`] and further ones.
pub const GDT_LIMIT: u16 = 0xff;
/// Interrupt descriptors, all 256.
pub const IDT: u64 = 0x14_1000;
/// Task-state segment.
pub const TSS: u64 = 0x14_2000;
/// The TSS's limit: no I/O permission map.
pub const TSS_LIMIT: u16 = 0x67;
/// The topmost page table. Entry 0 is the identity map.
pub const PML4: u64 = 0x15_0000;
pub(super) const IDENTITY_POINTERS: u64 = 0x15_1000;
pub(super) const IDENTITY_DIRECTORIES: u64 = 0x15_2000;
/// The window's page-directory pointers: only entry 0 is used.
pub const WINDOW_POINTERS: u64 = 0x15_6000;
/// The window's page directory: only entry 0 is used.
pub const WINDOW_DIRECTORY: u64 = 0x15_7000;
/// The window's page table.
pub const WINDOW_TABLE: u64 = 0x15_8000;
pub(super) const USER_POINTERS: u64 = 0x15_9000;
pub(super) const USER_DIRECTORY: u64 = 0x15_a000;
/// A page table that tests may fill.
pub const SPARE_TABLE: u64 = 0x15_b000;
/// The end of what the image holds.
pub(super) const IMAGE_END: u64 = 0x15_c000;

/// Top of the stack of the first processor.
pub const STACK: u64 = 0x18_0000;
/// Tops of the stacks of IST entries 1 to 3.
pub const IST: [u64; 3] = [0x19_0000, 0x1a_0000, 0x1b_0000];
/// Top of the stack for entries from user mode.
pub const RSP0: u64 = 0x1c_0000;
/// Top of the user's stack.
pub const USER_STACK: u64 = USER + 0x1d_0000;
/// Further processors' stacks: that of APIC ID n ends n pages higher.
pub const PROCESSOR_STACKS: u64 = 0x60_0000;

/// Linear address of what tests map.
pub const WINDOW: u64 = 0x80_0000_0000;
/// Linear address of physical address 0 for user mode.
pub const USER: u64 = 0x100_0000_0000;

/// Memory that belongs to the test, zero at the start.
pub const DATA: u64 = 0x40_0000;

/// Page frame `n` of those that tests map, zero at the start.
#[must_use]
pub const fn frame(n: u64) -> u64 {
    0x20_0000 + n * 0x1000
}

/// Frames that can be filled before the guest starts.
pub(super) const FRAMES: u64 = 16;

/// 64-bit code of level 0.
pub const CODE_SELECTOR: u16 = 0x08;
/// Data of level 0.
pub const DATA_SELECTOR: u16 = 0x10;
/// Compatibility-mode code of level 3.
pub const USER_CODE_32_SELECTOR: u16 = 0x1b;
/// Data of level 3.
pub const USER_DATA_SELECTOR: u16 = 0x23;
/// 64-bit code of level 3.
pub const USER_CODE_SELECTOR: u16 = 0x2b;
/// The TSS.
pub const TSS_SELECTOR: u16 = 0x30;
/// Compatibility-mode code of level 0.
pub const CODE_32_SELECTOR: u16 = 0x40;
/// The first selector that is free.
pub const FREE_SELECTOR: u16 = 0x48;

/// Variables of the environment, below what [`super::Long`] offers to tests.
pub(super) mod variable {
    /// Where to go on after an exception; 0 if none is expected.
    pub const CATCH_RIP: u64 = 0x14_3000;
    /// With which stack pointer.
    pub const CATCH_RSP: u64 = 0x14_3008;
    /// Where the instructions begin that are watched.
    pub const CATCH_START: u64 = 0x14_3010;
    /// Constants that are too long for operands.
    pub const USER_STACK: u64 = 0x14_3018;
    pub const USER_BASE: u64 = 0x14_3020;
    /// Operands of LGDT and LIDT.
    pub const GDT_POINTER: u64 = 0x14_3030;
    pub const IDT_POINTER: u64 = 0x14_3040;
    /// The frame that the last exception's handler found: RIP, CS, RFLAGS, RSP, SS; and where it was.
    pub const FRAME: u64 = 0x14_3080;
    /// Processors that have started, the first one not counted.
    pub const STARTED: u64 = 0x14_30c0;
}
