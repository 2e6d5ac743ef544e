//! Virtio devices, after the specification "Virtual I/O Device (VIRTIO) Version 1.2".
//!
//! ```text
//!   processors ──▶ pci: registers behind a BAR ──▶ device: which it is, what it can do, its configuration
//!                     │ DRIVER_OK                       │ start
//!                     ▼                                 ▼
//!                  session: queues, interrupts ◀── workers, each in a thread of its own ──▶ the host
//!                     │
//!   guest memory ◀── queue: every rule checked
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`queue`] | split virtqueues, and what a driver can do wrong with them |
//! | [`device`] | what a device is to this crate: [`device::VirtioDevice`] and its [`device::Worker`]s |
//! | [`session`] | a device in use: threads, doorbells, pauses |
//! | [`interrupts`] | MSI-X vectors and the INTx line |
//! | [`pci`] | the transport: capabilities, common configuration, status |
//! | [`feature`] | feature bits of all devices |
//! | [`saved`] | what devices hold, as values |
//! | `driver` | a guest's side, for tests and fuzzing |
//! | [`socket`] | Unix sockets of the host |
//! | [`balloon`], [`block`], [`console`], [`rng`], [`vsock`] | the devices |
//!
//! Three principles:
//!
//! 1. **A driver is hostile.** Whatever it breaks ends as DEVICE_NEEDS_RESET: no crash, no memory that it chooses the size
//!    of, no work without bounds.
//! 2. **Processors do not wait for devices.** Registers answer at once; the work is done elsewhere, and even a reset is
//!    only asked for.
//! 3. **Nothing is in flight in a device that stands still.** So its state is a handful of numbers.

pub mod balloon;
pub mod block;
pub mod console;
pub mod device;
#[cfg(any(test, feature = "driver"))]
pub mod driver;
pub mod feature;
pub mod interrupts;
pub mod pci;
pub mod queue;
pub mod rng;
pub mod saved;
pub mod session;
pub mod socket;
pub mod vsock;

use std::io;

use rustix::event::EventfdFlags;
use tern_engine::EventFd;

/// An event that nobody waits for by reading.
fn new_event() -> io::Result<EventFd> {
    let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
    EventFd::new(flags.bits().cast_signed())
}
