//! Interrupt messages: what IO-APICs, MSI-capable devices and local APICs send to local APICs.
//!
//! On hardware these travel the APIC bus or the system bus; here they are values. SDM vol. 3
//! ch. 11 ("APIC"), APM vol. 2 ch. 16, and for MSI the PCI specification with SDM vol. 3
//! § 11.11.

use serde::{Deserialize, Serialize};

/// How the receiving processor is to be interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DeliveryMode {
    /// The vector, at every destination.
    Fixed,
    /// The vector, at one destination: the one that runs at the lowest priority.
    LowestPriority,
    /// System management interrupt.
    Smi,
    /// Non-maskable interrupt.
    Nmi,
    /// INIT: the processor goes to its wait-for-startup state.
    Init,
    /// Startup IPI: a waiting processor begins at `vector << 12` in real mode.
    Startup,
    /// The processor is to ask the 8259 for the vector.
    ExtInt,
}

impl DeliveryMode {
    /// Decodes the three-bit field of redirection entries, MSI data, LVT entries and the ICR.
    /// `None` for the reserved encoding 3. Bits above the lowest three are ignored.
    pub(crate) const fn from_bits(bits: u32) -> Option<Self> {
        match bits & 7 {
            0 => Some(Self::Fixed),
            1 => Some(Self::LowestPriority),
            2 => Some(Self::Smi),
            4 => Some(Self::Nmi),
            5 => Some(Self::Init),
            6 => Some(Self::Startup),
            7 => Some(Self::ExtInt),
            _ => None,
        }
    }
}

/// How the source signals: it decides whether the interrupt must be acknowledged to the IO-APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Trigger {
    /// One event per message.
    Edge,
    /// A line that stays asserted until its device is served: the end of the interrupt is
    /// broadcast to the IO-APICs.
    Level,
}

/// Who is addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Destination {
    /// The processor with this APIC ID, or everyone for [`Destination::BROADCAST`].
    Physical(u32),
    /// The processors whose logical APIC ID matches, or everyone for [`Destination::BROADCAST`].
    Logical(u32),
    /// The sender.
    Myself,
    /// Everyone.
    All,
    /// Everyone but the sender.
    Others,
}

impl Destination {
    /// The address of everyone, in 32 bits.
    pub const BROADCAST: u32 = u32::MAX;

    /// From the eight-bit address of an IO-APIC, an MSI or an xAPIC, where 0xff is everyone.
    pub const fn from_8_bits(address: u8, logical: bool) -> Self {
        let address = if address == 0xff { Self::BROADCAST } else { address as u32 };
        if logical { Self::Logical(address) } else { Self::Physical(address) }
    }
}

/// One interrupt message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    /// Who is addressed.
    pub destination: Destination,
    /// How they are interrupted.
    pub delivery_mode: DeliveryMode,
    /// The vector (fixed, lowest priority) or the start page (startup); otherwise without meaning.
    pub vector: u8,
    /// How the source signals.
    pub trigger: Trigger,
    /// False only for "INIT level de-assert", which no processor since the Pentium 4 acts upon.
    pub assert: bool,
}

impl Message {
    /// Decodes a device's write of `data` to `address` in [`crate::layout::MSI`].
    ///
    /// `None` if the address is no MSI's or the delivery mode is not one that a device may use;
    /// such a write has no effect.
    pub fn from_msi(address: u64, data: u32) -> Option<Self> {
        if !crate::layout::MSI.contains(&address) {
            return None;
        }
        // The SDM has the destination mode count only with the redirection hint (bit 3). Hardware
        // heeds it always, and Linux relies on that: it sends logical MSIs without the hint.
        let logical = address & (1 << 2) != 0;
        let [target, ..] = (address >> 12).to_le_bytes();
        Self::from_fields(Destination::from_8_bits(target, logical), data)
    }

    /// The part that redirection entries and MSI data share: vector 7:0, delivery mode 10:8,
    /// trigger mode 15. `None` for delivery modes that a device cannot ask for.
    pub(crate) fn from_fields(destination: Destination, fields: u32) -> Option<Self> {
        let [vector, ..] = fields.to_le_bytes();
        let delivery_mode = match DeliveryMode::from_bits(fields >> 8)? {
            DeliveryMode::Startup => return None,
            mode => mode,
        };
        let trigger = if fields & (1 << 15) != 0 { Trigger::Level } else { Trigger::Edge };
        Some(Self { destination, delivery_mode, vector, trigger, assert: true })
    }
}

/// Chooses the receiver of a [`DeliveryMode::LowestPriority`] message.
///
/// `candidates` are those that accept the message, each with
/// [`LocalApic::processor_priority`](crate::lapic::LocalApic::processor_priority). Among equals
/// the first wins; a caller that wants to spread interrupts starts its iteration elsewhere.
pub fn lowest_priority<T>(candidates: impl IntoIterator<Item = (T, u8)>) -> Option<T> {
    candidates.into_iter().min_by_key(|(_, priority)| *priority).map(|(candidate, _)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_msi_names_its_processor_and_vector() {
        let message = Message::from_msi(0xfee0_3000, 0x0041).unwrap();
        assert_eq!(message.destination, Destination::Physical(3));
        assert_eq!(message.delivery_mode, DeliveryMode::Fixed);
        assert_eq!(message.vector, 0x41);
        assert_eq!(message.trigger, Trigger::Edge);
    }

    #[test]
    fn an_msi_is_physical_or_logical_with_or_without_the_redirection_hint() {
        let destination = |address| Message::from_msi(address, 0x141).unwrap().destination;
        assert_eq!(destination(0xfee0_3000), Destination::Physical(3));
        assert_eq!(destination(0xfee0_3008), Destination::Physical(3));
        assert_eq!(destination(0xfee0_3004), Destination::Logical(3));
        assert_eq!(destination(0xfee0_300c), Destination::Logical(3));
        assert_eq!(destination(0xfeef_f000), Destination::Physical(Destination::BROADCAST));
    }

    #[test]
    fn what_no_device_may_send_is_no_message() {
        assert_eq!(Message::from_msi(0xfed0_3000, 0x41), None);
        assert_eq!(Message::from_msi(0x1_fee0_3000, 0x41), None);
        assert_eq!(Message::from_msi(0xfee0_3000, 0x341), None, "reserved mode");
        assert_eq!(Message::from_msi(0xfee0_3000, 0x641), None, "startup");
    }

    #[test]
    fn the_lowest_priority_candidate_wins_and_the_first_among_equals() {
        assert_eq!(lowest_priority([('a', 0x20), ('b', 0x10), ('c', 0x10)]), Some('b'));
        assert_eq!(lowest_priority::<char>([]), None);
    }
}
