//! Which interrupt is taken, and what the registers show of it.

use super::*;

#[test]
fn the_highest_vector_is_taken_first_and_holds_back_its_class() {
    let mut apic = xapic(0);
    deliver(&mut apic, 0x41, Trigger::Edge);
    deliver(&mut apic, 0x45, Trigger::Edge);
    assert_eq!(apic.acknowledge(), Some(0x45));
    assert_eq!(apic.pending(), None, "the same class");
    assert_eq!(apic.processor_priority(), 0x40);
    deliver(&mut apic, 0x51, Trigger::Edge);
    assert_eq!(apic.acknowledge(), Some(0x51));
    assert_eq!(apic.write(EOI, 0, NOW), Effect::None);
    assert_eq!(apic.pending(), None);
    assert_eq!(apic.write(EOI, 0, NOW), Effect::None);
    assert_eq!(apic.acknowledge(), Some(0x41));
}

#[test]
fn the_task_priority_holds_back_its_class_and_below() {
    let mut apic = xapic(0);
    deliver(&mut apic, 0x4f, Trigger::Edge);
    apic.set_cr8(4);
    assert_eq!((apic.pending(), apic.read(TPR, NOW)), (None, 0x40));
    apic.set_cr8(3);
    assert_eq!(apic.pending(), Some(0x4f));
    let _ = apic.write(TPR, 0x35, NOW);
    assert_eq!(apic.cr8(), 3);
    assert_eq!(apic.read(PPR, NOW), 0x35);
}

#[test]
fn registers_show_what_is_requested_in_service_and_level_triggered() {
    let mut apic = xapic(0);
    deliver(&mut apic, 0x31, Trigger::Level);
    deliver(&mut apic, 0xff, Trigger::Edge);
    assert_eq!(apic.read(IRR + 0x10, NOW), 1 << 0x11);
    assert_eq!(apic.read(IRR + 0x70, NOW), 1 << 31);
    assert_eq!(apic.read(TMR + 0x10, NOW), 1 << 0x11);
    assert_eq!(apic.acknowledge(), Some(0xff));
    assert_eq!(apic.read(ISR + 0x70, NOW), 1 << 31);
    assert_eq!(apic.read(IRR + 0x70, NOW), 0);
}

#[test]
fn only_the_end_of_a_level_is_broadcast() {
    let mut apic = xapic(0);
    deliver(&mut apic, 0x31, Trigger::Level);
    apic.acknowledge();
    assert_eq!(apic.write(EOI, 0, NOW), Effect::EndOfInterrupt(0x31));
    deliver(&mut apic, 0x31, Trigger::Edge);
    apic.acknowledge();
    assert_eq!(apic.write(EOI, 0, NOW), Effect::None);
    assert_eq!(apic.write(EOI, 0, NOW), Effect::None, "nothing in service");
}

#[test]
fn every_vector_can_be_requested_and_taken() {
    let mut apic = xapic(0);
    for vector in 16..=255 {
        deliver(&mut apic, vector, Trigger::Edge);
        assert_eq!(apic.acknowledge(), Some(vector));
        let _ = apic.write(EOI, 0, NOW);
    }
}
