//! What the function shows: its identity, its one memory region, and the capabilities that say what lies where in it
//! (virtio 1.2, section 4.1.2 and 4.1.4).
//!
//! ```text
//!  BAR 0   0x0000 common configuration     0x3000 notifications, 4 bytes a queue
//!          0x1000 ISR status               0x4000 MSI-X table
//!          0x2000 device configuration     0x5000 MSI-X pending bits
//! ```

use tern_chipset::pci::{Bar, DoesNotFit, Endpoint, Identity, Place, Width};

use super::common;
use crate::device;

/// The vendor of all virtio devices.
const VENDOR: u16 = 0x1af4;
/// The PCI device ID of virtio device 0.
const FIRST_DEVICE: u16 = 0x1040;
/// Devices of virtio 1 only begin with this revision.
const REVISION: u8 = 1;

/// Vendor-specific.
const VENDOR_CAPABILITY: u8 = 0x09;

/// The kinds of structure that a capability can tell of (`cfg_type`).
mod kind {
    pub const COMMON: u8 = 1;
    pub const NOTIFY: u8 = 2;
    pub const ISR: u8 = 3;
    pub const DEVICE: u8 = 4;
    pub const PCI: u8 = 5;
}

/// The memory region: in 64 bits, though small enough for everywhere.
pub const BAR: Bar = Bar { index: 0, size: 0x8000, width: Width::Bits64 };

/// Bytes between two queues' doorbells (`notify_off_multiplier`).
pub const NOTIFY_MULTIPLIER: u32 = 4;

/// The most queues: as many as there are doorbells, and fewer than vectors.
pub const MOST_QUEUES: u16 = 128;

/// What an address in the region belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The common configuration.
    Common,
    /// The ISR status.
    Isr,
    /// The device's configuration.
    Device,
    /// The doorbells.
    Notify,
    /// MSI-X's table.
    Table,
    /// MSI-X's pending bits.
    Pending,
}

/// Each part begins at a page of its own.
const PAGE: u32 = 0x1000;

impl Part {
    /// Where it begins.
    pub const fn start(self) -> u32 {
        PAGE * match self {
            Self::Common => 0,
            Self::Isr => 1,
            Self::Device => 2,
            Self::Notify => 3,
            Self::Table => 4,
            Self::Pending => 5,
        }
    }

    /// The part at an offset in the region, and the offset in it.
    pub fn at(offset: u64) -> Option<(Self, u64)> {
        let part = match offset / u64::from(PAGE) {
            0 => Self::Common,
            1 => Self::Isr,
            2 => Self::Device,
            3 => Self::Notify,
            4 => Self::Table,
            5 => Self::Pending,
            _ => return None,
        };
        Some((part, offset % u64::from(PAGE)))
    }
}

/// Where a queue's doorbell is in the region.
#[must_use]
pub fn doorbell(queue: u16) -> u64 {
    u64::from(Part::Notify.start()) + u64::from(queue) * u64::from(NOTIFY_MULTIPLIER)
}

/// The function of a device with this many queues, and where its window into the region lies ([`super::window`]).
///
/// # Errors
/// It has more queues than can be shown.
pub fn endpoint(device: device::Identity, queues: u16) -> Result<(Endpoint, u16), DoesNotFit> {
    let mut endpoint = Endpoint::new(&Identity {
        vendor: VENDOR,
        device: FIRST_DEVICE + device.id,
        class: device.class,
        revision: REVISION,
        subsystem_vendor: VENDOR,
        subsystem: device.id,
    });
    endpoint.add_interrupt_pin();
    endpoint.add_bar(BAR)?;
    let page = |part: Part| (part.start(), PAGE);
    let multiplier = NOTIFY_MULTIPLIER.to_le_bytes();
    for (kind, (offset, length), more) in [
        (kind::COMMON, (Part::Common.start(), common::SIZE as u32), &[][..]),
        (kind::ISR, (Part::Isr.start(), 1), &[]),
        (kind::DEVICE, page(Part::Device), &[]),
        (kind::NOTIFY, (Part::Notify.start(), u32::from(queues) * NOTIFY_MULTIPLIER), &multiplier),
    ] {
        endpoint.add_capability(VENDOR_CAPABILITY, &body(kind, offset, length, more), &[])?;
    }
    let mut writable = [0; 18];
    // `bar`, `offset` and `length` choose what `pci_cfg_data` leads to.
    for place in [2, 6, 7, 8, 9, 10, 11, 12, 13] {
        writable[place] = 0xff;
    }
    let window = endpoint.add_capability(VENDOR_CAPABILITY, &body(kind::PCI, 0, 0, &[0; 4]), &writable)?;
    let place = |part: Part| Place { bar: BAR.index, offset: part.start() };
    endpoint.add_msix(queues + 1, place(Part::Table), place(Part::Pending))?;
    Ok((endpoint, u16::from(window)))
}

/// A `virtio_pci_cap` without its first two bytes: `cap_len`, `cfg_type`, `bar`, `id`, padding, `offset`, `length`.
fn body(kind: u8, offset: u32, length: u32, more: &[u8]) -> Vec<u8> {
    // None is longer than 20 bytes.
    let size = (16 + more.len()) as u8;
    let mut body = vec![size, kind, BAR.index, 0, 0, 0];
    body.extend(offset.to_le_bytes());
    body.extend(length.to_le_bytes());
    body.extend(more);
    body
}

#[cfg(test)]
mod tests {
    use tern_chipset::pci::Function as _;

    use super::*;

    fn read(endpoint: &Endpoint, register: u16) -> u32 {
        let mut data = [0; 4];
        endpoint.read_config(register, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn a_driver_finds_every_structure_by_the_capabilities() {
        let (endpoint, window) = endpoint(device::Identity { id: 2, class: 0x01_80_00 }, 3).unwrap();
        assert_eq!(read(&endpoint, 0), 0x1042_1af4);
        let mut register = read(&endpoint, 0x34) as u16 & 0xff;
        let mut found = Vec::new();
        while register != 0 {
            let [id, next, _, kind] = read(&endpoint, register).to_le_bytes();
            let place = [8, 12].map(|offset| read(&endpoint, register + offset));
            match id {
                9 => found.push((kind, place[0], place[1])),
                _ => assert_eq!((id, read(&endpoint, register) >> 16), (0x11, 3)),
            }
            if kind == 2 && id == 9 {
                assert_eq!(read(&endpoint, register + 16), 4);
            }
            if kind == 5 && id == 9 {
                assert_eq!(register, window);
            }
            register = u16::from(next);
        }
        let expected = [(1, 0, 0x3c), (3, 0x1000, 1), (4, 0x2000, 0x1000), (2, 0x3000, 12), (5, 0, 0)];
        assert_eq!(found, expected);
    }

    #[test]
    fn the_most_queues_have_room_for_their_doorbells_and_vectors() {
        assert!(doorbell(MOST_QUEUES) <= u64::from(Part::Table.start()));
        assert!((u32::from(MOST_QUEUES) + 1) * 16 <= PAGE);
        assert_eq!(Part::at(0x5fff), Some((Part::Pending, 0xfff)));
        assert_eq!(Part::at(0x6000), None);
    }
}
