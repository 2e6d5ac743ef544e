//! From a message to the vector that the processor enters: acceptance, requests, priorities.
//! SDM vol. 3 §§ 11.6.2 (destinations), 11.8 (handling interrupts), 11.5 (local interrupts).

use super::registers::{ESR_RECEIVED_ILLEGAL_VECTOR, LVT_MASKED, SVR_ENABLED};
use super::{Effect, LocalApic, LocalInterrupt, Signal};
use crate::interrupt::{DeliveryMode, Destination, Message, Trigger};

/// The lowest vector that may be requested; those below are the processor's exceptions.
const FIRST_LEGAL_VECTOR: u8 = 16;

/// The priority class of a vector or a priority register.
const fn class(priority: u8) -> u8 {
    priority >> 4
}

impl LocalApic {
    /// Whether this APIC is among those that `message` is for. `sender` is the ID of the APIC that
    /// sent it, none for an IO-APIC or an MSI.
    ///
    /// Whoever is disabled takes no part: no message reaches a disabled APIC, and no vector one
    /// that is disabled by software.
    pub fn accepts(&self, message: &Message, sender: Option<u32>) -> bool {
        let takes_vectors = self.is_software_enabled();
        let is_vector = matches!(message.delivery_mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
        if !self.is_enabled() || is_vector && !takes_vectors {
            return false;
        }
        let is_sender = sender == Some(self.state.id);
        match message.destination {
            Destination::Myself => is_sender,
            Destination::All => true,
            Destination::Others => !is_sender,
            Destination::Physical(Destination::BROADCAST) | Destination::Logical(Destination::BROADCAST) => {
                true
            }
            // In xAPIC mode only the low eight bits of the ID are shown, but a processor above
            // 255 must be reachable for its INIT before it has left that mode.
            Destination::Physical(id) => id == self.state.id,
            Destination::Logical(address) => self.matches_logical(address),
        }
    }

    fn matches_logical(&self, address: u32) -> bool {
        let own = self.logical_id();
        if self.is_x2apic() {
            return address >> 16 == own >> 16 && address & own & 0xffff != 0;
        }
        let own = own >> 24;
        match self.state.dfr >> 28 {
            0b1111 => address & own != 0,
            0b0000 => address >> 4 == own >> 4 && address & own & 0xf != 0,
            _ => false,
        }
    }

    /// What the logical destination register reads as.
    pub(super) fn logical_id(&self) -> u32 {
        if self.is_x2apic() {
            (self.state.id >> 4) << 16 | 1 << (self.state.id & 0xf)
        } else {
            self.state.ldr
        }
    }

    /// Takes a message that this APIC [accepts](Self::accepts). A vector is requested here; what
    /// goes to the processor itself is given back.
    pub fn deliver(&mut self, message: &Message) -> Option<Signal> {
        if !message.assert {
            return None;
        }
        match message.delivery_mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.request(message.vector, message.trigger);
                None
            }
            DeliveryMode::Smi => Some(Signal::Smi),
            DeliveryMode::Nmi => Some(Signal::Nmi),
            DeliveryMode::Init => Some(Signal::Init),
            DeliveryMode::Startup => Some(Signal::Startup(message.vector)),
            DeliveryMode::ExtInt => Some(Signal::ExtInt),
        }
    }

    /// Raises an interrupt of the local vector table: an edge at a LINT pin, for the owner. What
    /// goes to the processor itself is given back; a pin in fixed mode requests its vector.
    pub fn raise(&mut self, source: LocalInterrupt) -> Option<Signal> {
        let entry = self.state.lvt[source as usize];
        if !self.is_enabled() || entry & LVT_MASKED != 0 {
            return None;
        }
        match DeliveryMode::from_bits(entry >> 8)? {
            DeliveryMode::Fixed => {
                let [vector, ..] = entry.to_le_bytes();
                self.request(vector, Trigger::Edge);
                None
            }
            DeliveryMode::Smi => Some(Signal::Smi),
            DeliveryMode::Nmi => Some(Signal::Nmi),
            DeliveryMode::Init => Some(Signal::Init),
            DeliveryMode::ExtInt => Some(Signal::ExtInt),
            DeliveryMode::LowestPriority | DeliveryMode::Startup => None,
        }
    }

    /// Whether the 8259's output reaches the processor: through LINT0 in ExtINT mode, or directly
    /// if the bootstrap processor's APIC is disabled.
    pub fn accepts_extint(&self) -> bool {
        if !self.is_enabled() {
            return self.is_bootstrap();
        }
        // Masked, or any other delivery mode.
        let entry = self.state.lvt[LocalInterrupt::Lint0 as usize];
        entry & (LVT_MASKED | 0x700) == 0x700
    }

    /// The processor priority: the class of what is in service, or the task's if that is higher.
    pub fn processor_priority(&self) -> u8 {
        let in_service = self.state.isr.highest().unwrap_or(0);
        if class(self.state.tpr) >= class(in_service) { self.state.tpr } else { in_service & 0xf0 }
    }

    /// The vector that the processor is to be interrupted with, if its RFLAGS.IF allows.
    pub fn pending(&self) -> Option<u8> {
        if !self.is_enabled() {
            return None;
        }
        let vector = self.state.irr.highest()?;
        (class(vector) > class(self.processor_priority())).then_some(vector)
    }

    /// The processor takes the [pending](Self::pending) interrupt: its vector goes into service.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.pending()?;
        self.state.irr.remove(vector);
        self.state.isr.insert(vector);
        Some(vector)
    }

    /// The task priority as CR8 shows it: its class, 0 to 15.
    pub fn cr8(&self) -> u8 {
        class(self.state.tpr)
    }

    /// Takes a write to CR8. The owner has raised #GP for values above 15; of others the low four
    /// bits count.
    pub fn set_cr8(&mut self, value: u8) {
        self.state.tpr = value << 4;
    }

    pub(super) fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.state.isr.highest() else {
            return Effect::None;
        };
        self.state.isr.remove(vector);
        if self.state.tmr.contains(vector) { Effect::EndOfInterrupt(vector) } else { Effect::None }
    }

    pub(super) fn request(&mut self, vector: u8, trigger: Trigger) {
        if vector < FIRST_LEGAL_VECTOR {
            return self.record_error(ESR_RECEIVED_ILLEGAL_VECTOR);
        }
        self.state.irr.insert(vector);
        match trigger {
            Trigger::Edge => self.state.tmr.remove(vector),
            Trigger::Level => self.state.tmr.insert(vector),
        }
    }

    /// Notes an error. The first since the error status register was written interrupts.
    pub(super) fn record_error(&mut self, error: u32) {
        let is_first = self.state.errors == 0;
        self.state.errors |= error;
        if is_first {
            // The entry has no delivery mode. If its own vector is illegal, that is one more error.
            let _vector_only = self.raise(LocalInterrupt::Error);
        }
    }

    pub(super) fn is_software_enabled(&self) -> bool {
        self.state.svr & SVR_ENABLED != 0
    }

    fn is_bootstrap(&self) -> bool {
        self.state.base & super::BASE_BSP != 0
    }
}
