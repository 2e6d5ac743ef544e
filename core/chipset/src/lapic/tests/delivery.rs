//! Who gets a message, and what sends one.

use super::*;

#[test]
fn physical_destinations_name_one_or_all() {
    let apic = xapic(3);
    let accepts = |destination| apic.accepts(&fixed(0x40, destination), None);
    assert!(accepts(Destination::Physical(3)));
    assert!(!accepts(Destination::Physical(2)));
    assert!(accepts(Destination::from_8_bits(0xff, false)));
    assert!(!accepts(Destination::Physical(0xff)), "255 in 32 bits is an ID");
}

#[test]
fn a_processor_above_255_is_reachable_before_it_is_in_x2apic_mode() {
    let apic = xapic(300);
    assert!(apic.accepts(&fixed(0x40, Destination::Physical(300)), Some(0)));
    assert!(!apic.accepts(&fixed(0x40, Destination::Physical(44)), Some(0)));
}

#[test]
fn flat_logical_destinations_are_sets_of_eight() {
    let mut apic = xapic(1);
    let _ = apic.write(LDR, 0x02ff_ffff, NOW);
    assert_eq!(apic.read(LDR, NOW), 0x0200_0000);
    let accepts = |address| apic.accepts(&fixed(0x40, Destination::Logical(address)), None);
    assert!(accepts(0x02) && accepts(0x83) && accepts(Destination::BROADCAST));
    assert!(!accepts(0x01) && !accepts(0x100) && !accepts(0));
}

#[test]
fn cluster_logical_destinations_are_sets_of_four_in_a_cluster() {
    let mut apic = xapic(1);
    let _ = apic.write(LDR, 0x2200_0000, NOW);
    let _ = apic.write(DFR, 0, NOW);
    assert_eq!(apic.read(DFR, NOW), 0x0fff_ffff);
    let accepts = |address| apic.accepts(&fixed(0x40, Destination::Logical(address)), None);
    assert!(accepts(0x22) && accepts(0x2f) && accepts(Destination::BROADCAST));
    assert!(!accepts(0x12) && !accepts(0x21));
}

#[test]
fn x2apic_logical_destinations_are_sets_of_sixteen_in_a_cluster() {
    let mut apic = x2apic(0x25);
    assert_eq!(apic.read_msr(0x80d, NOW), Ok(0x0002_0020));
    let accepts = |address| apic.accepts(&fixed(0x40, Destination::Logical(address)), None);
    assert!(accepts(0x0002_0030) && accepts(Destination::BROADCAST));
    assert!(!accepts(0x0001_0020) && !accepts(0x0002_0010) && !accepts(0x20));
}

#[test]
fn shorthands_depend_on_the_sender() {
    let apic = xapic(3);
    let accepts = |destination, sender| apic.accepts(&fixed(0x40, destination), Some(sender));
    assert!(accepts(Destination::All, 3) && accepts(Destination::All, 1));
    assert!(accepts(Destination::Others, 1) && !accepts(Destination::Others, 3));
    assert!(accepts(Destination::Myself, 3) && !accepts(Destination::Myself, 1));
}

#[test]
fn the_disabled_take_no_part() {
    let mut apic = LocalApic::new(0, true);
    let vector = fixed(0x40, Destination::All);
    let nmi = Message { delivery_mode: DeliveryMode::Nmi, ..vector };
    assert!(!apic.accepts(&vector, None), "disabled by software");
    assert!(apic.accepts(&nmi, None));
    apic.set_base(0xfee0_0100).unwrap();
    assert!(!apic.accepts(&nmi, None), "disabled altogether");
}

// --- Messages out and in ---

#[test]
fn the_interrupt_command_register_sends() {
    let mut apic = xapic(0);
    let _ = apic.write(ICR_HIGH, 0x0200_0000, NOW);
    let message = sent(apic.write(ICR_LOW, 0x0000_4041, NOW));
    assert_eq!(message, fixed(0x41, Destination::Physical(2)));
    let message = sent(apic.write(ICR_LOW, 0x0000_4941, NOW));
    assert_eq!(message.destination, Destination::Logical(2));
    assert_eq!(message.delivery_mode, DeliveryMode::LowestPriority);
    let message = sent(apic.write(ICR_LOW, 0x000c_4400, NOW));
    assert_eq!(message.destination, Destination::Others);
    assert_eq!(message.delivery_mode, DeliveryMode::Nmi);
    assert_eq!(apic.read(ICR_HIGH, NOW), 0x0200_0000);
    assert_eq!(apic.read(ICR_LOW, NOW), 0x000c_4400);
}

#[test]
fn init_and_startup_wake_a_processor() {
    let mut sender = xapic(0);
    let mut receiver = LocalApic::new(1, false);
    let _ = sender.write(ICR_HIGH, 0x0100_0000, NOW);
    let mut signal = |command| {
        let message = sent(sender.write(ICR_LOW, command, NOW));
        assert!(receiver.accepts(&message, Some(0)));
        receiver.deliver(&message)
    };
    assert_eq!(signal(0x0000_c500), Some(Signal::Init));
    assert_eq!(signal(0x0000_8500), None, "INIT level de-assert");
    assert_eq!(signal(0x0000_4699), Some(Signal::Startup(0x99)));
}

#[test]
fn x2apic_sends_with_one_write_to_32_bit_destinations() {
    let mut apic = x2apic(0);
    let effect = apic.write_msr(0x830, 0x0000_0123_0000_0041, NOW).unwrap();
    assert_eq!(sent(effect), fixed(0x41, Destination::Physical(0x123)));
    assert_eq!(apic.read_msr(0x830, NOW), Ok(0x0000_0123_0000_0041));
    let effect = apic.write_msr(0x830, 0x0002_0003_0000_0841, NOW).unwrap();
    assert_eq!(sent(effect), fixed(0x41, Destination::Logical(0x0002_0003)));
    assert_eq!(apic.write_msr(0x831, 0, NOW), Err(GeneralProtection));
}

#[test]
fn interrupts_to_oneself_arrive_without_routing() {
    let mut apic = x2apic(0);
    assert_eq!(apic.write_msr(0x83f, 0x61, NOW), Ok(Effect::None));
    assert_eq!(apic.pending(), Some(0x61));
    assert_eq!(apic.write_msr(0x830, 0x0004_0062, NOW), Ok(Effect::None));
    assert_eq!(apic.pending(), Some(0x62));
    let mut apic = xapic(0);
    assert_eq!(apic.write(ICR_LOW, 0x0004_4063, NOW), Effect::None);
    assert_eq!(apic.pending(), Some(0x63));
}

#[test]
fn messages_past_the_vectors_are_signals() {
    let mut apic = xapic(0);
    for (delivery_mode, signal) in [
        (DeliveryMode::Nmi, Signal::Nmi),
        (DeliveryMode::Smi, Signal::Smi),
        (DeliveryMode::ExtInt, Signal::ExtInt),
    ] {
        let message = Message { delivery_mode, ..fixed(0, Destination::All) };
        assert_eq!(apic.deliver(&message), Some(signal));
    }
    assert_eq!(apic.pending(), None);
}

// --- Errors ---

#[test]
fn illegal_vectors_and_registers_are_recorded_and_interrupt_once() {
    let mut apic = xapic(0);
    let _ = apic.write(LVT_LAST, 0xfe, NOW);
    assert_eq!(apic.write(ICR_LOW, 0x000c_400f, NOW), Effect::None);
    assert_eq!(apic.acknowledge(), Some(0xfe));
    apic.deliver(&fixed(3, Destination::All));
    assert_eq!(apic.read(0x3a0, NOW), 0);
    assert_eq!(apic.pending(), None, "one interrupt until the ESR is written");
    assert_eq!(apic.read(ESR, NOW), 0);
    let _ = apic.write(ESR, 0, NOW);
    assert_eq!(apic.read(ESR, NOW), 0xe0);
    let _ = apic.write(ESR, 0, NOW);
    assert_eq!(apic.read(ESR, NOW), 0);
}

#[test]
fn an_error_interrupt_with_an_illegal_vector_ends() {
    let mut apic = xapic(0);
    let _ = apic.write(LVT_LAST, 0x05, NOW);
    apic.deliver(&fixed(3, Destination::All));
    assert_eq!(apic.pending(), None);
}

// --- Local vector table ---

#[test]
fn lint_pins_do_what_their_entries_say() {
    let mut apic = xapic(0);
    assert_eq!(apic.raise(LocalInterrupt::Lint1), None, "masked after reset");
    let _ = apic.write(0x360, 0x400, NOW);
    assert_eq!(apic.raise(LocalInterrupt::Lint1), Some(Signal::Nmi));
    let _ = apic.write(0x350, 0x00b0, NOW);
    assert_eq!(apic.raise(LocalInterrupt::Lint0), None);
    assert_eq!(apic.pending(), Some(0xb0));
}

#[test]
fn the_8259_arrives_through_lint0_or_past_a_disabled_apic() {
    let mut apic = xapic(0);
    assert!(!apic.accepts_extint());
    let _ = apic.write(0x350, 0x700, NOW);
    assert!(apic.accepts_extint());
    let _ = apic.write(0x350, 0x1_0700, NOW);
    assert!(!apic.accepts_extint());
    apic.set_base(0xfee0_0100).unwrap();
    assert!(apic.accepts_extint());
    let mut other = LocalApic::new(1, false);
    other.set_base(0xfee0_0000).unwrap();
    assert!(!other.accepts_extint());
}

#[test]
fn virtual_wire_mode_lets_the_8259_and_nmis_through() {
    let mut apic = LocalApic::new(0, true);
    apic.enter_virtual_wire_mode();
    assert!(apic.accepts_extint());
    assert_eq!(apic.raise(LocalInterrupt::Lint1), Some(Signal::Nmi));
    apic.init();
    assert!(!apic.accepts_extint());
}

#[test]
fn disabling_by_software_masks_the_table_and_keeps_it_masked() {
    let mut apic = xapic(0);
    let _ = apic.write(0x360, 0x400, NOW);
    let _ = apic.write(SVR, 0xff, NOW);
    assert_eq!(apic.read(0x360, NOW), 0x1_0400);
    let _ = apic.write(0x360, 0x400, NOW);
    assert_eq!(apic.read(0x360, NOW), 0x1_0400);
}
