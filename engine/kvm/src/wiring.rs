//! Doorbells and interrupt events in the kernel: ioeventfd, irqfd, and the routing table that tells where an interrupt's
//! number leads.
//!
//! Numbers 0 to 23 are the interrupt controllers' inputs; those from 24 on are messages, each with one entry in the table
//! while it has a message. A masked message's event is taken out of the kernel: signals stay in it, and make one interrupt
//! when it is put back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER,
    KVM_IRQCHIP_PIC_SLAVE, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip,
    kvm_irq_routing_msi,
};
use kvm_ioctls::{Cap, IoEventAddress, NoDatamatch, VmFd};
use tern_chipset::ioapic;
use tern_chipset::layout::irq;
use tern_engine::{
    Doorbell, DoorbellPlace, DoorbellValue, EngineError, EventFd, LineInterrupt, Message, MessageInterrupt,
};

use crate::host::refused;

/// The first number that is not an input of the interrupt controllers.
const FIRST_MESSAGE: u32 = ioapic::PINS as u32;

/// Where interrupts lead: the machine's fixed lines, and its devices' messages.
#[derive(Debug)]
pub struct Routes {
    fd: Arc<VmFd>,
    /// Every number that is taken, with its message.
    messages: Mutex<BTreeMap<u32, Option<Message>>>,
    /// How many entries the kernel's table has.
    room: usize,
}

impl Routes {
    /// The routes of a machine with interrupt controllers; only the lines are there.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(fd: Arc<VmFd>) -> Result<Arc<Self>, EngineError> {
        let room = usize::try_from(fd.check_extension_int(Cap::IrqRouting)).unwrap_or(0);
        let routes = Self { fd, messages: Mutex::default(), room };
        routes.install(&routes.messages())?;
        Ok(Arc::new(routes))
    }

    fn messages(&self) -> MutexGuard<'_, BTreeMap<u32, Option<Message>>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number for a message that is yet to come.
    fn take_number(&self) -> Result<u32, EngineError> {
        let mut messages = self.messages();
        let number = (FIRST_MESSAGE..).find(|number| !messages.contains_key(number));
        let number = number.filter(|_| lines().count() + messages.len() < self.room).ok_or_else(|| {
            EngineError::Unsupported(format!(
                "this host's KVM routes {} interrupts of a machine at most",
                self.room
            ))
        })?;
        messages.insert(number, None);
        Ok(number)
    }

    fn set(&self, number: u32, message: Message) -> Result<(), EngineError> {
        let mut messages = self.messages();
        let before = messages.insert(number, Some(message));
        if before == Some(Some(message)) {
            return Ok(());
        }
        self.install(&messages).inspect_err(|_| {
            messages.insert(number, before.flatten());
        })
    }

    fn give_back(&self, number: u32) {
        self.messages().remove(&number);
        // The entry is gone with the next change of the table; nothing signals it until then.
    }

    fn install(&self, messages: &BTreeMap<u32, Option<Message>>) -> Result<(), EngineError> {
        let of_messages = messages.iter().filter_map(|(number, message)| Some(entry(*number, (*message)?)));
        let entries: Vec<_> = lines().chain(of_messages).collect();
        let table = KvmIrqRouting::from_entries(&entries)
            .map_err(|_| EngineError::Unsupported("more interrupts than KVM routes".into()))?;
        self.fd.set_gsi_routing(&table).map_err(refused("connect the interrupts"))
    }
}

/// Lines 0 to 15 to the 8259s, all 24 to the IO-APIC; the timer's arrives there at a pin of its own.
fn lines() -> impl Iterator<Item = kvm_irq_routing_entry> {
    let entry = |gsi: u8, irqchip: u32, pin: u8| {
        let mut entry =
            kvm_irq_routing_entry { gsi: gsi.into(), type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
        entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin: pin.into() };
        entry
    };
    (0..ioapic::PINS).flat_map(move |line| {
        let pic = match line {
            0..8 => Some(entry(line, KVM_IRQCHIP_PIC_MASTER, line)),
            8..16 => Some(entry(line, KVM_IRQCHIP_PIC_SLAVE, line - 8)),
            _ => None,
        };
        let ioapic = match line {
            irq::TIMER => Some(entry(line, KVM_IRQCHIP_IOAPIC, irq::TIMER_PIN)),
            irq::TIMER_PIN => None,
            _ => Some(entry(line, KVM_IRQCHIP_IOAPIC, line)),
        };
        pic.into_iter().chain(ioapic)
    })
}

fn entry(gsi: u32, Message { address, data }: Message) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry { gsi, type_: KVM_IRQ_ROUTING_MSI, ..Default::default() };
    let [address_lo, address_hi] = [address as u32, (address >> 32) as u32];
    entry.u.msi = kvm_irq_routing_msi { address_lo, address_hi, data, ..Default::default() };
    entry
}

/// A [`MessageInterrupt`] of the kernel.
struct KvmMessage {
    routes: Arc<Routes>,
    number: u32,
    event: EventFd,
    /// Whether the kernel takes the event's signals.
    is_connected: Mutex<bool>,
}

impl KvmMessage {
    fn connect(&self, wanted: bool) -> Result<(), EngineError> {
        let mut is_connected = self.is_connected.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_connected == wanted {
            return Ok(());
        }
        let fd = &self.routes.fd;
        if wanted {
            fd.register_irqfd(&self.event, self.number).map_err(refused("connect an interrupt's event"))?;
            // A signal that waited makes an interrupt, but the kernel leaves it in the event, where it would make another one
            // the next time. An error: none waited.
            let _ = self.event.read();
        } else {
            fd.unregister_irqfd(&self.event, self.number)
                .map_err(refused("disconnect an interrupt's event"))?;
        }
        *is_connected = wanted;
        Ok(())
    }
}

impl MessageInterrupt for KvmMessage {
    fn event(&self) -> &EventFd {
        &self.event
    }

    fn set_message(&self, message: Option<Message>) -> Result<(), EngineError> {
        if let Some(message) = message {
            self.routes.set(self.number, message)?;
        }
        self.connect(message.is_some())
    }
}

impl Drop for KvmMessage {
    fn drop(&mut self) {
        // Nothing can be done about an error, and the kernel forgets the event with its last descriptor.
        let _ = self.connect(false);
        self.routes.give_back(self.number);
    }
}

/// A message-signalled interrupt of this machine.
///
/// # Errors
/// The kernel's table is full, or the host has no more descriptors.
pub fn message(routes: &Arc<Routes>) -> Result<Box<dyn MessageInterrupt>, EngineError> {
    let event = new_event()?;
    let number = routes.take_number()?;
    Ok(Box::new(KvmMessage { routes: Arc::clone(routes), number, event, is_connected: Mutex::default() }))
}

/// A [`LineInterrupt`] of the kernel.
struct KvmLine {
    fd: Arc<VmFd>,
    gsi: u32,
    event: EventFd,
    ended: EventFd,
}

impl LineInterrupt for KvmLine {
    fn event(&self) -> &EventFd {
        &self.event
    }

    fn ended(&self) -> &EventFd {
        &self.ended
    }
}

impl Drop for KvmLine {
    fn drop(&mut self) {
        // As for messages.
        let _ = self.fd.unregister_irqfd(&self.event, self.gsi);
    }
}

/// Input `gsi` of the interrupt controllers, driven by events.
///
/// # Errors
/// There is no such input, or the kernel refuses.
pub fn line(fd: &Arc<VmFd>, gsi: u32) -> Result<Box<dyn LineInterrupt>, EngineError> {
    if gsi >= FIRST_MESSAGE {
        return Err(EngineError::Unsupported(format!("there is no interrupt line {gsi}")));
    }
    if !fd.check_extension(Cap::IrqfdResample) {
        return Err(EngineError::Unsupported(
            "this host's KVM cannot drive an interrupt line by events: use Linux 3.8 or newer".into(),
        ));
    }
    let (event, ended) = (new_event()?, new_event()?);
    fd.register_irqfd_with_resample(&event, &ended, gsi)
        .map_err(refused("connect an interrupt line's events"))?;
    Ok(Box::new(KvmLine { fd: Arc::clone(fd), gsi, event, ended }))
}

fn new_event() -> Result<EventFd, EngineError> {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC)
        .map_err(|source| EngineError::Host { action: "make an event", source })
}

/// Lets writes to `doorbell` signal `event`.
///
/// # Errors
/// The kernel refuses.
pub fn attach(fd: &VmFd, doorbell: &Doorbell, event: &EventFd) -> Result<(), EngineError> {
    let place = address(doorbell.place);
    match doorbell.value {
        DoorbellValue::Any => fd.register_ioevent(event, &place, NoDatamatch),
        DoorbellValue::Byte(value) => fd.register_ioevent(event, &place, value),
        DoorbellValue::Word(value) => fd.register_ioevent(event, &place, value),
        DoorbellValue::DoubleWord(value) => fd.register_ioevent(event, &place, value),
        DoorbellValue::QuadWord(value) => fd.register_ioevent(event, &place, value),
    }
    .map_err(refused("attach a doorbell"))
}

/// Undoes [`attach`].
///
/// # Errors
/// The kernel knows of no such doorbell.
pub fn detach(fd: &VmFd, doorbell: &Doorbell, event: &EventFd) -> Result<(), EngineError> {
    let place = address(doorbell.place);
    match doorbell.value {
        DoorbellValue::Any => fd.unregister_ioevent(event, &place, NoDatamatch),
        DoorbellValue::Byte(value) => fd.unregister_ioevent(event, &place, value),
        DoorbellValue::Word(value) => fd.unregister_ioevent(event, &place, value),
        DoorbellValue::DoubleWord(value) => fd.unregister_ioevent(event, &place, value),
        DoorbellValue::QuadWord(value) => fd.unregister_ioevent(event, &place, value),
    }
    .map_err(refused("detach a doorbell"))
}

const fn address(place: DoorbellPlace) -> IoEventAddress {
    match place {
        DoorbellPlace::Port(port) => IoEventAddress::Pio(port as u64),
        DoorbellPlace::Memory(address) => IoEventAddress::Mmio(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_reaches_the_first_8259_and_its_pin_of_the_io_apic() {
        let targets: Vec<_> = lines()
            .filter(|entry| entry.gsi == 0)
            // SAFETY: every entry's type is that of this member.
            .map(|entry| unsafe { (entry.u.irqchip.irqchip, entry.u.irqchip.pin) })
            .collect();
        assert_eq!(targets, [(KVM_IRQCHIP_PIC_MASTER, 0), (KVM_IRQCHIP_IOAPIC, 2)]);
        assert_eq!(lines().count(), 16 + 23);
    }

    #[test]
    fn a_message_is_routed_with_both_halves_of_its_address() {
        let entry = entry(24, Message { address: 0x0000_0012_fee0_1000, data: 0x4031 });
        // SAFETY: the entry's type is that of this member.
        let msi = unsafe { entry.u.msi };
        assert_eq!((entry.gsi, msi.address_lo, msi.address_hi, msi.data), (24, 0xfee0_1000, 0x12, 0x4031));
    }
}
