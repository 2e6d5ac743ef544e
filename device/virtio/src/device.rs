//! What differs from device to device.

use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::{fmt, io};

use tern_chipset::InvalidState;

use crate::queue::Violation;
use crate::saved::DeviceState;
use crate::session::Session;

/// Which device it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The virtio device ID (virtio 1.2, chapter 5).
    pub id: u16,
    /// The PCI class code: base class, subclass, programming interface, as in 0x01_80_00.
    pub class: u32,
}

/// A device, as processors see it: which it is, what it can do, its configuration. The work on queues is its workers'.
///
/// ```text
///                  DRIVER_OK                  a reset is asked for             all workers have ended
///   no workers ───────────────▶ workers run ─────────────────────▶ they finish ─────────────────────▶ no workers
///        ▲         start          │     ▲                                                 reset
///        │                  pause ▼     │ resume
///        └─ restore             parked ─┘
///                                 │ save
/// ```
///
/// | method | processors | workers |
/// |---|---|---|
/// | `read_config`, `write_config` | run; several may call at once | may run |
/// | `start` | one of them waits for it | there are none yet |
/// | `reset` | one of them waits for it, or all stand still | there are none any more |
/// | `save` | all stand still | parked: nothing is in flight |
/// | `restore` | all stand still | there are none; `start` follows if there were any |
pub trait VirtioDevice: fmt::Debug + Send + Sync {
    /// Which device it is.
    fn identity(&self) -> Identity;

    /// The features that it offers beside those of every device.
    fn features(&self) -> u64;

    /// Its queues: the most entries of each, a power of two.
    fn queues(&self) -> &[u16];

    /// Answers a read of its configuration at `offset`. `data` is zero before, and stays so beyond the configuration.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Takes a write to its configuration. By default nothing can be written.
    fn write_config(&self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }

    /// The driver is ready: gives the workers, each with the queues that are its own.
    ///
    /// # Errors
    /// The host lacks something that is needed. The driver finds a device that needs a reset.
    fn start(&self, session: &Session) -> io::Result<Vec<Duty>>;

    /// Forgets everything that the driver has done.
    fn reset(&self) {}

    /// What the device holds beside its queues.
    fn save(&self) -> DeviceState {
        DeviceState::Nothing
    }

    /// Puts back what [`VirtioDevice::save`] gave.
    ///
    /// # Errors
    /// It is another device's; nothing is changed then.
    fn restore(&self, state: &DeviceState) -> Result<(), InvalidState> {
        match state {
            DeviceState::Nothing => Ok(()),
            _ => Err(OTHER_DEVICE),
        }
    }
}

/// The state is of another kind of device.
pub(crate) const OTHER_DEVICE: InvalidState =
    InvalidState { device: "virtio device", reason: "it is the state of another kind of device" };

/// What a thread is to do.
pub struct Duty {
    /// The queues that it serves.
    pub queues: Range<u16>,
    /// How.
    pub worker: Box<dyn Worker>,
}

/// Whether a queue has more to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// Nothing is left until the driver rings again, or something else happens.
    All,
    /// There is more: it is to be called again soon. What others want comes between.
    Some,
}

/// The work on some of a device's queues. It has a thread of its own, which calls it; no call may take long, but for
/// [`Worker::drain`].
pub trait Worker: Send {
    /// Serves a queue that was rung, has just been enabled, or was left with [`Served::Some`]. It takes no more buffers at once
    /// than the queue has entries.
    ///
    /// # Errors
    /// The driver has broken a rule: the device is not called any more until it is reset.
    fn serve(&mut self, queue: u16) -> Result<Served, Violation>;

    /// What it waits for beside its queues: it becomes readable when [`Worker::wake`] has something to do. The same as long as
    /// the worker lives.
    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// Does what the descriptor stands for. If [`Served::Some`] is left, all queues are served soon.
    ///
    /// # Errors
    /// As [`Worker::serve`].
    fn wake(&mut self) -> Result<Served, Violation> {
        Ok(Served::All)
    }

    /// Finishes what is in flight and begins nothing: afterwards no buffer is touched until the next call. It may block.
    ///
    /// # Errors
    /// As [`Worker::serve`].
    fn drain(&mut self) -> Result<(), Violation> {
        Ok(())
    }

    /// A queue was reset by itself; [`Worker::drain`] came before. What it held of that queue is gone.
    fn forget(&mut self, queue: u16) {
        let _ = queue;
    }
}
