//! The balloon device (virtio 1.2, section 5.5): memory that the guest lends back to the host.
//!
//! ```text
//!  set_target ──▶ configuration ──▶ driver takes pages from its guest ──▶ inflate queue ──▶ given back to the host
//!                                   driver needs them again ──▶ deflate queue
//!  driver finds free pages by itself ──▶ reporting queue ──▶ given back to the host, and the guest's to use at any time
//!  ask ──▶ the statistics' buffer goes back ──▶ driver fills it ──▶ Statistics
//! ```
//!
//! A guest that is short of memory may take pages out of the balloon by itself (DEFLATE_ON_OOM).

mod statistics;
#[cfg(test)]
mod tests;
mod worker;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use tern_chipset::InvalidState;
use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;

use crate::device::{Duty, Identity, OTHER_DEVICE, VirtioDevice};
use crate::feature::bit;
use crate::saved::DeviceState;
use crate::session::Session;
use worker::Lending;

pub use statistics::Statistics;

/// There is a queue for statistics.
const F_STATS_VQ: u64 = bit(1);
/// The guest may take pages back when it is short of memory.
const F_DEFLATE_ON_OOM: u64 = bit(2);
/// The guest tells of free pages.
const F_REPORTING: u64 = bit(5);

/// Entries of the queues: inflate, deflate, statistics, and two for reports.
///
/// A report's queue is the fifth by the specification, with one between that this device has no use for. Drivers of
/// before 2024 leave no gap and take the fourth. So there are both, and either does.
const QUEUES: [u16; 5] = [128; 5];

/// What the configuration counts in, whatever the guest's pages are. In bytes.
pub const PAGE: u64 = 4096;

/// The device.
#[derive(Debug)]
pub struct Balloon {
    shared: Arc<Shared>,
}

/// What the device shares with its worker.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Statistics have come.
    told: Condvar,
    /// Statistics are asked for.
    wake: OwnedFd,
}

#[derive(Debug, Default)]
struct State {
    /// How many pages the host wants, and how many the guest has given.
    target: u32,
    actual: u32,
    /// The buffer with which the driver can be asked for statistics.
    held: Option<u16>,
    statistics: Statistics,
    /// How often they have come.
    received: u64,
    session: Option<Session>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Balloon {
    /// A balloon that wants this many bytes, rounded up to pages.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub fn new(target: u64) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        let shared = Shared { state: Mutex::default(), told: Condvar::new(), wake };
        let balloon = Self { shared: Arc::new(shared) };
        balloon.set_target(target);
        Ok(balloon)
    }

    /// Asks the guest for this many bytes, rounded up to pages, in place of what was asked for before.
    pub fn set_target(&self, bytes: u64) {
        let mut state = self.shared.lock();
        let target = u32::try_from(bytes.div_ceil(PAGE)).unwrap_or(u32::MAX);
        if std::mem::replace(&mut state.target, target) != target
            && let Some(session) = &state.session
        {
            session.config_changed();
        }
    }

    /// How many bytes the guest says that it has given.
    #[must_use]
    pub fn actual(&self) -> u64 {
        u64::from(self.shared.lock().actual) * PAGE
    }

    /// Asks the guest how its memory is used, and waits for the answer at most for `patience`. Gives the latest that it has
    /// told, if it has told anything.
    #[must_use]
    pub fn statistics(&self, patience: Duration) -> Option<Statistics> {
        let state = self.shared.lock();
        let before = state.received;
        // It fails if nobody has taken 2^64 signals: then one is waiting.
        let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
        let is_old = |state: &mut State| state.received == before;
        let waited = self.shared.told.wait_timeout_while(state, patience, is_old);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        (state.received > 0).then_some(state.statistics)
    }
}

impl VirtioDevice for Balloon {
    fn identity(&self) -> Identity {
        // There is no class for it: "does not fit in any defined class".
        Identity { id: VIRTIO_ID_BALLOON as u16, class: 0xff_00_00 }
    }

    fn features(&self) -> u64 {
        F_STATS_VQ | F_DEFLATE_ON_OOM | F_REPORTING
    }

    fn queues(&self) -> &[u16] {
        &QUEUES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let state = self.shared.lock();
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&state.target.to_le_bytes());
        bytes[4..].copy_from_slice(&state.actual.to_le_bytes());
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (byte, value) in data.iter_mut().zip(bytes.iter().skip(start)) {
            *byte = *value;
        }
    }

    /// The driver tells how much it has given.
    fn write_config(&self, offset: u64, data: &[u8]) {
        if let (4, &[a, b, c, d]) = (offset, data) {
            self.shared.lock().actual = u32::from_le_bytes([a, b, c, d]);
        }
    }

    fn start(&self, session: &Session) -> io::Result<Vec<Duty>> {
        let worker = Lending::new(session.clone(), Arc::clone(&self.shared));
        self.shared.lock().session = Some(session.clone());
        Ok(vec![Duty { queues: 0..QUEUES.len() as u16, worker: Box::new(worker) }])
    }

    /// A driver that begins anew has given nothing; what the host wants stays.
    fn reset(&self) {
        let mut state = self.shared.lock();
        *state = State { target: state.target, ..State::default() };
    }

    fn save(&self) -> DeviceState {
        let State { target, actual, held, .. } = *self.shared.lock();
        DeviceState::Balloon { target, actual, held }
    }

    fn restore(&self, saved: &DeviceState) -> Result<(), InvalidState> {
        let DeviceState::Balloon { target, actual, held } = *saved else { return Err(OTHER_DEVICE) };
        *self.shared.lock() = State { target, actual, held, ..State::default() };
        Ok(())
    }
}
