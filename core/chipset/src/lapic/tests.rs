//! The local APIC as processors, other APICs and operating systems see it.

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

// --- Priorities and acknowledgement ---

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

// --- Who is addressed ---

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

// --- Timer ---

#[test]
fn one_shot_counts_down_fires_once_and_stops() {
    let mut apic = xapic(0);
    let _ = apic.write(DIVIDE_CONFIGURATION, 0x3, NOW); // by 16
    let _ = apic.write(0x320, 0x30, NOW);
    let _ = apic.write(INITIAL_COUNT, 1000, NOW);
    assert_eq!(apic.deadline(), Some(at(16_000)));
    assert_eq!(apic.read(CURRENT_COUNT, NOW), 1000);
    assert_eq!(apic.read(CURRENT_COUNT, at(1600)), 900);
    apic.poll(at(15_999), 0);
    assert_eq!((apic.pending(), apic.read(CURRENT_COUNT, at(15_999))), (None, 1));
    apic.poll(at(16_000), 0);
    assert_eq!(apic.acknowledge(), Some(0x30));
    assert_eq!((apic.deadline(), apic.read(CURRENT_COUNT, at(16_000))), (None, 0));
    assert_eq!(apic.read(INITIAL_COUNT, NOW), 1000);
}

#[test]
fn every_divider_divides() {
    for (configuration, divider) in
        [(0x0, 2), (0x1, 4), (0x2, 8), (0x3, 16), (0x8, 32), (0x9, 64), (0xa, 128), (0xb, 1)]
    {
        let mut apic = xapic(0);
        let _ = apic.write(0x320, 0x30, NOW);
        let _ = apic.write(DIVIDE_CONFIGURATION, configuration | 0xf4, NOW);
        assert_eq!(apic.read(DIVIDE_CONFIGURATION, NOW), configuration);
        let _ = apic.write(INITIAL_COUNT, 10_000, NOW);
        assert_eq!(apic.deadline(), Some(at(10_000 * divider)));
    }
}

#[test]
fn changing_the_divider_keeps_the_count() {
    let mut apic = xapic(0);
    let _ = apic.write(0x320, 0x30, NOW);
    let _ = apic.write(DIVIDE_CONFIGURATION, 0xb, NOW);
    let _ = apic.write(INITIAL_COUNT, 1000, NOW);
    let _ = apic.write(DIVIDE_CONFIGURATION, 0x0, at(600));
    assert_eq!(apic.read(CURRENT_COUNT, at(600)), 400);
    assert_eq!(apic.deadline(), Some(at(600 + 800)));
}

#[test]
fn periodic_fires_every_period_and_merges_what_was_missed() {
    let mut apic = xapic(0);
    let _ = apic.write(DIVIDE_CONFIGURATION, 0xb, NOW);
    let _ = apic.write(0x320, 0x2_0030, NOW);
    let _ = apic.write(INITIAL_COUNT, 20_000, NOW);
    apic.poll(at(20_000), 0);
    assert_eq!(apic.acknowledge(), Some(0x30));
    let _ = apic.write(EOI, 0, NOW);
    assert_eq!(apic.deadline(), Some(at(40_000)));
    apic.poll(at(105_000), 0);
    assert_eq!(apic.acknowledge(), Some(0x30));
    let _ = apic.write(EOI, 0, NOW);
    assert_eq!((apic.pending(), apic.deadline()), (None, Some(at(120_000))));
    assert_eq!(apic.read(CURRENT_COUNT, at(125_000)), 15_000, "counts on unpolled");
}

#[test]
fn a_period_too_short_to_serve_is_stretched() {
    let mut apic = xapic(0);
    let _ = apic.write(DIVIDE_CONFIGURATION, 0xb, NOW);
    let _ = apic.write(0x320, 0x2_0030, NOW);
    let _ = apic.write(INITIAL_COUNT, 1, NOW);
    apic.poll(at(10_000), 0);
    assert_eq!(apic.deadline(), Some(at(20_000)));
    assert_eq!(apic.read(CURRENT_COUNT, at(10_001)), 1);
}

#[test]
fn a_masked_timer_counts_silently() {
    let mut apic = xapic(0);
    let _ = apic.write(DIVIDE_CONFIGURATION, 0xb, NOW);
    let _ = apic.write(0x320, 0x1_0030, NOW);
    let _ = apic.write(INITIAL_COUNT, 1000, NOW);
    assert_eq!(apic.deadline(), None);
    assert_eq!(apic.read(CURRENT_COUNT, at(400)), 600);
    let _ = apic.write(0x320, 0x30, at(2000));
    apic.poll(at(2000), 0);
    assert_eq!(apic.pending(), None, "it ended while masked");
}

#[test]
fn writing_zero_stops_the_count() {
    let mut apic = xapic(0);
    let _ = apic.write(0x320, 0x30, NOW);
    let _ = apic.write(INITIAL_COUNT, 1000, NOW);
    let _ = apic.write(INITIAL_COUNT, 0, at(10));
    assert_eq!(apic.deadline(), None);
    apic.poll(at(1 << 40), 0);
    assert_eq!(apic.pending(), None);
}

#[test]
fn tsc_deadline_fires_when_the_tsc_gets_there() {
    let mut apic = xapic(0);
    apic.set_tsc_deadline(5000, 100);
    assert_eq!(apic.tsc_deadline(), None, "not in this mode yet");
    let _ = apic.write(0x320, 0x4_0030, NOW);
    apic.set_tsc_deadline(5000, 100);
    assert_eq!(apic.tsc_deadline(), Some(5000));
    apic.poll(at(1 << 40), 4999);
    assert_eq!(apic.pending(), None);
    apic.poll(NOW, 5000);
    assert_eq!((apic.acknowledge(), apic.tsc_deadline()), (Some(0x30), None));
    let _ = apic.write(EOI, 0, NOW);
    apic.set_tsc_deadline(50, 5000);
    assert_eq!(apic.acknowledge(), Some(0x30), "a deadline of the past fires at once");
    let _ = apic.write(EOI, 0, NOW);
    apic.set_tsc_deadline(9000, 5000);
    apic.set_tsc_deadline(0, 5001);
    apic.poll(NOW, 10_000);
    assert_eq!(apic.pending(), None, "disarmed");
}

#[test]
fn leaving_or_entering_tsc_deadline_mode_disarms() {
    let mut apic = xapic(0);
    let _ = apic.write(0x320, 0x30, NOW);
    let _ = apic.write(INITIAL_COUNT, 1000, NOW);
    let _ = apic.write(0x320, 0x4_0030, NOW);
    assert_eq!(apic.deadline(), None);
    let _ = apic.write(INITIAL_COUNT, 1000, NOW);
    assert_eq!((apic.deadline(), apic.read(INITIAL_COUNT, NOW)), (None, 0));
    apic.set_tsc_deadline(5000, 0);
    let _ = apic.write(0x320, 0x30, NOW);
    assert_eq!(apic.tsc_deadline(), None);
}

// --- Modes ---

#[test]
fn the_base_msr_allows_just_the_documented_mode_changes() {
    const DISABLED: u64 = 0xfee0_0100;
    const XAPIC: u64 = 0xfee0_0900;
    const X2APIC: u64 = 0xfee0_0d00;
    const INVALID: u64 = 0xfee0_0500;
    let reach = |path: &[u64]| {
        let mut apic = LocalApic::new(0, true);
        path.iter().try_for_each(|base| apic.set_base(*base))
    };
    for allowed in
        [&[XAPIC, X2APIC, X2APIC, DISABLED, DISABLED, XAPIC][..], &[DISABLED, XAPIC, X2APIC], &[0xfed0_0900]]
    {
        assert_eq!(reach(allowed), Ok(()), "{allowed:x?}");
    }
    for refused in [
        &[X2APIC, XAPIC][..],
        &[DISABLED, X2APIC],
        &[INVALID],
        &[DISABLED, INVALID],
        &[X2APIC, INVALID],
        &[XAPIC | 1],
        &[XAPIC | 1 << 9],
        &[XAPIC | 1 << 52],
    ] {
        assert_eq!(reach(refused), Err(GeneralProtection), "{refused:x?}");
    }
}

#[test]
fn the_registers_are_where_the_mode_puts_them() {
    let mut apic = xapic(7);
    assert_eq!(apic.mmio_base(), Some(0xfee0_0000));
    assert_eq!(apic.read(ID, NOW), 0x0700_0000);
    assert_eq!(apic.read_msr(0x802, NOW), Err(GeneralProtection));
    apic.set_base(0xfee0_0c00).unwrap();
    assert_eq!(apic.mmio_base(), None);
    assert_eq!(apic.read_msr(0x802, NOW), Ok(7));
    apic.set_base(0xfee0_0000).unwrap();
    assert_eq!(apic.mmio_base(), None);
    assert!(!apic.is_enabled());
}

#[test]
fn disabling_resets_but_entering_x2apic_mode_keeps() {
    let mut apic = xapic(0);
    deliver(&mut apic, 0x41, Trigger::Edge);
    apic.set_base(0xfee0_0d00).unwrap();
    assert_eq!(apic.pending(), Some(0x41));
    apic.set_base(0xfee0_0100).unwrap();
    apic.set_base(0xfee0_0900).unwrap();
    assert_eq!(apic, LocalApic::new(0, true));
}

#[test]
fn init_keeps_id_and_mode() {
    let mut apic = x2apic(300);
    assert_eq!(apic.write_msr(0x808, 0x50, NOW), Ok(Effect::None));
    apic.init();
    assert!(apic.is_x2apic());
    assert_eq!(apic.id(), 300);
    assert_eq!(apic.read_msr(0x808, NOW), Ok(0));
    assert_eq!(apic.read_msr(0x80f, NOW), Ok(0xff));
}

#[test]
fn x2apic_refuses_what_it_does_not_have() {
    let mut apic = x2apic(0);
    for unreadable in [0x800, 0x801, 0x809, 0x80b, 0x80c, 0x80e, 0x82f, 0x831, 0x83a, 0x83f] {
        assert_eq!(apic.read_msr(unreadable, NOW), Err(GeneralProtection), "{unreadable:x}");
    }
    for unwritable in [0x802, 0x803, 0x80a, 0x80d, 0x810, 0x818, 0x820, 0x82f, 0x831, 0x839] {
        assert_eq!(apic.write_msr(unwritable, 0, NOW), Err(GeneralProtection), "{unwritable:x}");
    }
    for (msr, reserved) in [
        (0x808, 0x100),
        (0x80b, 1),
        (0x80f, 0x1000),
        (0x828, 1),
        (0x830, 1 << 20),
        (0x832, 0x400),
        (0x837, 0x400),
        (0x838, 1 << 32),
        (0x83e, 4),
        (0x83f, 0x100),
    ] {
        assert_eq!(apic.write_msr(msr, reserved, NOW), Err(GeneralProtection), "{msr:x}");
    }
    for outside in [0x7ff, 0x840, 0, u32::MAX] {
        assert_eq!(apic.read_msr(outside, NOW), Err(GeneralProtection));
    }
}

#[test]
fn read_only_registers_ignore_writes() {
    let mut apic = xapic(1);
    let before = apic.clone();
    for offset in [ID, VERSION, APR, PPR, RRD, ISR, TMR + 0x70, IRR, CURRENT_COUNT] {
        let _ = apic.write(offset, u32::MAX, NOW);
    }
    assert_eq!(apic, before);
}

#[test]
fn any_access_in_the_page_is_survived() {
    for offset in 0..0x1000 {
        let mut apic = xapic(1);
        let _ = apic.write(offset, u32::MAX, NOW);
        let _ = apic.read(offset, at(u64::MAX));
        apic.poll(at(u64::MAX), u64::MAX);
    }
}

// --- Saved state ---

#[test]
fn a_saved_state_behaves_like_the_original() {
    let mut apic = xapic(0);
    deliver(&mut apic, 0x31, Trigger::Level);
    apic.acknowledge();
    let _ = apic.write(0x320, 0x2_0030, NOW);
    let _ = apic.write(INITIAL_COUNT, 123_456, NOW);
    let mut copy = LocalApic::new(0, true);
    copy.restore(&apic.save()).unwrap();
    assert_eq!(copy, apic);
}

#[test]
fn an_impossible_state_is_refused() {
    let good = xapic(0).save();
    let mut apic = xapic(0);
    for (index, damage) in [
        |state: &mut State| state.id = 1,
        |state: &mut State| state.base = 0xfee0_0500,
        |state: &mut State| state.base |= 1,
        |state: &mut State| state.svr = 1 << 12,
        |state: &mut State| state.ldr = 1,
        |state: &mut State| state.dfr = 0,
        |state: &mut State| state.lvt[0] = 1 << 19,
        |state: &mut State| state.irr.insert(15),
        |state: &mut State| state.timer.divide_configuration = 4,
        |state: &mut State| state.timer.tsc_deadline = 1,
        |state: &mut State| {
            state.lvt[0] = 0x4_0030;
            state.timer.expiry = Some(NOW);
        },
    ]
    .into_iter()
    .enumerate()
    {
        let mut state = good.clone();
        damage(&mut state);
        assert!(apic.restore(&state).is_err(), "damage {index}");
    }
    assert_eq!(apic.save(), good);
}
