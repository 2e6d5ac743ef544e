//! A queue between driver and device (virtio 1.2, section 2.7, split virtqueues).
//!
//! `virtio-queue` keeps the rings; here every rule that a driver must keep is checked, and breaking one is a [`Violation`]
//! instead of a buffer that quietly seems to end.
//!
//! ```text
//!  driver: descriptors, available ring ──▶ Virtqueue::pop ──▶ Chain: what may be read, what may be written
//!  driver: used ring ◀── Virtqueue::push(head, bytes written) ◀── the device
//! ```

mod chain;
mod segments;
#[cfg(test)]
mod tests;
mod violation;

use serde::{Deserialize, Serialize};
use tern_engine::GuestMemory;
use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{Queue, QueueOwnedT as _, QueueT as _};
use vm_memory::{Bytes, GuestAddress};

use crate::feature;
use chain::{Limits, Table};

pub use chain::Chain;
pub use segments::{Segment, Segments};
pub use violation::Violation;

/// A queue as the driver has set it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueSetup {
    /// Its number, for messages.
    pub index: u16,
    /// The most entries that the device offers, a power of two.
    pub most: u16,
    /// How many it has.
    pub size: u16,
    /// Guest-physical address of the descriptor table.
    pub descriptors: u64,
    /// Guest-physical address of the driver area: the available ring.
    pub driver: u64,
    /// Guest-physical address of the device area: the used ring.
    pub device: u64,
}

/// How far a queue is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// How many buffers were taken, modulo 2^16.
    pub taken: u16,
    /// How many were given back, modulo 2^16.
    pub used: u16,
}

/// A queue in use.
#[derive(Debug)]
pub struct Virtqueue {
    queue: Queue,
    memory: GuestMemory,
    setup: QueueSetup,
    limits: Limits,
}

impl Virtqueue {
    /// The queue as it was set up, with these features agreed on, `progress` from its beginning.
    ///
    /// # Errors
    /// The driver has set up what cannot be.
    pub fn new(
        memory: &GuestMemory,
        setup: QueueSetup,
        features: u64,
        progress: Progress,
    ) -> Result<Self, Violation> {
        let QueueSetup { index, most, size, descriptors, driver, device } = setup;
        let wrong_size = Violation::QueueSize { queue: index, size };
        let mut queue = Queue::new(most).map_err(|_| wrong_size)?;
        queue.try_set_size(size).map_err(|_| wrong_size)?;
        let wrong_place = Violation::QueuePlace { queue: index };
        // Zero stands for "not set", there and for drivers.
        if [descriptors, driver, device].contains(&0) {
            return Err(wrong_place);
        }
        queue
            .try_set_desc_table_address(GuestAddress(descriptors))
            .and_then(|()| queue.try_set_avail_ring_address(GuestAddress(driver)))
            .and_then(|()| queue.try_set_used_ring_address(GuestAddress(device)))
            .map_err(|_| wrong_place)?;
        queue.set_event_idx(features & feature::EVENT_IDX != 0);
        queue.set_next_avail(progress.taken);
        queue.set_next_used(progress.used);
        queue.set_ready(true);
        if !queue.is_valid(memory) {
            return Err(wrong_place);
        }
        let limits = Limits {
            has_indirect: features & feature::INDIRECT_DESC != 0,
            // A driver that makes the queue smaller may still send what the device's limits allow.
            longest: most,
        };
        let this = Self { queue, memory: memory.clone(), setup, limits };
        if this.in_flight() > size { Err(Violation::TooManyAvailable) } else { Ok(this) }
    }

    /// How it was set up.
    #[must_use]
    pub const fn setup(&self) -> &QueueSetup {
        &self.setup
    }

    /// How far it is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress { taken: self.queue.next_avail(), used: self.queue.next_used() }
    }

    /// How many buffers were taken and not given back.
    #[must_use]
    pub fn in_flight(&self) -> u16 {
        self.queue.next_avail().wrapping_sub(self.queue.next_used())
    }

    /// Takes the next buffer, if there is one.
    ///
    /// # Errors
    /// The driver has broken a rule.
    pub fn pop(&mut self) -> Result<Option<Chain>, Violation> {
        let mut heads = self.queue.iter(&self.memory).map_err(|_| Violation::TooManyAvailable)?;
        let Some(head) = heads.next().map(|chain| chain.head_index()) else { return Ok(None) };
        // One that is made available a second time while it is in flight.
        if self.in_flight() > self.setup.size {
            return Err(Violation::TooManyAvailable);
        }
        let table = Table { address: self.setup.descriptors, size: self.setup.size };
        Chain::read(&self.memory, table, head, self.limits).map(Some)
    }

    /// Puts the buffer that was taken last back to where it was: nothing has become of it.
    pub fn put_back(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Gives a buffer back, into which `written` bytes were written.
    ///
    /// # Errors
    /// The used ring cannot be written.
    pub fn push(&mut self, head: u16, written: u32) -> Result<(), Violation> {
        self.queue.add_used(&self.memory, head, written).map_err(|_| self.misplaced())
    }

    /// Asks the driver not to ring while the queue is looked at anyway.
    ///
    /// # Errors
    /// The used ring cannot be written.
    pub fn quiet(&mut self) -> Result<(), Violation> {
        self.queue.disable_notification(&self.memory).map_err(|_| self.misplaced())
    }

    /// Asks the driver to ring for the next buffer; whether one came before it could see that.
    ///
    /// # Errors
    /// The used ring cannot be written.
    pub fn listen(&mut self) -> Result<bool, Violation> {
        self.queue.enable_notification(&self.memory).map_err(|_| self.misplaced())
    }

    /// Whether the driver wants an interrupt for what was given back since this was asked last.
    ///
    /// # Errors
    /// The available ring cannot be read.
    pub fn wants_interrupt(&mut self) -> Result<bool, Violation> {
        if !self.queue.event_idx_enabled() {
            let flags: u16 =
                self.memory.read_obj(GuestAddress(self.setup.driver)).map_err(|_| self.misplaced())?;
            return Ok(u32::from(u16::from_le(flags)) & VRING_AVAIL_F_NO_INTERRUPT == 0);
        }
        self.queue.needs_notification(&self.memory).map_err(|_| self.misplaced())
    }

    const fn misplaced(&self) -> Violation {
        Violation::QueuePlace { queue: self.setup.index }
    }
}
