//! A function's place on the bus: it follows its memory region wherever a write to its configuration space moves it.

use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

use tern_chipset::InvalidState;
use tern_chipset::pci::Function;
use tern_engine::{Doorbell, DoorbellPlace, DoorbellValue, Vm};
use tern_virtio::pci::{State, VirtioPci};

use super::window::PciMemory;
use crate::lock;

/// A function and what it is connected to.
pub(super) struct Slot {
    function: VirtioPci,
    vm: Arc<dyn Vm>,
    /// It holds those that answer in it, which must not hold it.
    memory: Weak<PciMemory>,
    /// Where its region is on the bus, and which doorbells are the engine's.
    connected: Mutex<Option<Connected>>,
}

struct Connected {
    addresses: Range<u64>,
    /// By the queue's number. Those that the engine has no room for are not among them, and ring by way of the bus.
    doorbells: Vec<(usize, Doorbell)>,
}

impl Slot {
    pub(super) fn new(function: VirtioPci, vm: Arc<dyn Vm>, memory: Weak<PciMemory>) -> Self {
        Self { function, vm, memory, connected: Mutex::new(None) }
    }

    pub(super) const fn function(&self) -> &VirtioPci {
        &self.function
    }

    /// Places the region, as firmware does.
    pub(super) fn place(self: &Arc<Self>, address: u64) {
        self.function.place(address);
        self.settle();
    }

    pub(super) fn restore(self: &Arc<Self>, state: &State) -> Result<(), InvalidState> {
        self.function.restore(state)?;
        self.settle();
        Ok(())
    }

    /// Follows the region if it has moved.
    fn settle(self: &Arc<Self>) {
        let decoded = self.function.decoded().map(|(_, addresses)| addresses);
        let mut connected = lock(&self.connected);
        if connected.as_ref().map(|connected| &connected.addresses) == decoded.as_ref() {
            return;
        }
        if let Some(Connected { doorbells, .. }) = connected.take() {
            if let Some(memory) = self.memory.upgrade() {
                memory.remove(self);
            }
            self.detach(doorbells);
        }
        *connected = decoded.map(|addresses| {
            if let Some(memory) = self.memory.upgrade() {
                memory.insert(addresses.clone(), Arc::clone(self));
            }
            Connected { doorbells: self.attach(addresses.start), addresses }
        });
    }

    fn attach(&self, start: u64) -> Vec<(usize, Doorbell)> {
        let mut attached = Vec::new();
        for (queue, (offset, event)) in self.function.doorbells().enumerate() {
            let place = DoorbellPlace::Memory(start.saturating_add(offset));
            let doorbell = Doorbell { place, value: DoorbellValue::Any };
            if self.vm.attach_doorbell(&doorbell, event).is_ok() {
                attached.push((queue, doorbell));
            }
        }
        attached
    }

    fn detach(&self, doorbells: Vec<(usize, Doorbell)>) {
        let events: Vec<_> = self.function.doorbells().map(|(_, event)| event).collect();
        for (queue, doorbell) in doorbells {
            if let Some(event) = events.get(queue) {
                // It was attached: there is nothing to be refused.
                let _ = self.vm.detach_doorbell(&doorbell, event);
            }
        }
    }
}

/// The function, as the host bridge sees it.
pub(super) struct Plugged(pub(super) Arc<Slot>);

impl Function for Plugged {
    fn read_config(&self, register: u16, data: &mut [u8]) {
        self.0.function.read_config(register, data);
    }

    fn write_config(&mut self, register: u16, data: &[u8]) {
        self.0.function.write_config(register, data);
        self.0.settle();
    }
}
