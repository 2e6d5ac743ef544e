//! Where everything is: the fixed addresses, ports and interrupt lines of the PC.
//!
//! The legacy numbers are the IBM PC/AT's, and every operating system knows them by heart. The
//! rest is ours to choose; guests find it through the ACPI tables ([`crate::acpi`] is generated
//! from this file) and the reasons stand beside the numbers.
//!
//! ```text
//!  0x0000_0000 ┌─────────────────────────┐
//!              │ RAM (with the hole for  │ 0xa_0000..0x10_0000: legacy video and option ROMs
//!              │ video below 1 MiB)      │
//!  0xc000_0000 ├─────────────────────────┤ RAM_HOLE
//!              │ PCI memory, 32 bit      │
//!  0xe000_0000 ├─────────────────────────┤ ECAM: 256 buses, 1 MiB each
//!  0xf000_0000 ├─────────────────────────┤
//!              │ PCI memory, 32 bit      │
//!  0xfec0_0000 ├─────────────────────────┤ IO-APIC; 0xfee0_0000 local APICs and MSI
//! 0x1_0000_0000├─────────────────────────┤ rest of the RAM, then PCI memory, 64 bit
//! ```

use core::ops::Range;

/// Guest-physical addresses below 4 GiB where RAM gives way to devices. Three GiB of RAM below it
/// serve guests without PAE; one GiB above it is ample for 32-bit BARs.
pub const RAM_HOLE: Range<u64> = 0xc000_0000..0x1_0000_0000;

/// Legacy video memory, option ROMs and the BIOS: no RAM that a guest may allocate lies here.
pub const LEGACY_HOLE: Range<u64> = 0xa_0000..0x10_0000;

/// PCI Express configuration space, one MiB per bus. All 256 buses are decoded, so that no guest
/// meets the corner cases of a partial window; the price, 256 MiB of addresses, is affordable.
pub const ECAM: Range<u64> = 0xe000_0000..0xf000_0000;

/// The highest PCI bus that guests are told of. There are no bridges yet; each bus that is declared and empty costs a guest
/// the search of 32 devices.
pub const PCI_LAST_BUS: u8 = 0;

/// Where 32-bit BARs may be placed, on both sides of [`ECAM`].
pub const PCI_MEMORY_32: [Range<u64>; 2] = [RAM_HOLE.start..ECAM.start, ECAM.end..IO_APIC.start];

/// The IO-APIC's registers, where the 82093AA decodes by default.
pub const IO_APIC: Range<u64> = 0xfec0_0000..0xfec0_1000;

/// The local APIC's registers after reset. A guest may move them (IA32_APIC_BASE); MSIs always go
/// to the MiB that starts here.
pub const LOCAL_APIC: u64 = 0xfee0_0000;

/// Writes to these addresses are message-signalled interrupts when a device makes them.
pub const MSI: Range<u64> = 0xfee0_0000..0xfef0_0000;

/// I/O ports where PCI functions may place their BARs: everything above the chipset's own.
pub const PCI_PORTS: Range<u32> = 0x1000..0x1_0000;

/// A legacy serial port's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialPort {
    /// The first of its eight I/O ports.
    pub port: u16,
    /// Its ISA interrupt.
    pub irq: u8,
}

/// COM1 to COM4.
pub const SERIAL_PORTS: [SerialPort; 4] = [
    SerialPort { port: 0x3f8, irq: 4 },
    SerialPort { port: 0x2f8, irq: 3 },
    SerialPort { port: 0x3e8, irq: 4 },
    SerialPort { port: 0x2e8, irq: 3 },
];

/// ISA interrupt lines, equal to the 8259's inputs. On the IO-APIC the number is the pin, except
/// that the timer arrives at pin [`irq::TIMER_PIN`].
pub mod irq {
    /// Channel 0 of the interval timer.
    pub const TIMER: u8 = 0;
    /// The IO-APIC pin of the interval timer: pin 0 is the 8259's output on a PC.
    pub const TIMER_PIN: u8 = 2;
    /// The keyboard controller.
    pub const KEYBOARD: u8 = 1;
    /// The real-time clock.
    pub const RTC: u8 = 8;
    /// ACPI's system control interrupt: level-triggered, active high.
    pub const SCI: u8 = 9;
    /// The first of the eight IO-APIC pins that PCI's INTx lines share.
    pub const PCI_FIRST_PIN: u8 = 16;

    /// The IO-APIC pin of a PCI function's INTx line: `pin` 0 is INTA#. Neighbouring devices get
    /// different pins.
    pub const fn pci_intx(device: u8, pin: u8) -> u8 {
        PCI_FIRST_PIN + (device.wrapping_add(pin) & 7)
    }
}

/// I/O ports.
pub mod port {
    use core::ops::Range;

    /// The two 8259s: command and data.
    pub const PIC: [Range<u16>; 2] = [0x20..0x22, 0xa0..0xa2];
    /// The 8259s' edge/level control registers.
    pub const ELCR: Range<u16> = 0x4d0..0x4d2;
    /// The 8254 interval timer.
    pub const PIT: Range<u16> = 0x40..0x44;
    /// NMI status and control: the speaker, and channel 2 of the interval timer.
    pub const NMI_STATUS: u16 = 0x61;
    /// The keyboard controller's data port.
    pub const KEYBOARD_DATA: u16 = 0x60;
    /// The keyboard controller's command and status port.
    pub const KEYBOARD_COMMAND: u16 = 0x64;
    /// The real-time clock's index and data.
    pub const RTC: Range<u16> = 0x70..0x72;
    /// Delay port: writes to it are how an old driver waits a microsecond. It does nothing.
    pub const DELAY: u16 = 0x80;
    /// System control port A: fast reset and A20.
    pub const SYSTEM_CONTROL: u16 = 0x92;
    /// QEMU's `isa-debug-exit`.
    pub const DEBUG_EXIT: u16 = 0xf4;
    /// ACPI's fixed registers: `PM1a_EVT`, `PM1a_CNT`, `PM_TMR` and `GPE0`, see [`crate::power`].
    /// 0x600 is free of legacy devices and below the ports that PCI functions may take.
    pub const POWER: Range<u16> = 0x600..0x610;
    /// PCI's configuration address, a 32-bit register.
    pub const PCI_CONFIG_ADDRESS: u16 = 0xcf8;
    /// The reset control register: a *byte* that lies inside [`PCI_CONFIG_ADDRESS`]. Accesses of
    /// one byte at this port are the reset register's, those of four at 0xcf8 the address's.
    pub const RESET_CONTROL: u16 = 0xcf9;
    /// PCI's configuration data.
    pub const PCI_CONFIG_DATA: Range<u16> = 0xcfc..0xd00;
}
