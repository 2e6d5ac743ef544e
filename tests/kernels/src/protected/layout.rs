//! Where things lie in the 32-bit environment. There is no paging unless a test enables it.
//!
//! ```text
//! 0x100000  code
//! 0x140000  GDT, IDT, TSS, variables
//! 0x180000  stacks, each growing down from its top
//! 0x200000  memory of the test
//! ```

/// Code, and the PVH entry.
pub const CODE: u32 = 0x10_0000;
/// Segment descriptors.
pub const GDT: u32 = 0x14_0000;
/// The GDT's limit.
pub const GDT_LIMIT: u16 = 0xff;
/// Interrupt descriptors, all 256.
pub const IDT: u32 = 0x14_1000;
/// The 32-bit task-state segment.
pub const TSS: u32 = 0x14_2000;
/// The end of what the image holds besides [`DATA`].
pub(super) const IMAGE_END: u32 = 0x14_4000;
/// Top of the stack.
pub const STACK: u32 = 0x18_0000;
/// Top of the stack for entries from level 3.
pub const STACK_0: u32 = 0x19_0000;
/// Top of the stack of level 3.
pub const USER_STACK: u32 = 0x1a_0000;
/// Memory that belongs to the test: what it puts there, otherwise zero.
pub const DATA: u32 = 0x20_0000;
pub(super) const DATA_END: u32 = 0x22_0000;

/// Flat code of level 0.
pub const CODE_SELECTOR: u16 = 0x08;
/// Flat data of level 0.
pub const DATA_SELECTOR: u16 = 0x10;
/// Flat code of level 3.
pub const USER_CODE_SELECTOR: u16 = 0x1b;
/// Flat data of level 3.
pub const USER_DATA_SELECTOR: u16 = 0x23;
/// The TSS.
pub const TSS_SELECTOR: u16 = 0x28;
/// The first selector that is free; the GDT has room up to 0xf8.
pub const FREE_SELECTOR: u16 = 0x30;

pub(super) mod variable {
    /// Where to go on after an exception; 0 if none is expected.
    pub const CATCH_EIP: u32 = 0x14_3000;
    /// With which stack pointer.
    pub const CATCH_ESP: u32 = 0x14_3004;
    /// Where the instructions begin that are watched.
    pub const CATCH_START: u32 = 0x14_3008;
    /// EAX while the way back is prepared.
    pub const SAVED_EAX: u32 = 0x14_300c;
    /// Operands of LGDT and LIDT.
    pub const GDT_POINTER: u32 = 0x14_3010;
    pub const IDT_POINTER: u32 = 0x14_3018;
    /// The frame that the last exception's handler found.
    pub const FRAME: u32 = 0x14_3040;
}
