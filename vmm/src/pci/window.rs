//! The windows of memory that lead to the PCI bus, and which function answers where in them. Regions move; everything else on
//! the machine's buses stays.

use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock};

use tern_chipset::Time;
use tern_virtio::pci::VirtioPci;

use super::slot::Slot;
use crate::bus::{BusDevice, Request};

/// What lies in the windows. It is mapped so that offsets are guest-physical addresses.
#[derive(Default)]
pub(crate) struct PciMemory(RwLock<Vec<Region>>);

struct Region {
    addresses: Range<u64>,
    slot: Arc<Slot>,
}

impl PciMemory {
    /// Lets `slot` answer at these addresses. Where others do, too, whoever came first goes on.
    pub(super) fn insert(&self, addresses: Range<u64>, slot: Arc<Slot>) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).push(Region { addresses, slot });
    }

    /// Lets `slot` answer nowhere.
    pub(super) fn remove(&self, slot: &Slot) {
        let mut regions = self.0.write().unwrap_or_else(PoisonError::into_inner);
        regions.retain(|region| !std::ptr::eq(&*region.slot, slot));
    }

    /// Lets `access` have the function that answers at all of these addresses, and the offset in its region.
    fn find(&self, address: u64, length: usize, access: impl FnOnce(&VirtioPci, u64)) -> bool {
        let Some(end) = address.checked_add(length as u64) else { return false };
        let found = {
            let regions = self.0.read().unwrap_or_else(PoisonError::into_inner);
            let is_in = |region: &&Region| region.addresses.start <= address && end <= region.addresses.end;
            let region = regions.iter().find(is_in);
            region.map(|region| (Arc::clone(&region.slot), address - region.addresses.start))
        };
        // Not under the lock: an access may have the region moved.
        found.map(|(slot, offset)| access(slot.function(), offset)).is_some()
    }
}

impl BusDevice for PciMemory {
    fn read(&self, address: u64, data: &mut [u8], _now: Time) {
        let is_found = self.find(address, data.len(), |function, offset| function.read_region(offset, data));
        if !is_found {
            data.fill(0xff);
        }
    }

    fn write(&self, address: u64, data: &[u8], _now: Time) -> Option<Request> {
        self.find(address, data.len(), |function, offset| function.write_region(offset, data));
        None
    }
}
