//! The PCI bus: virtio devices behind the host bridge, on the machine's buses and wires.
//!
//! ```text
//!  0xcf8, ECAM ──▶ HostBridge ──▶ Slot ──▶ VirtioPci: configuration space
//!                                  │ the memory region has moved
//!                                  ▼
//!  the windows of memory ──▶ window::PciMemory ──▶ VirtioPci: registers     doorbells ──▶ the engine's
//!
//!  VirtioPci ──▶ messages::EngineInterrupts ──▶ the engine's message interrupts, or a line
//! ```
//!
//! There is no firmware: the regions are placed here, where 32-bit kernels reach them, too. A kernel may move them anywhere in
//! the windows.

mod messages;
mod slot;
#[cfg(test)]
mod tests;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;

use tern_chipset::InvalidState;
use tern_chipset::layout::{PCI_MEMORY_32, irq};
use tern_chipset::pci::Address;
use tern_engine::{GuestMemory, Vm};
use tern_virtio::pci::{AttachError, BAR, State, VirtioPci};
use thiserror::Error;

use crate::config::{DeviceConfig, MOST_DEVICES};
use crate::device::HostBridge;
use crate::irq::IrqLine;
use messages::EngineInterrupts;
use slot::{Plugged, Slot};

pub(crate) use window::PciMemory;

/// Why the machine cannot have its devices.
#[derive(Debug, Error)]
pub enum PciError {
    /// One cannot be put on the bus.
    #[error("cannot attach the device '{name}'")]
    Attach {
        /// What the machine calls it.
        name: String,
        /// Why.
        #[source]
        source: AttachError,
    },
    /// There are more than there are places.
    #[error("a machine has at most {MOST_DEVICES} devices on its PCI bus: give it fewer")]
    NoPlace,
}

/// All functions on the bus but the host bridge.
pub(crate) struct PciBus {
    slots: Vec<Arc<Slot>>,
}

impl PciBus {
    /// Puts the devices on the bus behind `bridge`, in their order from device 1 on; their regions are in `memory`.
    pub(crate) fn new(
        devices: &[DeviceConfig],
        bridge: &HostBridge,
        memory: &Arc<PciMemory>,
        guest_memory: &GuestMemory,
        vm: &Arc<dyn Vm>,
    ) -> Result<Self, PciError> {
        let mut lines = BTreeMap::new();
        let mut slots = Vec::new();
        for (number, DeviceConfig { name, device }) in (1..).zip(devices) {
            let address = Address::new(0, number, 0).ok_or(PciError::NoPlace)?;
            let pin = irq::pci_intx(number, 0);
            let line = lines.entry(pin).or_insert_with(|| IrqLine::new(Arc::clone(vm), pin));
            let interrupts = EngineInterrupts::new(Arc::clone(vm), line.clone());
            let function =
                VirtioPci::new(name, Arc::clone(device), guest_memory.clone(), Box::new(interrupts))
                    .map_err(|source| PciError::Attach { name: name.clone(), source })?;
            let slot = Arc::new(Slot::new(function, Arc::clone(vm), Arc::downgrade(memory)));
            let taken = bridge.attach(address, Box::new(Plugged(Arc::clone(&slot))));
            taken.map_err(|_| PciError::NoPlace)?;
            slots.push(slot);
        }
        let bus = Self { slots };
        bus.place();
        Ok(bus)
    }

    /// Does what firmware does: each region gets an address, each function is enabled.
    fn place(&self) {
        for (place, slot) in (PCI_MEMORY_32[0].start..).step_by(BAR.size as usize).zip(&self.slots) {
            slot.place(place);
        }
    }

    fn functions(&self) -> impl Iterator<Item = &VirtioPci> {
        self.slots.iter().map(|slot| slot.function())
    }

    /// Finishes what is in flight. No processor is running.
    pub(crate) fn pause(&self) {
        self.functions().for_each(VirtioPci::pause);
    }

    /// Lets devices go on.
    pub(crate) fn resume(&self) {
        self.functions().for_each(VirtioPci::resume);
    }

    /// Puts all functions into the state in which firmware leaves them. No processor is running.
    pub(crate) fn reset(&self) {
        self.functions().for_each(VirtioPci::reset);
        self.place();
    }

    /// Finishes what is in flight and ends the devices' threads.
    pub(crate) fn end(&self) {
        self.functions().for_each(VirtioPci::end);
    }

    /// All functions' states. They are paused.
    pub(crate) fn save(&self) -> Vec<State> {
        self.functions().map(VirtioPci::save).collect()
    }

    /// Takes over all functions' states. No processor is running.
    pub(crate) fn restore(&self, states: &[State]) -> Result<(), InvalidState> {
        if states.len() != self.slots.len() {
            return Err(InvalidState { device: "PCI bus", reason: "it has another number of devices" });
        }
        for (slot, state) in self.slots.iter().zip(states) {
            slot.restore(state)?;
        }
        Ok(())
    }
}
