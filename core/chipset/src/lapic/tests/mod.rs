//! The local APIC as processors, other APICs and operating systems see it.

mod delivery;
mod modes;
mod timer;
mod vectors;

use super::registers::*;
use super::*;
use crate::interrupt::{DeliveryMode, Destination, Trigger};

const NOW: Time = Time::from_nanos(1_000_000);

fn at(nanoseconds_later: u64) -> Time {
    NOW + Time::from_nanos(nanoseconds_later)
}

/// Enabled by software, in xAPIC mode.
fn xapic(id: u32) -> LocalApic {
    let mut apic = LocalApic::new(id, id == 0);
    assert_eq!(apic.write(SVR, 0x1ff, NOW), Effect::None);
    apic
}

fn x2apic(id: u32) -> LocalApic {
    let mut apic = LocalApic::new(id, id == 0);
    apic.set_base(apic.base() | BASE_EXTD).unwrap();
    assert_eq!(apic.write_msr(0x80f, 0x1ff, NOW), Ok(Effect::None));
    apic
}

fn fixed(vector: u8, destination: Destination) -> Message {
    Message { destination, delivery_mode: DeliveryMode::Fixed, vector, trigger: Trigger::Edge, assert: true }
}

fn deliver(apic: &mut LocalApic, vector: u8, trigger: Trigger) {
    let message = Message { trigger, ..fixed(vector, Destination::All) };
    assert!(apic.accepts(&message, None));
    assert_eq!(apic.deliver(&message), None);
}

fn sent(effect: Effect) -> Message {
    match effect {
        Effect::Send(message) => message,
        other => panic!("no message was sent but {other:?}"),
    }
}
