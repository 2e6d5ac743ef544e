//! A queue in guest memory, from its driver's side.
use tern_engine::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

pub use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};

use crate::queue::QueueSetup;

/// The descriptor continues.
pub const NEXT: u16 = VRING_DESC_F_NEXT as u16;
/// The device may write.
pub const WRITE: u16 = VRING_DESC_F_WRITE as u16;
/// The descriptor is a table of further ones.
pub const INDIRECT: u16 = VRING_DESC_F_INDIRECT as u16;

/// Bytes that a queue of up to 256 entries takes, rounded up.
pub const RING_SIZE: u64 = 0x3000;

/// A queue in guest memory, as its driver sees it.
#[derive(Debug, Clone)]
pub struct Ring {
    memory: GuestMemory,
    setup: QueueSetup,
    /// How many buffers were made available.
    offered: u16,
    /// How many given back were seen.
    seen: u16,
}

impl Ring {
    /// A queue of `size` entries, of `most` that the device offers, in the [`RING_SIZE`] bytes from `base` on.
    #[must_use]
    pub fn new(memory: &GuestMemory, index: u16, base: u64, size: u16, most: u16) -> Self {
        let setup =
            QueueSetup { index, most, size, descriptors: base, driver: base + 0x1000, device: base + 0x2000 };
        let ring = Self { memory: memory.clone(), setup, offered: 0, seen: 0 };
        ring.put(base, &vec![0; RING_SIZE as usize]);
        ring
    }

    /// How it is set up.
    #[must_use]
    pub const fn setup(&self) -> QueueSetup {
        self.setup
    }

    /// Puts bytes into guest memory.
    ///
    /// # Panics
    /// There is no memory.
    pub fn put(&self, address: u64, bytes: &[u8]) {
        self.memory.write_slice(bytes, GuestAddress(address)).expect("the test writes to memory");
    }

    /// Bytes of guest memory.
    ///
    /// # Panics
    /// There is no memory.
    #[must_use]
    pub fn get(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(address)).expect("the test reads from memory");
        bytes
    }

    /// Writes a descriptor into a table.
    pub fn describe(&self, table: u64, index: u16, (address, length): (u64, u32), flags: u16, next: u16) {
        let mut bytes = address.to_le_bytes().to_vec();
        bytes.extend(length.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        bytes.extend(next.to_le_bytes());
        self.put(table + 16 * u64::from(index), &bytes);
    }

    /// Writes a chain of descriptors from `head` on: each a place, a length, and whether the device may write.
    pub fn chain(&self, head: u16, pieces: &[(u64, u32, bool)]) {
        for (index, (address, length, is_writable)) in (head..).zip(pieces) {
            let is_last = usize::from(index - head) + 1 == pieces.len();
            let next = if is_last { 0 } else { NEXT };
            let write = if *is_writable { WRITE } else { 0 };
            self.describe(self.setup.descriptors, index, (*address, *length), next | write, index + 1);
        }
    }

    /// Makes the chain that begins with `head` available.
    pub fn offer(&mut self, head: u16) {
        let place = self.offered % self.setup.size;
        self.put(self.setup.driver + 4 + 2 * u64::from(place), &head.to_le_bytes());
        self.offered = self.offered.wrapping_add(1);
        self.put(self.setup.driver + 2, &self.offered.to_le_bytes());
    }

    /// Writes a chain and makes it available.
    pub fn send(&mut self, head: u16, pieces: &[(u64, u32, bool)]) {
        self.chain(head, pieces);
        self.offer(head);
    }

    /// The next buffer that was given back, if there is one: its head, and how many bytes were written.
    ///
    /// # Panics
    /// There is no memory.
    pub fn used(&mut self) -> Option<(u32, u32)> {
        let count: u16 =
            self.memory.read_obj(GuestAddress(self.setup.device + 2)).expect("the ring is in memory");
        if count == self.seen {
            return None;
        }
        let place = self.setup.device + 4 + 8 * u64::from(self.seen % self.setup.size);
        self.seen = self.seen.wrapping_add(1);
        // It wants to hear of the next one.
        let event = self.setup.driver + 4 + 2 * u64::from(self.setup.size);
        self.put(event, &self.seen.to_le_bytes());
        let [head, written] = self.memory.read_obj(GuestAddress(place)).expect("the ring is in memory");
        Some((head, written))
    }
}
