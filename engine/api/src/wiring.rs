//! Events that cross between devices and an engine without a processor's thread: doorbells out of the guest, interrupts
//! into it.
//!
//! A device that works in a thread of its own waits for an event when the guest has something for it, and signals one
//! when it has something for the guest. Where the kernel runs the guest these are its ioeventfd and irqfd
//! (`Documentation/virt/kvm/api.rst`); the software engine does the same by itself.
//!
//! ```text
//!  guest writes a doorbell ──▶ EventFd ──▶ device's thread ──▶ EventFd ──▶ message or line ──▶ guest's interrupt
//! ```

use std::time::Duration;

use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::poll::PollContext;

use crate::EngineError;

/// Where a doorbell is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DoorbellPlace {
    /// An I/O port.
    Port(u16),
    /// A guest-physical address that is not RAM.
    Memory(u64),
}

/// Which writes ring a doorbell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DoorbellValue {
    /// All that begin at its place, of any size.
    Any,
    /// Those of one byte with this value.
    Byte(u8),
    /// Those of two bytes with this value.
    Word(u16),
    /// Those of four bytes with this value.
    DoubleWord(u32),
    /// Those of eight bytes with this value.
    QuadWord(u64),
}

impl DoorbellValue {
    /// Whether a write of `size` bytes with this value, in its low bytes, rings.
    #[must_use]
    pub fn matches(self, size: u8, data: u64) -> bool {
        match self {
            Self::Any => true,
            Self::Byte(value) => size == 1 && data & 0xff == u64::from(value),
            Self::Word(value) => size == 2 && data & 0xffff == u64::from(value),
            Self::DoubleWord(value) => size == 4 && data & 0xffff_ffff == u64::from(value),
            Self::QuadWord(value) => size == 8 && data == value,
        }
    }
}

/// A write of the guest that signals an event, and is carried out by that: no [`crate::VmExit`] tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Doorbell {
    /// Where it is.
    pub place: DoorbellPlace,
    /// Which writes ring it.
    pub value: DoorbellValue,
}

/// A message-signalled interrupt: a write of `data` to `address` by a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// Where it is written.
    pub address: u64,
    /// What is written.
    pub data: u32,
}

/// One of a device's message-signalled interrupts, such as a vector of MSI-X. It begins without a message; dropped, it is
/// disconnected.
pub trait MessageInterrupt: Send + Sync {
    /// Signalled (a write of 1) by the device to send the message. Signals that arrive while there is no message are kept
    /// and make one interrupt when there is one again, as a masked vector's pending bit does.
    fn event(&self) -> &EventFd;

    /// Does what a signal of [`MessageInterrupt::event`] does, for a caller in this process: an engine that would need a
    /// thread of its own to see the event sends the message from the caller's.
    fn signal(&self) {
        // It fails if nobody has taken 2^64 signals: then one is waiting.
        let _ = self.event().write(1);
    }

    /// What is sent from now on; nothing while the vector is masked.
    ///
    /// # Errors
    /// The engine or the host has no room for another route.
    fn set_message(&self, message: Option<Message>) -> Result<(), EngineError>;

    /// Whether a signal waits for a message: the vector's pending bit.
    fn is_pending(&self) -> bool {
        is_signalled(self.event())
    }
}

/// Whether an event was signalled and nobody has taken the signal yet.
fn is_signalled(event: &EventFd) -> bool {
    let wait = || -> Result<bool, vmm_sys_util::errno::Error> {
        let context = PollContext::<u32>::new()?;
        context.add(event, 0)?;
        let events = context.wait_timeout(Duration::ZERO)?;
        Ok(events.iter_readable().next().is_some())
    };
    // The host has no memory or no descriptors: what is not known to wait does not.
    wait().unwrap_or(false)
}

/// A level-triggered interrupt line that is driven by events. Dropped, it is disconnected.
///
/// A signal asserts the line. When the guest has ended the interrupt, the line is released and [`LineInterrupt::ended`]
/// signalled; a device that still wants attention asserts the line again. `ended` may also be signalled for another
/// device's interrupt.
pub trait LineInterrupt: Send + Sync {
    /// Signalled by the device to assert the line.
    fn event(&self) -> &EventFd;

    /// Signalled by the engine when the guest has ended the interrupt.
    fn ended(&self) -> &EventFd;
}

/// How events are connected to a virtual machine.
pub trait Wiring {
    /// Lets the guest's writes to `doorbell` signal `event`.
    ///
    /// # Errors
    /// The same doorbell is there already, or the engine or the host has no room for another one.
    fn attach_doorbell(&self, doorbell: &Doorbell, event: &EventFd) -> Result<(), EngineError>;

    /// Undoes [`Wiring::attach_doorbell`] with the same values; the guest's writes are exits again.
    ///
    /// # Errors
    /// There is no such doorbell.
    fn detach_doorbell(&self, doorbell: &Doorbell, event: &EventFd) -> Result<(), EngineError>;

    /// A message-signalled interrupt for a device.
    ///
    /// # Errors
    /// The engine or the host has no room for another one.
    fn message_interrupt(&self) -> Result<Box<dyn MessageInterrupt>, EngineError>;

    /// Drives input `gsi` of the interrupt controllers by events; nobody may drive it by
    /// [`crate::Vm::set_irq_line`] meanwhile.
    ///
    /// # Errors
    /// There is no such input, or the engine or the host cannot do that.
    fn line_interrupt(&self, gsi: u32) -> Result<Box<dyn LineInterrupt>, EngineError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_waits_until_it_is_taken() {
        let event = EventFd::new(0).unwrap();
        assert!(!is_signalled(&event));
        event.write(1).unwrap();
        assert!(is_signalled(&event));
        event.read().unwrap();
        assert!(!is_signalled(&event));
    }

    #[test]
    fn a_value_is_compared_in_its_own_size_only() {
        assert!(DoorbellValue::Any.matches(4, 7));
        assert!(DoorbellValue::Word(7).matches(2, 0xffff_0007));
        assert!(!DoorbellValue::Word(7).matches(4, 7));
        assert!(!DoorbellValue::Word(7).matches(2, 8));
        assert!(DoorbellValue::QuadWord(u64::MAX).matches(8, u64::MAX));
    }
}
