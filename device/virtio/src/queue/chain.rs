//! One buffer of a queue: its descriptors, read once and checked.
//!
//! Follows virtio 1.2, section 2.7.5 (descriptor table) and 2.7.5.3 (indirect descriptors). What is read here is copied: a
//! driver that changes its descriptors meanwhile changes nothing.

use tern_engine::GuestMemory;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress, GuestMemory as _, Permissions};

use super::segments::{Segment, Segments};
use super::violation::Violation;

/// Bytes of a descriptor.
const DESCRIPTOR: u32 = 16;

/// A buffer that the driver has made available.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The number by which the driver knows it.
    pub head: u16,
    /// What the device may read.
    pub readable: Segments,
    /// What the device may write.
    pub writable: Segments,
}

/// Where descriptors are and how many.
#[derive(Debug, Clone, Copy)]
pub(super) struct Table {
    pub address: u64,
    pub size: u16,
}

/// What a chain of descriptors must keep to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Whether tables in tables were agreed on.
    pub has_indirect: bool,
    /// Most descriptors of a chain.
    pub longest: u16,
}

impl Chain {
    /// Reads the chain that begins with descriptor `head`.
    pub(super) fn read(
        memory: &GuestMemory,
        table: Table,
        head: u16,
        limits: Limits,
    ) -> Result<Self, Violation> {
        let mut chain = Self { head, readable: Segments::default(), writable: Segments::default() };
        let (mut table, mut index, mut is_indirect) = (table, head, false);
        let mut left = limits.longest.min(table.size);
        let mut total = 0_u32;
        loop {
            let descriptor = descriptor(memory, table, index)?;
            let is = |flag: u32| u32::from(descriptor.flags()) & flag != 0;
            if is(VRING_DESC_F_INDIRECT) {
                if is_indirect || !limits.has_indirect || is(VRING_DESC_F_NEXT) {
                    return Err(Violation::IndirectForbidden);
                }
                let size = descriptor.len() / DESCRIPTOR;
                let whole = descriptor.len().is_multiple_of(DESCRIPTOR);
                let size =
                    u16::try_from(size).ok().filter(|size| whole && (1..=limits.longest).contains(size));
                let size = size.ok_or(Violation::IndirectSize(descriptor.len()))?;
                table = Table { address: descriptor.addr().0, size };
                (index, is_indirect, left) = (0, true, size);
                continue;
            }
            let segment = Segment { address: descriptor.addr().0, length: descriptor.len() };
            total = total.checked_add(segment.length).ok_or(Violation::TooLong)?;
            chain.add(memory, segment, is(VRING_DESC_F_WRITE))?;
            if !is(VRING_DESC_F_NEXT) {
                return Ok(chain);
            }
            left = left.checked_sub(1).filter(|left| *left > 0).ok_or(Violation::Endless)?;
            index = descriptor.next();
        }
    }

    fn add(&mut self, memory: &GuestMemory, segment: Segment, is_writable: bool) -> Result<(), Violation> {
        let Segment { address, length } = segment;
        if length == 0 {
            return Err(Violation::Empty);
        }
        let (list, access) = match is_writable {
            true => (&mut self.writable, Permissions::Write),
            false if !self.writable.list().is_empty() => return Err(Violation::Order),
            false => (&mut self.readable, Permissions::Read),
        };
        if !memory.check_range(GuestAddress(address), length as usize, access) {
            return Err(Violation::BufferOutside { address, length });
        }
        list.push(segment);
        Ok(())
    }
}

fn descriptor(memory: &GuestMemory, table: Table, index: u16) -> Result<Descriptor, Violation> {
    if index >= table.size {
        return Err(Violation::NoDescriptor(index));
    }
    let offset = u64::from(index) * u64::from(DESCRIPTOR);
    let address = table.address.checked_add(offset);
    let descriptor = address.and_then(|address| memory.read_obj(GuestAddress(address)).ok());
    descriptor.ok_or(Violation::DescriptorOutside(table.address.wrapping_add(offset)))
}
