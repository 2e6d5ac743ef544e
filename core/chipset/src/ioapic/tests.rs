//! The IO-APIC as an operating system programs it.

use super::*;

fn program(io_apic: &mut IoApic, pin: u8, entry: u64) -> Vec<Message> {
    io_apic.write(IOREGSEL, u32::from(IOREDTBL + 2 * pin + 1));
    let mut messages = io_apic.write(IOWIN, (entry >> 32) as u32);
    io_apic.write(IOREGSEL, u32::from(IOREDTBL + 2 * pin));
    messages.extend(io_apic.write(IOWIN, entry as u32));
    messages
}

fn entry(io_apic: &mut IoApic, pin: u8) -> u64 {
    io_apic.write(IOREGSEL, u32::from(IOREDTBL + 2 * pin + 1));
    let high = io_apic.read(IOWIN);
    io_apic.write(IOREGSEL, u32::from(IOREDTBL + 2 * pin));
    u64::from(high) << 32 | u64::from(io_apic.read(IOWIN))
}

const LEVEL_0X51: u64 = 0x0100_0000_0000_8051;

#[test]
fn version_and_id_are_readable_and_only_the_id_writable() {
    let mut io_apic = IoApic::new();
    io_apic.write(IOREGSEL, 1);
    io_apic.write(IOWIN, 0);
    assert_eq!(io_apic.read(IOWIN), 0x0017_0020);
    io_apic.write(IOREGSEL, 0);
    io_apic.write(IOWIN, 0xffff_ffff);
    assert_eq!(io_apic.read(IOWIN), 0x0f00_0000);
    assert_eq!(io_apic.read(IOREGSEL), 0);
}

#[test]
fn every_pin_is_masked_after_reset() {
    let mut io_apic = IoApic::new();
    for pin in 0..PINS {
        assert_eq!(io_apic.set_line(pin, true), None);
    }
}

#[test]
fn virtual_wire_mode_is_found_at_the_first_pin() {
    let mut io_apic = IoApic::new();
    io_apic.enter_virtual_wire_mode();
    assert_eq!(entry(&mut io_apic, 0), 0x700);
    assert_eq!(entry(&mut io_apic, 1), MASKED);
    let state = io_apic.save();
    IoApic::new().restore(&state).unwrap();
}

#[test]
fn an_edge_sends_one_message() {
    let mut io_apic = IoApic::new();
    program(&mut io_apic, 4, 0x0200_0000_0000_0034);
    let message = io_apic.set_line(4, true).unwrap();
    assert_eq!(message.destination, Destination::Physical(2));
    assert_eq!((message.vector, message.trigger), (0x34, Trigger::Edge));
    assert_eq!(io_apic.set_line(4, true), None);
    assert_eq!(io_apic.set_line(4, false), None);
    assert!(io_apic.set_line(4, true).is_some());
}

#[test]
fn an_edge_at_a_masked_pin_is_lost() {
    let mut io_apic = IoApic::new();
    program(&mut io_apic, 4, MASKED | 0x34);
    assert_eq!(io_apic.set_line(4, true), None);
    assert_eq!(program(&mut io_apic, 4, 0x34), []);
}

#[test]
fn a_level_sends_again_only_after_its_end() {
    let mut io_apic = IoApic::new();
    program(&mut io_apic, 20, LEVEL_0X51);
    assert!(io_apic.set_line(20, true).is_some());
    assert_eq!(io_apic.set_line(20, false), None);
    assert_eq!(io_apic.set_line(20, true), None, "nobody ended the first");
    assert_eq!(entry(&mut io_apic, 20), LEVEL_0X51 | REMOTE_IRR);
    assert_eq!(io_apic.end_of_interrupt(0x52), []);
    assert_eq!(io_apic.end_of_interrupt(0x51).len(), 1);
    io_apic.set_line(20, false);
    assert_eq!(io_apic.write(EOIR, 0x51), []);
    assert_eq!(entry(&mut io_apic, 20), LEVEL_0X51);
}

#[test]
fn one_end_serves_all_pins_that_share_the_vector() {
    let mut io_apic = IoApic::new();
    for pin in [16, 17] {
        program(&mut io_apic, pin, LEVEL_0X51);
        assert!(io_apic.set_line(pin, true).is_some());
    }
    assert_eq!(io_apic.end_of_interrupt(0x51).len(), 2);
}

#[test]
fn a_level_at_a_masked_pin_waits() {
    let mut io_apic = IoApic::new();
    program(&mut io_apic, 20, MASKED | LEVEL_0X51);
    assert_eq!(io_apic.set_line(20, true), None);
    assert_eq!(program(&mut io_apic, 20, LEVEL_0X51).len(), 1);
    program(&mut io_apic, 20, MASKED | LEVEL_0X51);
    assert_eq!(io_apic.end_of_interrupt(0x51), [], "masked meanwhile");
    assert_eq!(program(&mut io_apic, 20, LEVEL_0X51).len(), 1);
}

#[test]
fn switching_to_edge_ends_a_level() {
    let mut io_apic = IoApic::new();
    program(&mut io_apic, 20, LEVEL_0X51);
    io_apic.set_line(20, true);
    program(&mut io_apic, 20, MASKED | 0x51);
    assert_eq!(entry(&mut io_apic, 20), MASKED | 0x51);
    assert_eq!(program(&mut io_apic, 20, LEVEL_0X51).len(), 1);
}

#[test]
fn an_nmi_or_extint_never_awaits_an_end() {
    let mut io_apic = IoApic::new();
    for (mode, expected) in [(4, DeliveryMode::Nmi), (7, DeliveryMode::ExtInt)] {
        program(&mut io_apic, 0, LEVEL_TRIGGERED | mode << 8);
        let message = io_apic.set_line(0, true).unwrap();
        assert_eq!(message.delivery_mode, expected);
        assert_eq!(message.trigger, Trigger::Edge);
        assert_eq!(entry(&mut io_apic, 0) & REMOTE_IRR, 0);
        io_apic.set_line(0, false);
    }
}

#[test]
fn reserved_bits_modes_registers_and_pins_do_nothing() {
    let mut io_apic = IoApic::new();
    program(&mut io_apic, 3, !MASKED);
    assert_eq!(entry(&mut io_apic, 3), WRITABLE & !MASKED);
    program(&mut io_apic, 3, 0x0300);
    assert_eq!(io_apic.set_line(3, true), None);
    for index in [0x03, 0x0f, 0x40, 0xff] {
        io_apic.write(IOREGSEL, index);
        assert_eq!(io_apic.write(IOWIN, 0), []);
        assert_eq!(io_apic.read(IOWIN), 0);
    }
    assert_eq!(io_apic.set_line(24, true), None);
    assert_eq!(io_apic.set_line(255, true), None);
}

#[test]
fn a_saved_state_behaves_like_the_original() {
    let mut io_apic = IoApic::new();
    program(&mut io_apic, 20, LEVEL_0X51);
    io_apic.set_line(20, true);
    let mut copy = IoApic::new();
    copy.restore(&io_apic.save()).unwrap();
    assert_eq!(copy, io_apic);
    assert_eq!(copy.end_of_interrupt(0x51).len(), 1);
}

#[test]
fn an_impossible_state_is_refused() {
    let good = IoApic::new().save();
    let mut io_apic = IoApic::new();
    for damage in [
        |state: &mut State| state.id = 16,
        |state: &mut State| state.lines = 1 << 24,
        |state: &mut State| state.redirection[5] = 1 << 12,
        |state: &mut State| state.redirection[5] = REMOTE_IRR,
    ] {
        let mut state = good.clone();
        damage(&mut state);
        assert!(io_apic.restore(&state).is_err());
    }
    assert_eq!(io_apic.save(), good);
}
