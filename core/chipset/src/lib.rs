//! What a PC's chipset is: interrupt controllers, timers, serial ports, power management, the PCI
//! host bridge and the ACPI tables that describe them.
//!
//! Every device here is a pure state machine. It has no clock, no thread and no way to reach a
//! host: whoever owns it hands in each register access together with the present [`Time`], and
//! gets back what the access causes.
//!
//! ```text
//!            read/write(register, now)              set_line(irq, level)
//!   bus  ─────────────────────────────▶  device  ───────────────────────▶  pic, ioapic
//!        ◀─────────────────────────────    │                                   │ Message
//!            value, Effect                 │ deadline() -> when to poll(now)    ▼
//!   clock ◀────────────────────────────────┘                                 lapic ─▶ vector
//! ```
//!
//! Three conventions hold everywhere:
//!
//! * **Time is handed in.** A device that will change by itself says when (`deadline`), and the
//!   owner calls `poll` then or later. Calling it too early or too often is harmless.
//! * **Interrupts go out as values.** A level-sensitive device answers `interrupt() -> bool`, and
//!   the owner drives that onto a line after each access. Edges and messages are return values.
//! * **State is register-shaped.** Each device's `State` holds what its registers hold, so that it
//!   can be exchanged with another implementation of the same hardware (the Linux kernel's, for
//!   one). `restore` takes it from an untrusted file and refuses what no machine can be in.
//!
//! The engines, the virtual machine monitor and the bare-metal hypervisor all use these devices;
//! this crate knows none of them, nor the processor's instruction set.

#![no_std]
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

extern crate alloc;

pub mod acpi;
pub mod debug_exit;
pub mod i8042;
pub mod interrupt;
pub mod ioapic;
pub mod lapic;
pub mod layout;
pub mod pci;
pub mod pic;
pub mod pit;
pub mod power;
pub mod rtc;
pub mod system_control;
pub mod uart;

mod time;

pub use interrupt::Message;
pub use time::Time;

use core::fmt;

/// A saved state that no machine can be in: the file is damaged, or somebody made it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidState {
    /// The device whose state was refused, as a reader would call it.
    pub device: &'static str,
    /// What cannot be.
    pub reason: &'static str,
}

impl fmt::Display for InvalidState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "The saved state of the {} cannot be used: {}. Take a new snapshot of the machine, or start it afresh",
            self.device, self.reason
        )
    }
}

impl core::error::Error for InvalidState {}

/// The access must raise #GP(0) in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

impl fmt::Display for GeneralProtection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("The processor answers this access with a general-protection exception")
    }
}

impl core::error::Error for GeneralProtection {}
