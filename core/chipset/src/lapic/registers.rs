//! The register map of the local APIC (SDM vol. 3 table 11-1): offsets in the memory-mapped page.
//! In x2APIC mode, register `offset` is MSR `0x800 + offset / 16`.

pub(super) const ID: u16 = 0x020;
pub(super) const VERSION: u16 = 0x030;
pub(super) const TPR: u16 = 0x080;
pub(super) const APR: u16 = 0x090;
pub(super) const PPR: u16 = 0x0a0;
pub(super) const EOI: u16 = 0x0b0;
pub(super) const RRD: u16 = 0x0c0;
pub(super) const LDR: u16 = 0x0d0;
pub(super) const DFR: u16 = 0x0e0;
pub(super) const SVR: u16 = 0x0f0;
/// The first of eight; so are TMR and IRR.
pub(super) const ISR: u16 = 0x100;
pub(super) const TMR: u16 = 0x180;
pub(super) const IRR: u16 = 0x200;
pub(super) const ESR: u16 = 0x280;
pub(super) const ICR_LOW: u16 = 0x300;
pub(super) const ICR_HIGH: u16 = 0x310;
/// The first of six, in the order of [`super::LocalInterrupt`].
pub(super) const LVT: u16 = 0x320;
pub(super) const LVT_LAST: u16 = 0x370;
pub(super) const INITIAL_COUNT: u16 = 0x380;
pub(super) const CURRENT_COUNT: u16 = 0x390;
pub(super) const DIVIDE_CONFIGURATION: u16 = 0x3e0;
/// Exists in x2APIC mode only.
pub(super) const SELF_IPI: u16 = 0x3f0;

/// Version 0x14 (integrated APIC), six LVT entries, no suppression of EOI broadcasts.
pub(super) const VERSION_VALUE: u32 = 0x0005_0014;

/// Spurious-interrupt vector register: the APIC is enabled by software.
pub(super) const SVR_ENABLED: u32 = 1 << 8;
/// Vector, software enable, focus processor checking.
pub(super) const SVR_WRITABLE: u32 = 0x3ff;

/// LVT entries: the interrupt is masked.
pub(super) const LVT_MASKED: u32 = 1 << 16;
/// LVT entries: delivery status and remote IRR, which read as zero here and ignore writes.
pub(super) const LVT_READ_ONLY: u32 = 1 << 12 | 1 << 14;
/// What each LVT entry keeps, in the order of [`super::LocalInterrupt`]: all have vector and mask;
/// the timer its mode; all but timer and error a delivery mode; the pins polarity and trigger.
pub(super) const LVT_WRITABLE: [u32; 6] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];

/// What a guest may set in the low half of the ICR.
pub(super) const ICR_LOW_WRITABLE: u32 = 0x000c_cfff;
/// The destination is a logical one.
pub(super) const ICR_LOGICAL: u32 = 1 << 11;
/// The level is asserted.
pub(super) const ICR_ASSERT: u32 = 1 << 14;
/// The trigger mode is level.
pub(super) const ICR_LEVEL_TRIGGERED: u32 = 1 << 15;
/// The delivery status: always idle, writes ignored.
pub(super) const ICR_DELIVERY_STATUS: u32 = 1 << 12;

/// Error status register: an IPI with a vector below 16 was to be sent.
pub(super) const ESR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
/// Error status register: a vector below 16 was received.
pub(super) const ESR_RECEIVED_ILLEGAL_VECTOR: u32 = 1 << 6;
/// Error status register: a register was accessed that does not exist.
pub(super) const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;

/// IA32_APIC_BASE: this is the bootstrap processor.
pub(super) const BASE_BSP: u64 = 1 << 8;
/// IA32_APIC_BASE: x2APIC mode.
pub(super) const BASE_EXTD: u64 = 1 << 10;
/// IA32_APIC_BASE: the APIC is enabled.
pub(super) const BASE_EN: u64 = 1 << 11;
/// IA32_APIC_BASE: the page of the registers. 52 bits is the architecture's limit.
pub(super) const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
