//! Buses: which device answers an address, and at which offset of its own. A device never knows where it lives.
//!
//! There are two, one for I/O ports and one for memory; both are built once and then only read.

use std::ops::Range;
use std::sync::Arc;

use thiserror::Error;

use tern_chipset::Time;
use tern_chipset::power::SystemEvent;

/// What an access asks of the machine as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Start over.
    Reset,
    /// Switch off.
    PowerOff,
    /// End, with this status.
    DebugExit(u8),
}

impl From<SystemEvent> for Request {
    fn from(event: SystemEvent) -> Self {
        match event {
            SystemEvent::Reset => Self::Reset,
            SystemEvent::PowerOff => Self::PowerOff,
        }
    }
}

/// What can be put on a bus. Processors access it at the same time; each device has its own lock.
pub trait BusDevice: Send + Sync {
    /// Answers a read of 1 to 8 bytes at `offset`, which lie all within what the device was mapped to.
    fn read(&self, offset: u64, data: &mut [u8], now: Time);

    /// Takes a write of 1 to 8 bytes at `offset`.
    fn write(&self, offset: u64, data: &[u8], now: Time) -> Option<Request>;
}

/// A device of byte-wide registers: wider accesses reach it as several of one byte, the lowest offset first.
pub trait ByteDevice: Send + Sync {
    /// Answers a read.
    fn read_byte(&self, offset: u64, now: Time) -> u8;

    /// Takes a write.
    fn write_byte(&self, offset: u64, value: u8, now: Time) -> Option<Request>;
}

impl<D: ByteDevice> BusDevice for D {
    fn read(&self, offset: u64, data: &mut [u8], now: Time) {
        for (offset, byte) in (offset..).zip(data) {
            *byte = self.read_byte(offset, now);
        }
    }

    fn write(&self, offset: u64, data: &[u8], now: Time) -> Option<Request> {
        let bytes = (offset..).zip(data);
        // Every byte is written, and the first request counts.
        bytes.fold(None, |request, (offset, byte)| {
            let further = self.write_byte(offset, *byte, now);
            request.or(further)
        })
    }
}

/// Two devices claim the same address.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("two devices claim the addresses from {:#x} to {:#x}", .0.start, .0.end)]
pub struct Overlap(Range<u64>);

struct Mapping {
    addresses: Range<u64>,
    /// The device's offset at the first address.
    offset: u64,
    device: Arc<dyn BusDevice>,
}

/// Devices by address.
#[derive(Default)]
pub struct Bus {
    /// Disjoint, ascending.
    mappings: Vec<Mapping>,
}

impl Bus {
    /// Puts `device` at `addresses`, the first of which is its `offset`.
    ///
    /// # Errors
    /// Some of the addresses are taken.
    pub fn map(
        &mut self,
        addresses: Range<u64>,
        offset: u64,
        device: Arc<dyn BusDevice>,
    ) -> Result<(), Overlap> {
        let index = self.mappings.partition_point(|mapping| mapping.addresses.end <= addresses.start);
        if self.mappings.get(index).is_some_and(|next| next.addresses.start < addresses.end) {
            return Err(Overlap(addresses));
        }
        self.mappings.insert(index, Mapping { addresses, offset, device });
        Ok(())
    }

    /// Answers a read of 1 to 8 bytes. Where there is no device, all bits are ones, as on a PC's bus.
    pub fn read(&self, address: u64, data: &mut [u8], now: Time) {
        match self.find(address, data.len()) {
            Some((device, offset)) => device.read(offset, data, now),
            None if data.len() == 1 => data.fill(0xff),
            // Partly or not at all a device's: each byte goes its own way.
            None => {
                for (index, byte) in (0..).zip(data.chunks_mut(1)) {
                    self.read(address.wrapping_add(index), byte, now);
                }
            }
        }
    }

    /// Takes a write of 1 to 8 bytes. Where there is no device, it is dropped.
    pub fn write(&self, address: u64, data: &[u8], now: Time) -> Option<Request> {
        match self.find(address, data.len()) {
            Some((device, offset)) => device.write(offset, data, now),
            None if data.len() == 1 => None,
            None => (0..).zip(data.chunks(1)).fold(None, |request, (index, byte)| {
                let further = self.write(address.wrapping_add(index), byte, now);
                request.or(further)
            }),
        }
    }

    /// The device to which `length` bytes from `address` on belong, all of them.
    fn find(&self, address: u64, length: usize) -> Option<(&dyn BusDevice, u64)> {
        let end = address.checked_add(length as u64)?;
        let index = self.mappings.partition_point(|mapping| mapping.addresses.end <= address);
        let mapping = self.mappings.get(index)?;
        let Range { start, end: last } = mapping.addresses;
        (start <= address && end <= last)
            .then(|| (&*mapping.device, mapping.offset.wrapping_add(address - start)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Reads as its offset, and remembers writes.
    #[derive(Default)]
    struct Probe(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Probe {
        fn read(&self, offset: u64, data: &mut [u8], _: Time) {
            data.fill(u8::try_from(offset).unwrap());
        }

        fn write(&self, offset: u64, data: &[u8], _: Time) -> Option<Request> {
            self.0.lock().unwrap().push((offset, data.to_vec()));
            (data[0] == 0x99).then_some(Request::Reset)
        }
    }

    struct Bytes(Mutex<Vec<(u64, u8)>>);

    impl ByteDevice for Bytes {
        fn read_byte(&self, offset: u64, _: Time) -> u8 {
            u8::try_from(offset).unwrap()
        }

        fn write_byte(&self, offset: u64, value: u8, _: Time) -> Option<Request> {
            self.0.lock().unwrap().push((offset, value));
            Some(Request::DebugExit(value))
        }
    }

    fn read(bus: &Bus, address: u64, length: usize) -> Vec<u8> {
        let mut data = vec![0; length];
        bus.read(address, &mut data, Time::ZERO);
        data
    }

    #[test]
    fn a_device_sees_offsets() {
        let mut bus = Bus::default();
        bus.map(0x3f8..0x400, 0, Arc::new(Probe::default())).unwrap();
        bus.map(0x64..0x65, 4, Arc::new(Probe::default())).unwrap();
        assert_eq!(read(&bus, 0x3fa, 1), [2]);
        assert_eq!(read(&bus, 0x3fc, 4), [4; 4]);
        assert_eq!(read(&bus, 0x64, 1), [4]);
    }

    #[test]
    fn nobody_reads_as_ones_and_takes_every_write() {
        let mut bus = Bus::default();
        assert_eq!(read(&bus, 0, 8), [0xff; 8]);
        bus.map(0x10..0x12, 0, Arc::new(Probe::default())).unwrap();
        assert_eq!(read(&bus, 0xf, 1), [0xff]);
        assert_eq!(read(&bus, 0x12, 1), [0xff]);
        assert_eq!(bus.write(0x12, &[0x99], Time::ZERO), None);
        assert_eq!(read(&bus, u64::MAX - 1, 8), [0xff; 8]);
    }

    #[test]
    fn an_access_across_a_border_is_split_into_bytes() {
        let mut bus = Bus::default();
        let probe = Arc::new(Probe::default());
        bus.map(0x10..0x12, 0, Arc::<Probe>::clone(&probe)).unwrap();
        assert_eq!(read(&bus, 0x11, 4), [1, 0xff, 0xff, 0xff]);
        assert_eq!(bus.write(0xe, &[1, 2, 0x99, 4], Time::ZERO), Some(Request::Reset));
        assert_eq!(*probe.0.lock().unwrap(), [(0, vec![0x99]), (1, vec![4])]);
    }

    #[test]
    fn byte_wide_devices_see_every_byte_in_order() {
        let mut bus = Bus::default();
        let device = Arc::new(Bytes(Mutex::default()));
        bus.map(0x70..0x74, 0, Arc::<Bytes>::clone(&device)).unwrap();
        assert_eq!(read(&bus, 0x71, 2), [1, 2]);
        assert_eq!(bus.write(0x70, &[7, 8], Time::ZERO), Some(Request::DebugExit(7)));
        assert_eq!(*device.0.lock().unwrap(), [(0, 7), (1, 8)]);
    }

    #[test]
    fn no_address_has_two_devices() {
        let mut bus = Bus::default();
        let probe = Arc::new(Probe::default());
        bus.map(0x10..0x20, 0, Arc::<Probe>::clone(&probe)).unwrap();
        for taken in [0x10..0x20, 0x1f..0x21, 0x0..0x11, 0x12..0x13, 0x0..0x100] {
            assert_eq!(bus.map(taken.clone(), 0, Arc::<Probe>::clone(&probe)), Err(Overlap(taken)));
        }
        for free in [0x20..0x21, 0x0..0x10] {
            bus.map(free, 0, Arc::<Probe>::clone(&probe)).unwrap();
        }
        assert_eq!(read(&bus, 0x1f, 1), [0xf]);
    }
}
