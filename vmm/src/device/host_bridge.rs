//! The PCI host bridge by both of its ways in, and the reset control register, a byte amid its ports.

use std::sync::{Arc, Mutex};

use tern_chipset::layout::port::{PCI_CONFIG_ADDRESS, RESET_CONTROL};
use tern_chipset::pci::{self, Address, Function, Occupied};
use tern_chipset::power::ResetControl;
use tern_chipset::{InvalidState, Time};

use super::register;
use crate::bus::{BusDevice, Request};
use crate::lock;

/// Offset of the reset control register, for accesses of one byte.
const RESET: u64 = (RESET_CONTROL - PCI_CONFIG_ADDRESS) as u64;

/// The ports 0xcf8 to 0xcff.
#[derive(Default)]
pub(crate) struct HostBridge {
    bridge: Mutex<pci::HostBridge>,
    reset_control: Mutex<ResetControl>,
}

impl HostBridge {
    /// Plugs in a function.
    pub(crate) fn attach(&self, address: Address, function: Box<dyn Function>) -> Result<(), Occupied> {
        lock(&self.bridge).attach(address, function)
    }

    pub(super) fn save(&self) -> (pci::State, ResetControl) {
        (lock(&self.bridge).save(), lock(&self.reset_control).clone())
    }

    pub(super) fn restore(&self, bridge: &pci::State, reset: &ResetControl) -> Result<(), InvalidState> {
        lock(&self.bridge).restore(bridge)?;
        *lock(&self.reset_control) = reset.clone();
        Ok(())
    }

    pub(super) fn reset(&self) {
        lock(&self.bridge).reset();
        *lock(&self.reset_control) = ResetControl::new();
    }
}

impl BusDevice for HostBridge {
    fn read(&self, offset: u64, data: &mut [u8], _now: Time) {
        match data {
            [byte] if offset == RESET => *byte = lock(&self.reset_control).read(),
            data => lock(&self.bridge).read_port(register(offset), data),
        }
    }

    fn write(&self, offset: u64, data: &[u8], _now: Time) -> Option<Request> {
        match data {
            [byte] if offset == RESET => lock(&self.reset_control).write(*byte).map(Request::from),
            data => {
                lock(&self.bridge).write_port(register(offset), data);
                None
            }
        }
    }
}

/// The window in memory.
pub(super) struct Ecam(pub(super) Arc<HostBridge>);

impl BusDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8], _now: Time) {
        lock(&self.0.bridge).read_ecam(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8], _now: Time) -> Option<Request> {
        lock(&self.0.bridge).write_ecam(offset, data);
        None
    }
}
