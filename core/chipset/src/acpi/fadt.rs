//! The fixed ACPI description table: where the fixed hardware is. ACPI 6.5 § 5.2.9.

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::layout::{irq, port};
use crate::power::{GPE0, PM_TIMER, PM1A_CONTROL, PM1A_EVENT, ResetControl};
use crate::rtc;
use acpi_tables::fadt::{FADT, FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};

/// There are devices on the ISA bus: serial ports, timer, RTC.
const LEGACY_DEVICES: u16 = 1 << 0;
/// There is no VGA. (The bit for the keyboard controller stays clear: it has no keyboard, and
/// need not be probed.)
const VGA_NOT_PRESENT: u16 = 1 << 2;

/// Latencies above these mean that there is no C2 and C3 state.
const NO_C2: u16 = 101;
const NO_C3: u16 = 1001;

/// A block of I/O ports, as the old and the new fields of the table name it.
struct Block {
    port: u16,
    bytes: u8,
    access: AccessSize,
}

impl Block {
    const fn new(offset: u16, bytes: u8, access: AccessSize) -> Self {
        Self { port: port::POWER.start + offset, bytes, access }
    }

    fn address(&self) -> GAS {
        let bits = self.bytes * 8;
        GAS::new(AddressSpace::SystemIo, bits, 0, self.access, u64::from(self.port))
    }
}

/// The table, given the addresses of those that it points to.
pub(super) fn build(dsdt: u64, facs: u64) -> FADT {
    let event = Block::new(PM1A_EVENT, 4, AccessSize::WordAccess);
    let control = Block::new(PM1A_CONTROL, 2, AccessSize::WordAccess);
    let timer = Block::new(PM_TIMER, 4, AccessSize::DwordAccess);
    let gpe0 = Block::new(GPE0, 4, AccessSize::ByteAccess);

    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .flag(Flags::Wbinvd)
        .flag(Flags::ProcC1)
        // No sleep button, and an RTC that does not wake: neither is among the fixed events.
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup);
    fadt.x_firmware_ctrl = facs.into();
    fadt.x_dsdt = dsdt.into();
    // For those who read the 32-bit field only; zero says that there is none.
    fadt.dsdt = u32::try_from(dsdt).unwrap_or(0).into();

    fadt.sci_int = u16::from(irq::SCI).into();
    fadt.pm1a_evt_blk = u32::from(event.port).into();
    fadt.pm1a_cnt_blk = u32::from(control.port).into();
    fadt.pm_tmr_blk = u32::from(timer.port).into();
    fadt.gpe0_blk = u32::from(gpe0.port).into();
    fadt.pm1_evt_len = event.bytes;
    fadt.pm1_cnt_len = control.bytes;
    fadt.pm_tmr_len = timer.bytes;
    fadt.gpe0_blk_len = gpe0.bytes;
    fadt.x_pm1a_evt_blk = event.address();
    fadt.x_pm1a_cnt_blk = control.address();
    fadt.x_pm_tmr_blk = timer.address();
    fadt.x_gpe0_blk = gpe0.address();

    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.century = rtc::CENTURY;
    fadt.iapc_boot_arch = (LEGACY_DEVICES | VGA_NOT_PRESENT).into();
    let reset = u64::from(port::RESET_CONTROL);
    fadt.reset_reg = GAS::new(AddressSpace::SystemIo, 8, 0, AccessSize::ByteAccess, reset);
    fadt.reset_value = ResetControl::HARD_RESET;
    fadt.finalize()
}
