//! The timer as operating systems program it.

use super::*;

const START: Time = Time::from_nanos(5_000_000);

/// The first moment at which `ticks` ticks have passed since [`START`].
fn after(ticks: u64) -> Time {
    START + Time::of_ticks(ticks, FREQUENCY)
}

/// A channel programmed with a mode and a 16-bit count.
fn program(pit: &mut Pit, channel: u16, mode: u8, count: u16, now: Time) {
    pit.write(CONTROL, (channel as u8) << 6 | 0x30 | mode << 1, now);
    let [low, high] = count.to_le_bytes();
    pit.write(0x40 + channel, low, now);
    pit.write(0x40 + channel, high, now);
}

fn latch_and_read(pit: &mut Pit, channel: u16, now: Time) -> u16 {
    pit.write(CONTROL, (channel as u8) << 6, now);
    let low = pit.read(0x40 + channel, now);
    u16::from_le_bytes([low, pit.read(0x40 + channel, now)])
}

fn out_2(pit: &mut Pit, now: Time) -> bool {
    pit.read(NMI_STATUS, now) & OUT_2 != 0
}

#[test]
fn a_rate_generator_interrupts_once_per_period() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 11_932, START);
    assert!(!pit.poll(START));
    for period in 1..5 {
        assert_eq!(pit.deadline(), Some(after(period * 11_932)));
        assert!(!pit.poll(after(period * 11_932 - 1)));
        assert!(pit.poll(after(period * 11_932)));
        assert!(!pit.poll(after(period * 11_932)));
    }
}

#[test]
fn missed_periods_are_merged_and_the_phase_kept() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 3, 1000, START);
    assert!(pit.poll(after(7500)));
    assert!(!pit.poll(after(7999)));
    assert_eq!(pit.deadline(), Some(after(8000)));
}

#[test]
fn a_rate_too_high_to_serve_is_lowered() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 1, START);
    assert!(pit.poll(after(100)));
    assert!(pit.deadline().unwrap() >= after(100));
    assert!(!pit.poll(after(101)));
}

#[test]
fn one_shots_interrupt_once() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 0, 500, START);
    assert!(!pit.irq0(after(499)));
    assert_eq!(pit.deadline(), Some(after(500)));
    assert!(pit.poll(after(500)) && pit.irq0(after(500)));
    assert_eq!(pit.deadline(), None);
    assert!(!pit.poll(after(100_000)));

    program(&mut pit, 0, 4, 500, START);
    assert!(pit.irq0(after(499)) && !pit.irq0(after(500)) && pit.irq0(after(501)));
    assert!(!pit.poll(after(500)) && pit.poll(after(501)));
    assert_eq!(pit.deadline(), None);
    pit.write(0x40, 10, after(600));
    pit.write(0x40, 0, after(600));
    assert!(pit.deadline().is_some(), "a new count starts over");
}

#[test]
fn a_mode_without_a_count_does_nothing() {
    let mut pit = Pit::new();
    assert_eq!(pit.deadline(), None);
    program(&mut pit, 0, 2, 1000, START);
    pit.write(CONTROL, 0x34, START);
    pit.write(0x40, 1, START);
    assert_eq!(pit.deadline(), None);
    assert!(!pit.poll(after(100_000)));
}

#[test]
fn the_output_follows_the_mode() {
    let mut pit = Pit::new();
    let mut shape = |mode, count| {
        program(&mut pit, 0, mode, count, START);
        let mut shape = [false; 10];
        for (tick, level) in (0..).zip(&mut shape) {
            *level = pit.irq0(after(tick));
        }
        shape.map(|level| if level { '-' } else { '_' })
    };
    assert_eq!(shape(0, 4), ['_', '_', '_', '_', '-', '-', '-', '-', '-', '-']);
    assert_eq!(shape(2, 4), ['-', '-', '-', '_', '-', '-', '-', '_', '-', '-']);
    assert_eq!(shape(3, 4), ['-', '-', '_', '_', '-', '-', '_', '_', '-', '-']);
    assert_eq!(shape(3, 5), ['-', '-', '-', '_', '_', '-', '-', '-', '_', '_']);
    assert_eq!(shape(4, 4), ['-', '-', '-', '-', '_', '-', '-', '-', '-', '-']);
}

#[test]
fn the_count_follows_the_mode() {
    let mut pit = Pit::new();
    let mut counts = |mode, count, ticks: [u64; 4]| {
        program(&mut pit, 0, mode, count, START);
        ticks.map(|tick| latch_and_read(&mut pit, 0, after(tick)))
    };
    assert_eq!(counts(0, 4, [0, 3, 4, 5]), [4, 1, 0, 0xffff]);
    assert_eq!(counts(0, 0, [0, 1, 65_536, 65_537]), [0, 0xffff, 0, 0xffff]);
    assert_eq!(counts(2, 4, [0, 3, 4, 7]), [4, 1, 4, 1]);
    assert_eq!(counts(3, 8, [0, 3, 4, 7]), [8, 2, 8, 2]);
    assert_eq!(counts(3, 5, [0, 2, 3, 4]), [4, 0, 4, 2]);
}

#[test]
fn decimal_counters_count_in_digits() {
    let mut pit = Pit::new();
    pit.write(CONTROL, 0x31, START);
    pit.write(0x40, 0x00, START);
    pit.write(0x40, 0x10, START);
    assert_eq!(latch_and_read(&mut pit, 0, after(1)), 0x0999);
    assert_eq!(latch_and_read(&mut pit, 0, after(1001)), 0x9999);
    pit.write(CONTROL, 0x35, START);
    pit.write(0x40, 0, START);
    pit.write(0x40, 0, START);
    assert_eq!(pit.deadline(), Some(after(10_000)), "zero is ten thousand");
}

#[test]
fn single_byte_access_reads_and_writes_that_byte() {
    let mut pit = Pit::new();
    pit.write(CONTROL, 0x14, START);
    pit.write(0x40, 100, START);
    assert_eq!(pit.deadline(), Some(after(100)));
    assert_eq!((pit.read(0x40, after(1)), pit.read(0x40, after(2))), (99, 98));
    pit.write(CONTROL, 0x24, START);
    pit.write(0x40, 2, START);
    assert_eq!(pit.deadline(), Some(after(512)));
    assert_eq!((pit.read(0x40, after(1)), pit.read(0x40, after(257))), (1, 0));
}

#[test]
fn a_latched_count_stays_until_it_is_read() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 1000, START);
    pit.write(CONTROL, 0x00, after(10));
    pit.write(CONTROL, 0x00, after(20));
    assert_eq!(pit.read(0x40, after(30)), 990u16.to_le_bytes()[0]);
    assert_eq!(pit.read(0x40, after(30)), 990u16.to_le_bytes()[1]);
    assert_eq!(latch_and_read(&mut pit, 0, after(30)), 970);
}

#[test]
fn read_back_gives_status_then_count() {
    let mut pit = Pit::new();
    pit.write(CONTROL, 0x34, START);
    pit.write(CONTROL, 0xe2, START);
    assert_eq!(pit.read(0x40, START), 0xf4, "output high, no count yet, both bytes, mode 2");
    program(&mut pit, 0, 0, 1000, START);
    pit.write(CONTROL, 0xc2, after(10));
    assert_eq!(pit.read(0x40, after(20)), 0x30);
    assert_eq!(pit.read(0x40, after(20)), 990u16.to_le_bytes()[0]);
    assert_eq!(pit.read(0x40, after(20)), 990u16.to_le_bytes()[1]);
    pit.write(CONTROL, 0xe8, after(10));
    pit.write(CONTROL, 0xee, after(10));
    assert_eq!(pit.read(0x41, after(10)), 0x70, "every selected channel");
}

#[test]
fn channel_2_measures_a_clock_through_port_0x61() {
    // What Linux does to calibrate its TSC: gate high, mode 0, wait for the output.
    let mut pit = Pit::new();
    pit.write(NMI_STATUS, GATE_2, START);
    program(&mut pit, 2, 0, 59_659, START);
    assert!(!out_2(&mut pit, after(59_658)));
    assert!(out_2(&mut pit, after(59_659)));
    assert_eq!(pit.read(NMI_STATUS, START) & 0x0f, GATE_2);
    assert_eq!(latch_and_read(&mut pit, 2, after(659)), 59_000);
}

#[test]
fn a_low_gate_holds_up_the_count() {
    let mut pit = Pit::new();
    program(&mut pit, 2, 0, 1000, START);
    assert_eq!(latch_and_read(&mut pit, 2, after(400)), 1000);
    pit.write(NMI_STATUS, GATE_2, after(500));
    assert!(!out_2(&mut pit, after(1400)));
    pit.write(NMI_STATUS, 0, after(1400));
    pit.write(NMI_STATUS, GATE_2, after(2000));
    assert!(!out_2(&mut pit, after(2098)) && out_2(&mut pit, after(2102)));
}

#[test]
fn a_rising_gate_triggers_or_restarts() {
    let mut pit = Pit::new();
    program(&mut pit, 2, 1, 1000, START);
    assert!(out_2(&mut pit, after(5000)), "not triggered");
    pit.write(NMI_STATUS, GATE_2, after(5000));
    assert!(!out_2(&mut pit, after(5001)) && out_2(&mut pit, after(6002)));

    pit.write(NMI_STATUS, 0, START);
    program(&mut pit, 2, 3, 1000, START);
    assert!(out_2(&mut pit, after(700)), "a low gate holds the output high");
    pit.write(NMI_STATUS, GATE_2, after(700));
    assert!(out_2(&mut pit, after(1100)) && !out_2(&mut pit, after(1300)));

    program(&mut pit, 2, 5, 1000, START);
    pit.write(NMI_STATUS, 0, START);
    pit.write(NMI_STATUS, GATE_2, START);
    assert!(out_2(&mut pit, after(999)) && !out_2(&mut pit, after(1000)));
}

#[test]
fn the_refresh_bit_toggles() {
    let mut pit = Pit::new();
    let mut bit = |nanos| pit.read(NMI_STATUS, Time::from_nanos(nanos)) & REFRESH_TOGGLE != 0;
    assert!(!bit(0) && bit(REFRESH) && !bit(2 * REFRESH));
}

#[test]
fn any_access_at_any_time_is_survived() {
    for control in 0..=255 {
        for value in [0, 1, 0x5a, 0xff] {
            let mut pit = Pit::new();
            pit.write(CONTROL, control, START);
            for port in [0x40, 0x41, 0x42, 0x61, 0x40, 0x41, 0x42] {
                pit.write(port, value, START);
                pit.read(port, Time::from_nanos(u64::MAX));
            }
            pit.poll(Time::from_nanos(u64::MAX));
            assert!(pit.deadline().is_none_or(|next| next > START));
            // Time that runs backwards is the owner's error, but no reason to fall over.
            pit.read(0x40, Time::ZERO);
        }
    }
}

#[test]
fn a_saved_state_behaves_like_the_original() {
    let mut pit = Pit::new();
    program(&mut pit, 0, 2, 1000, START);
    pit.poll(after(2500));
    pit.write(NMI_STATUS, 3, START);
    pit.write(CONTROL, 0, after(2600));
    let mut copy = Pit::new();
    copy.restore(&pit.save()).unwrap();
    assert_eq!(copy, pit);
    assert_eq!(copy.deadline(), Some(after(3000)));
}

#[test]
fn an_impossible_state_is_refused() {
    let good = Pit::new().save();
    let mut pit = Pit::new();
    for (index, damage) in [
        |state: &mut State| state.channels[0].mode = 6,
        |state: &mut State| state.channels[1].reload = 0,
        |state: &mut State| state.channels[1].reload = 0x1_0001,
        |state: &mut State| {
            state.channels[1].bcd = true;
            state.channels[1].reload = 10_001;
        },
        |state: &mut State| state.channels[0].gate = false,
        |state: &mut State| state.channels[2].gate = true,
        |state: &mut State| state.nmi_control = 0x10,
    ]
    .into_iter()
    .enumerate()
    {
        let mut state = good.clone();
        damage(&mut state);
        assert!(pit.restore(&state).is_err(), "damage {index}");
    }
    assert_eq!(pit.save(), good);
}
