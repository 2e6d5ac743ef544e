//! The fixed registers as ACPI drivers use them.

use super::*;

const NOW: Time = Time::ZERO;

fn read_16(power: &mut Power, offset: u16) -> u16 {
    let mut data = [0; 2];
    power.read(offset, &mut data, NOW);
    u16::from_le_bytes(data)
}

fn write_16(power: &mut Power, offset: u16, value: u16) -> Option<SystemEvent> {
    power.write(offset, &value.to_le_bytes(), NOW)
}

#[test]
fn soft_off_switches_off() {
    let mut power = Power::new();
    assert_eq!(write_16(&mut power, PM1A_CONTROL, 5 << 10), None, "the type alone");
    assert_eq!(write_16(&mut power, PM1A_CONTROL, 5 << 10 | SLP_EN), Some(SystemEvent::PowerOff));
    let mut power = Power::new();
    assert_eq!(power.write(PM1A_CONTROL + 1, &[0x34], NOW), Some(SystemEvent::PowerOff));
}

#[test]
fn other_sleep_types_do_not_exist() {
    for sleep_type in [0, 1, 2, 3, 4, 6, 7] {
        let control = sleep_type << 10 | SLP_EN;
        assert_eq!(write_16(&mut Power::new(), PM1A_CONTROL, control), None);
    }
}

#[test]
fn the_machine_is_always_in_acpi_mode() {
    let mut power = Power::new();
    assert_eq!(read_16(&mut power, PM1A_CONTROL), SCI_EN);
    let _ = write_16(&mut power, PM1A_CONTROL, 0xfffe & !SLP_EN);
    assert_eq!(read_16(&mut power, PM1A_CONTROL), SCI_EN | CONTROL_WRITABLE);
}

#[test]
fn the_power_button_interrupts_once_enabled_until_cleared() {
    let mut power = Power::new();
    power.power_button();
    assert!(!power.interrupt());
    assert_eq!(read_16(&mut power, PM1A_EVENT), 0x100);
    let _ = write_16(&mut power, PM1A_EVENT + 2, 0x100);
    assert!(power.interrupt());
    let _ = write_16(&mut power, PM1A_EVENT, 0x001);
    assert!(power.interrupt(), "another event was cleared");
    let _ = write_16(&mut power, PM1A_EVENT, 0x100);
    assert!(!power.interrupt());
    assert_eq!(read_16(&mut power, PM1A_EVENT + 2), 0x100);
}

#[test]
fn unimplemented_events_cannot_be_enabled() {
    let mut power = Power::new();
    let _ = write_16(&mut power, PM1A_EVENT + 2, 0xffff);
    assert_eq!(read_16(&mut power, PM1A_EVENT + 2), 0x521);
}

#[test]
fn the_timer_counts_and_wraps() {
    let mut power = Power::new();
    let mut read = |ticks| {
        let mut data = [0; 4];
        power.read(PM_TIMER, &mut data, Time::of_ticks(ticks, PM_TIMER_FREQUENCY));
        u32::from_le_bytes(data)
    };
    assert_eq!([0, 1, 3_579_545].map(&mut read), [0, 1, 3_579_545]);
    assert_eq!(read((1 << 32) + 7), 7);
}

#[test]
fn the_timer_interrupts_when_its_highest_bit_changes() {
    let half = Time::of_ticks(1 << 31, PM_TIMER_FREQUENCY);
    let mut power = Power::new();
    assert_eq!(power.deadline(), None);
    let _ = write_16(&mut power, PM1A_EVENT + 2, 1);
    assert_eq!(power.deadline(), Some(half));
    power.poll(half - Time::from_nanos(1));
    assert!(!power.interrupt());
    power.poll(half);
    assert!(power.interrupt());
    let _ = power.write(PM1A_EVENT, &[1], half);
    assert!(!power.interrupt());
    assert_eq!(power.deadline(), Some(Time::of_ticks(2 << 31, PM_TIMER_FREQUENCY)));
}

#[test]
fn general_purpose_events_interrupt_like_fixed_ones() {
    let mut power = Power::new();
    power.raise_gpe(9);
    power.raise_gpe(16);
    assert_eq!(read_16(&mut power, GPE0), 1 << 9);
    let _ = write_16(&mut power, GPE0 + 2, 1 << 9);
    assert!(power.interrupt());
    let _ = write_16(&mut power, GPE0, 1 << 9);
    assert!(!power.interrupt());
}

#[test]
fn wide_and_straddling_accesses_touch_each_byte_once() {
    let mut power = Power::new();
    power.power_button();
    let _ = power.write(PM1A_EVENT, &[0, 0, 0x20, 0x01], NOW);
    let mut data = [0xff; 4];
    power.read(PM1A_EVENT + 1, &mut data, NOW);
    assert_eq!(data, [0x01, 0x20, 0x01, 0x01]);
    power.read(0x10, &mut data, NOW);
    assert_eq!(data, [0; 4]);
}

#[test]
fn the_reset_register_resets() {
    let mut register = ResetControl::new();
    assert_eq!(register.write(0x02), None);
    assert_eq!(register.read(), 0x02);
    assert_eq!(register.write(ResetControl::HARD_RESET), Some(SystemEvent::Reset));
    assert_eq!(register.write(0x04), Some(SystemEvent::Reset));
}

#[test]
fn a_saved_state_behaves_like_the_original_and_a_made_up_one_is_refused() {
    let mut power = Power::new();
    power.power_button();
    let _ = write_16(&mut power, PM1A_EVENT + 2, 0x100);
    let mut copy = Power::new();
    copy.restore(&power.save()).unwrap();
    assert_eq!(copy, power);
    for damage in [
        |state: &mut State| state.control = 0,
        |state: &mut State| state.control = SCI_EN | SLP_EN,
        |state: &mut State| state.status = Pm1::from_bits_retain(2),
    ] {
        let mut state = power.save();
        damage(&mut state);
        assert!(copy.restore(&state).is_err());
    }
    assert_eq!(copy, power);
}
