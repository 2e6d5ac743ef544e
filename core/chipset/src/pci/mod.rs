//! The PCI host bridge: the way to the configuration spaces of PCI functions.
//!
//! Follows the PCI Local Bus Specification 3.0 (§ 3.2.2.3.2, configuration mechanism #1, and ch. 6,
//! configuration space) and the PCI Express Base Specification (§ 7.2.2, ECAM).
//!
//! There are two ways in: the ports 0xcf8 (which register) and 0xcfc (its data), and the memory
//! window called ECAM, where an address *is* a register. Both lead to a [`Function`]; where there
//! is none, reads give all ones and writes vanish.
//!
//! A function is an [`Endpoint`] (its configuration space with BARs and capabilities) and, where it interrupts by messages,
//! an [`msix::MsiX`]. Who owns them carries out what follows from a write: a BAR has moved, a message is to be sent.

mod config_space;
mod endpoint;
pub mod msix;
#[cfg(test)]
mod tests;

use crate::InvalidState;
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
pub use config_space::ConfigSpace;
use config_space::host_bridge;
use core::fmt;
pub use endpoint::{Bar, Command, DoesNotFit, Endpoint, Identity, Place, State as EndpointState, Width};
pub use msix::{MsiMessage, MsiX};
use serde::{Deserialize, Serialize};

/// Port of the configuration address, relative to 0xcf8. Accesses of four bytes only.
const CONFIG_ADDRESS: u16 = 0;
/// Ports of the configuration data, relative to 0xcf8.
const CONFIG_DATA: u16 = 4;

/// The configuration address: enabled.
const ENABLED: u32 = 1 << 31;
/// The configuration address: bits that exist.
const WRITABLE: u32 = ENABLED | 0x00ff_fffc;

/// Where a function sits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    bus: u8,
    /// Device in bits 7:3, function in bits 2:0.
    devfn: u8,
}

impl Address {
    /// The host bridge's own place.
    pub const HOST_BRIDGE: Self = Self { bus: 0, devfn: 0 };

    /// A place on a bus. `None` if the device is above 31 or the function above 7.
    pub const fn new(bus: u8, device: u8, function: u8) -> Option<Self> {
        if device > 31 || function > 7 {
            return None;
        }
        let devfn = device << 3 | function;
        Some(Self { bus, devfn })
    }

    /// The bus.
    pub const fn bus(self) -> u8 {
        self.bus
    }

    /// The device, 0 to 31.
    pub const fn device(self) -> u8 {
        self.devfn >> 3
    }

    /// The function, 0 to 7.
    pub const fn function(self) -> u8 {
        self.devfn & 7
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bus, device, function) = (self.bus(), self.device(), self.function());
        write!(f, "{bus:02x}:{device:02x}.{function}")
    }
}

/// A PCI function, as its configuration space shows it.
///
/// Accesses are of one to four bytes within one aligned group of four; `register` is the first
/// byte's, 0 to 0xfff.
pub trait Function: Send {
    /// Reads configuration registers.
    fn read_config(&self, register: u16, data: &mut [u8]);

    /// Writes configuration registers. Read-only bits stay.
    fn write_config(&mut self, register: u16, data: &[u8]);
}

/// There is a function at this place already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occupied(pub Address);

impl fmt::Display for Occupied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "There is a PCI function at {} already. Choose another device number", self.0)
    }
}

impl core::error::Error for Occupied {}

/// The host bridge, with the functions behind it. It is itself function 00:00.0.
pub struct HostBridge {
    config_address: u32,
    config: ConfigSpace,
    functions: BTreeMap<Address, Box<dyn Function>>,
}

/// What the host bridge holds. The functions behind it keep their own state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The configuration address register.
    pub config_address: u32,
    /// The host bridge's own configuration space.
    pub config: alloc::vec::Vec<u8>,
}

impl HostBridge {
    /// A host bridge with nothing behind it.
    pub fn new() -> Self {
        Self { config_address: 0, config: host_bridge(), functions: BTreeMap::new() }
    }

    /// Plugs in a function.
    ///
    /// # Errors
    ///
    /// If the place is taken.
    pub fn attach(&mut self, address: Address, function: Box<dyn Function>) -> Result<(), Occupied> {
        if address == Address::HOST_BRIDGE || self.functions.contains_key(&address) {
            return Err(Occupied(address));
        }
        self.functions.insert(address, function);
        Ok(())
    }

    /// Puts the host bridge itself into its reset state; the functions behind it are others' to reset.
    pub fn reset(&mut self) {
        self.config_address = 0;
        self.config = host_bridge();
    }

    /// Answers a read of one to four bytes at `offset` from port 0xcf8.
    pub fn read_port(&self, offset: u16, data: &mut [u8]) {
        match (offset, data.len()) {
            (CONFIG_ADDRESS, 4) => data.copy_from_slice(&self.config_address.to_le_bytes()),
            (CONFIG_DATA.., _) => match self.selected(offset) {
                Some((address, register)) => self.read(address, register, data),
                None => data.fill(0xff),
            },
            _ => data.fill(0xff),
        }
    }

    /// Takes a write of one to four bytes at `offset` from port 0xcf8.
    pub fn write_port(&mut self, offset: u16, data: &[u8]) {
        if let (CONFIG_ADDRESS, &[a, b, c, d]) = (offset, data) {
            self.config_address = u32::from_le_bytes([a, b, c, d]) & WRITABLE;
        } else if let Some((address, register)) = self.selected(offset) {
            self.write(address, register, data);
        }
    }

    /// Answers a read of one to eight bytes at `offset` within the ECAM window.
    pub fn read_ecam(&self, offset: u64, data: &mut [u8]) {
        for (offset, data) in (offset..).step_by(4).zip(data.chunks_mut(4)) {
            match in_ecam(offset) {
                Some((address, register)) => self.read(address, register, data),
                None => data.fill(0xff),
            }
        }
    }

    /// Takes a write of one to eight bytes at `offset` within the ECAM window.
    pub fn write_ecam(&mut self, offset: u64, data: &[u8]) {
        for (offset, data) in (offset..).step_by(4).zip(data.chunks(4)) {
            if let Some((address, register)) = in_ecam(offset) {
                self.write(address, register, data);
            }
        }
    }

    /// What the configuration data ports lead to.
    fn selected(&self, offset: u16) -> Option<(Address, u16)> {
        let byte = offset.checked_sub(CONFIG_DATA).filter(|byte| *byte < 4)?;
        let [register, devfn, bus, _] = self.config_address.to_le_bytes();
        let is_enabled = self.config_address & ENABLED != 0;
        is_enabled.then_some((Address { bus, devfn }, u16::from(register) | byte))
    }

    fn read(&self, address: Address, register: u16, data: &mut [u8]) {
        data.fill(0xff);
        if !is_aligned(register, data) {
            return;
        }
        if address == Address::HOST_BRIDGE {
            self.config.read_config(register, data);
        } else if let Some(function) = self.functions.get(&address) {
            function.read_config(register, data);
        }
    }

    fn write(&mut self, address: Address, register: u16, data: &[u8]) {
        if !is_aligned(register, data) {
            return;
        }
        if address == Address::HOST_BRIDGE {
            self.config.write_config(register, data);
        } else if let Some(function) = self.functions.get_mut(&address) {
            function.write_config(register, data);
        }
    }

    /// What the host bridge itself holds.
    pub fn save(&self) -> State {
        State { config_address: self.config_address, config: self.config.save() }
    }

    /// Puts back what [`HostBridge::save`] gave.
    ///
    /// # Errors
    ///
    /// If a register holds what it cannot; nothing is changed then.
    pub fn restore(&mut self, state: &State) -> Result<(), InvalidState> {
        if state.config_address & !WRITABLE != 0 {
            return Err(InvalidState {
                device: "PCI host bridge",
                reason: "its configuration address has reserved bits set",
            });
        }
        self.config.restore(&state.config, "PCI host bridge")?;
        self.config_address = state.config_address;
        Ok(())
    }
}

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether an access stays within one aligned group of four bytes.
fn is_aligned(register: u16, data: &[u8]) -> bool {
    usize::from(register & 3) + data.len() <= 4
}

/// The function and register behind an offset in the ECAM window: bus 27:20, device 19:15,
/// function 14:12, register 11:0. `None` beyond the window.
fn in_ecam(offset: u64) -> Option<(Address, u16)> {
    let offset = u32::try_from(offset).ok()?;
    let [_, _, _, beyond] = (offset >> 4).to_le_bytes();
    let [devfn, bus, ..] = (offset >> 12).to_le_bytes();
    let register = (offset & 0xfff) as u16;
    (beyond == 0).then_some((Address { bus, devfn }, register))
}
