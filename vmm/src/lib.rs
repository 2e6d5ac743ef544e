//! Puts a machine together and keeps it going.
//!
//! ```text
//!  MachineConfig ──▶ Machine::new ──▶ Machine::run ──▶ Outcome (how it ended, what it did)
//!                      │   │              ▲
//!                      │   │              │ pause, resume, stop: MachineHandle, from any thread
//!    engine's Vm ◀─────┘   └────▶ Devices (ports and memory, by offset)
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`config`] | what a machine is made of, checked |
//! | [`memory`] | guest memory in the host |
//! | [`guest`] | what a machine starts, and where it comes from |
//! | [`boot`], `firmware` | kernel formats and boot protocols; ACPI tables |
//! | [`bus`] | which device answers which address |
//! | `irq`, `schedule` | how devices interrupt, and how they are called when time passes |
//! | `device` | the chipset's state machines (`tern-chipset`), connected to buses, lines and host |
//! | [`pci`] | the PCI bus with the virtio devices (`tern-virtio`) |
//! | [`console`] | what is typed, on its way into the guest's serial port |
//! | [`machine`] | processors' threads and the life of the whole: run, pause, reboot, stop, end |
//! | [`saved`] | a machine that stands still, as a value: what goes on elsewhere |
//! | [`crash`] | what is told about a guest that crashed |
//!
//! The life of a device access: a processor's thread gets a `VmExit` from its engine, a [`bus`] finds the device and the
//! offset, the device answers, and the answer rides back in the next `VmEntry`. What a device asks of the machine as a
//! whole (power off, reset) leaves as a value, [`bus::Request`]; nothing calls upwards.

#![forbid(unsafe_code)]

pub mod boot;
pub mod bus;
pub mod config;
pub mod console;
pub mod crash;
pub mod guest;
pub mod machine;
pub mod memory;
pub mod pci;
pub mod saved;

mod device;
mod firmware;
mod irq;
mod schedule;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks `mutex` also after a panic elsewhere: what our locks guard is consistent between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
