//! A configuration space as memory: what reads, and which of its bits a guest may write.

use super::Function;
use crate::InvalidState;
use alloc::vec;
use alloc::vec::Vec;

/// The bytes of a conventional PCI function's configuration space.
const SIZE: usize = 256;

const VENDOR_ID: usize = 0x00;
pub(super) const COMMAND: usize = 0x04;
const CLASS_CODE: usize = 0x09;
const INTERRUPT_LINE: usize = 0x3c;

/// A configuration space without side effects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    bytes: Vec<u8>,
    /// The bits that a guest may write.
    writable: Vec<u8>,
}

impl ConfigSpace {
    /// The space of a function: its vendor and device ID, and its class code (base class, subclass,
    /// programming interface, as in 0x06_00_00). The command register may be written.
    pub fn new(vendor_id: u16, device_id: u16, class_code: u32) -> Self {
        let mut space = Self { bytes: vec![0; SIZE], writable: vec![0; SIZE] };
        space.set(VENDOR_ID, &vendor_id.to_le_bytes());
        space.set(VENDOR_ID + 2, &device_id.to_le_bytes());
        space.set(CLASS_CODE, &class_code.to_le_bytes()[..3]);
        // I/O, memory, bus master, parity and system error, no INTx.
        space.allow(COMMAND, &0x0547u16.to_le_bytes());
        space.allow(INTERRUPT_LINE, &[0xff]);
        space
    }

    /// The bytes from `register` on; zeros beyond the space.
    pub(super) fn get<const N: usize>(&self, register: usize) -> [u8; N] {
        let byte = |offset| register.checked_add(offset).and_then(|place| self.bytes.get(place));
        core::array::from_fn(|offset| byte(offset).copied().unwrap_or(0))
    }

    /// Gives registers a value, whether a guest may write them or not. What lies beyond the space is dropped.
    pub(super) fn set(&mut self, register: usize, bytes: &[u8]) {
        for (place, byte) in self.bytes.iter_mut().skip(register).zip(bytes) {
            *place = *byte;
        }
    }

    /// Lets a guest write these bits, and no others, of registers.
    pub(super) fn allow(&mut self, register: usize, bits: &[u8]) {
        for (place, bits) in self.writable.iter_mut().skip(register).zip(bits) {
            *place = *bits;
        }
    }

    pub(super) fn save(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    /// Puts back what [`ConfigSpace::save`] gave to the space of `device`.
    pub(super) fn restore(&mut self, bytes: &[u8], device: &'static str) -> Result<(), InvalidState> {
        let differs = bytes
            .iter()
            .zip(&self.bytes)
            .zip(&self.writable)
            .any(|((new, old), writable)| (new ^ old) & !writable != 0);
        if bytes.len() != self.bytes.len() || differs {
            return Err(InvalidState { device, reason: "its configuration space is another device's" });
        }
        self.bytes.copy_from_slice(bytes);
        Ok(())
    }
}

impl Function for ConfigSpace {
    /// Beyond the space there are ones, which is how software finds that there is no more.
    fn read_config(&self, register: u16, data: &mut [u8]) {
        for (register, byte) in (usize::from(register)..).zip(data) {
            *byte = self.bytes.get(register).copied().unwrap_or(0xff);
        }
    }

    fn write_config(&mut self, register: u16, data: &[u8]) {
        let places = self.bytes.iter_mut().zip(&self.writable);
        for ((byte, writable), value) in places.skip(usize::from(register)).zip(data) {
            *byte = *byte & !writable | value & writable;
        }
    }
}

/// The host bridge's own space: "QEMU PCIe Host bridge". It is the one host bridge in the PCI ID
/// registry that stands for no particular chipset, so that no operating system applies a
/// chipset's workarounds to it.
pub(super) fn host_bridge() -> ConfigSpace {
    ConfigSpace::new(0x1b36, 0x0008, 0x06_00_00)
}
