//! The clock as operating systems read, set and wait for it.

use super::*;

/// 2024-02-29 23:59:58 UTC, a Thursday.
const LEAP_DAY: Duration = Duration::from_secs(1_709_251_198);

fn clock() -> Rtc {
    Rtc::new(LEAP_DAY, 1 << 30, 0)
}

fn seconds(count: u64) -> Time {
    Time::from_nanos(count * NANOS_PER_SECOND)
}

fn read(rtc: &mut Rtc, index: u8, now: Time) -> u8 {
    rtc.write_index(index);
    rtc.read_data(now)
}

fn write(rtc: &mut Rtc, index: u8, value: u8, now: Time) {
    rtc.write_index(index);
    rtc.write_data(value, now);
}

/// Century, year, month, day, weekday, hour, minute, second.
fn date(rtc: &mut Rtc, now: Time) -> [u8; 8] {
    [CENTURY, 0x09, 0x08, 0x07, 0x06, 0x04, 0x02, 0x00].map(|index| read(rtc, index, now))
}

fn set_date(rtc: &mut Rtc, values: [u8; 7], now: Time) {
    for (index, value) in [CENTURY, 0x09, 0x08, 0x07, 0x04, 0x02, 0x00].into_iter().zip(values) {
        write(rtc, index, value, now);
    }
}

#[test]
fn the_time_of_day_advances_with_the_machine() {
    let mut rtc = clock();
    let shown = date(&mut rtc, Time::ZERO);
    assert_eq!(shown, [0x20, 0x24, 0x02, 0x29, 0x05, 0x23, 0x59, 0x58]);
    let shown = date(&mut rtc, seconds(2));
    assert_eq!(shown, [0x20, 0x24, 0x03, 0x01, 0x06, 0x00, 0x00, 0x00]);
}

#[test]
fn fractions_of_the_starting_second_count() {
    let mut rtc = Rtc::new(LEAP_DAY + Duration::from_millis(900), 0, 0);
    assert_eq!(read(&mut rtc, 0, Time::from_nanos(99_999_999)), 0x58);
    assert_eq!(read(&mut rtc, 0, Time::from_nanos(100_000_000)), 0x59);
}

#[test]
fn binary_and_twelve_hours_are_shown_when_asked_for() {
    let mut rtc = clock();
    write(&mut rtc, REGISTER_B, 0x04, Time::ZERO);
    assert_eq!(read(&mut rtc, 0x04, Time::ZERO), 0x80 | 11);
    assert_eq!(read(&mut rtc, 0x09, Time::ZERO), 24);
}

#[test]
fn an_update_is_announced_before_it_comes() {
    let mut rtc = clock();
    let update = seconds(1);
    let mut uip = |now| read(&mut rtc, REGISTER_A, now) & UIP != 0;
    assert!(!uip(Time::ZERO));
    assert!(!uip(update - Time::from_nanos(244_001)));
    assert!(uip(update - Time::from_nanos(244_000)));
    assert!(!uip(update));
}

#[test]
fn a_held_clock_stands_and_starts_from_what_was_written() {
    let mut rtc = clock();
    write(&mut rtc, REGISTER_B, SET | 0x02, Time::ZERO);
    assert_eq!(read(&mut rtc, 0, seconds(10)), 0x58);
    set_date(&mut rtc, [0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x59], seconds(10));
    assert_eq!(read(&mut rtc, REGISTER_A, seconds(11)) & UIP, 0);
    write(&mut rtc, REGISTER_B, 0x02, seconds(12));
    let shown = date(&mut rtc, seconds(12));
    assert_eq!(shown, [0x19, 0x99, 0x12, 0x31, 0x06, 0x23, 0x59, 0x59]);
    let shown = date(&mut rtc, seconds(13));
    assert_eq!(shown, [0x20, 0x00, 0x01, 0x01, 0x07, 0x00, 0x00, 0x00]);
}

#[test]
fn releasing_the_divider_updates_half_a_second_later() {
    let mut rtc = clock();
    write(&mut rtc, REGISTER_A, 0x76, seconds(1));
    write(&mut rtc, 0x00, 0x10, seconds(1));
    write(&mut rtc, REGISTER_A, 0x26, seconds(5));
    let half = Time::from_nanos(NANOS_PER_SECOND / 2);
    assert_eq!(read(&mut rtc, 0, seconds(5) + half - Time::from_nanos(1)), 0x10);
    assert_eq!(read(&mut rtc, 0, seconds(5) + half), 0x11);
}

#[test]
fn a_running_clock_can_be_set_too() {
    let mut rtc = clock();
    write(&mut rtc, 0x02, 0x30, seconds(1));
    assert_eq!(date(&mut rtc, seconds(1))[5..], [0x23, 0x30, 0x59]);
}

#[test]
fn the_update_interrupt_comes_every_second() {
    let mut rtc = clock();
    assert_eq!(rtc.deadline(), None);
    write(&mut rtc, REGISTER_B, UIE | 0x02, Time::from_nanos(5));
    assert_eq!(rtc.deadline(), Some(seconds(1)));
    rtc.poll(seconds(1) - Time::from_nanos(1));
    assert!(!rtc.interrupt());
    rtc.poll(seconds(1));
    assert!(rtc.interrupt());
    assert_eq!(rtc.deadline(), None, "nothing more until it is read");
    let flags = read(&mut rtc, REGISTER_C, seconds(1));
    assert_eq!(flags & !PERIODIC, IRQF | UPDATE);
    assert!(!rtc.interrupt());
    assert_eq!(rtc.deadline(), Some(seconds(2)));
}

#[test]
fn the_periodic_interrupt_has_its_rates() {
    for (rate, hertz) in [(1, 256), (2, 128), (3, 8192), (6, 1024), (15, 2)] {
        let mut rtc = clock();
        write(&mut rtc, REGISTER_A, 0x20 | rate, Time::ZERO);
        write(&mut rtc, REGISTER_B, PERIODIC | 0x02, Time::ZERO);
        let mut count = 0;
        while let Some(next) = rtc.deadline().filter(|next| *next <= seconds(1)) {
            rtc.poll(next);
            assert!(rtc.interrupt());
            read(&mut rtc, REGISTER_C, next);
            count += 1;
        }
        assert_eq!(count, hertz, "rate {rate}");
    }
}

#[test]
fn rate_zero_is_no_rate() {
    let mut rtc = clock();
    write(&mut rtc, REGISTER_A, 0x20, Time::ZERO);
    write(&mut rtc, REGISTER_B, PERIODIC, Time::ZERO);
    assert_eq!(rtc.deadline(), None);
}

#[test]
fn the_alarm_rings_at_its_time() {
    let mut rtc = clock();
    for (index, value) in [(HOURS_ALARM, 0x00), (MINUTES_ALARM, 0x00), (SECONDS_ALARM, 0x05)] {
        write(&mut rtc, index, value, Time::ZERO);
    }
    write(&mut rtc, REGISTER_B, ALARM | 0x02, Time::ZERO);
    assert_eq!(rtc.deadline(), Some(seconds(7)));
    rtc.poll(seconds(6));
    assert!(!rtc.interrupt());
    rtc.poll(seconds(7));
    let flags = read(&mut rtc, REGISTER_C, seconds(7));
    assert_eq!(flags & !PERIODIC, IRQF | ALARM | UPDATE);
    assert_eq!(rtc.deadline(), Some(seconds(7 + 86_400)));
}

#[test]
fn alarm_bytes_may_match_anything() {
    let mut rtc = clock();
    for index in [HOURS_ALARM, MINUTES_ALARM] {
        write(&mut rtc, index, 0xff, Time::ZERO);
    }
    write(&mut rtc, SECONDS_ALARM, 0x30, Time::ZERO);
    write(&mut rtc, REGISTER_B, ALARM | 0x02, Time::ZERO);
    assert_eq!(rtc.deadline(), Some(seconds(32)));
    write(&mut rtc, SECONDS_ALARM, 0x61, Time::ZERO);
    assert_eq!(rtc.deadline(), None, "never");
}

#[test]
fn flags_rise_without_being_enabled() {
    let mut rtc = clock();
    assert_eq!(read(&mut rtc, REGISTER_C, seconds(1)) & (PERIODIC | UPDATE), PERIODIC | UPDATE);
    assert!(!rtc.interrupt());
}

#[test]
fn the_rest_is_memory() {
    let mut rtc = clock();
    write(&mut rtc, 0x0f, 0x0a, Time::ZERO);
    write(&mut rtc, 0x7f, 0x5a, Time::ZERO);
    assert_eq!(read(&mut rtc, 0x0f, Time::ZERO), 0x0a);
    assert_eq!(read(&mut rtc, 0x7f, Time::ZERO), 0x5a);
    write(&mut rtc, REGISTER_D, 0, Time::ZERO);
    assert_eq!(read(&mut rtc, REGISTER_D, Time::ZERO), VRT);
}

#[test]
fn bit_7_of_the_index_masks_nmis() {
    let mut rtc = clock();
    assert!(!rtc.nmi_masked());
    assert_eq!(read(&mut rtc, 0x8d, Time::ZERO), VRT);
    assert!(rtc.nmi_masked());
    assert_eq!(rtc.read_index(), 0x8d);
}

#[test]
fn the_sizes_of_memory_are_left_where_firmware_leaves_them() {
    let mut rtc = Rtc::new(LEAP_DAY, 3 << 30, 5 << 30);
    let mut word = |index| {
        let low = read(&mut rtc, index, Time::ZERO);
        u16::from_le_bytes([low, read(&mut rtc, index + 1, Time::ZERO)])
    };
    assert_eq!(word(0x15), 640);
    assert_eq!((word(0x17), word(0x30)), (0xffff, 0xffff));
    assert_eq!(word(0x34), 0xbf00);
    assert_eq!((word(0x5b), word(0x5c)), (0x4000, 0x0140));
    let mut rtc = Rtc::new(LEAP_DAY, 8 << 20, 0);
    assert_eq!(read(&mut rtc, 0x18, Time::ZERO), 0x1c);
    assert_eq!(read(&mut rtc, 0x34, Time::ZERO), 0);
}

#[test]
fn any_byte_at_any_index_and_time_is_survived() {
    for index in 0..=0x7f {
        for value in [0x00, 0x5a, 0x99, 0xff] {
            let mut rtc = clock();
            write(&mut rtc, REGISTER_B, 0x7a, Time::ZERO);
            write(&mut rtc, index, value, Time::ZERO);
            date(&mut rtc, Time::from_nanos(u64::MAX));
            date(&mut rtc, Time::ZERO);
            let mut copy = clock();
            assert_eq!(copy.restore(&rtc.save()), Ok(()));
        }
    }
}

#[test]
fn a_saved_state_behaves_like_the_original() {
    let mut rtc = clock();
    write(&mut rtc, REGISTER_B, UIE | 0x02, Time::ZERO);
    rtc.poll(seconds(1));
    let mut copy = Rtc::new(Duration::ZERO, 0, 0);
    copy.restore(&rtc.save()).unwrap();
    assert_eq!(copy, rtc);
}

#[test]
fn an_impossible_state_is_refused() {
    let good = clock().save();
    let mut rtc = clock();
    for (index, damage) in [
        |state: &mut State| state.memory.push(0),
        |state: &mut State| state.memory.clear(),
        |state: &mut State| state.flags = 0x80,
        |state: &mut State| state.memory[usize::from(REGISTER_A)] = 0xa6,
        |state: &mut State| state.clock.seconds = i64::MAX,
        |state: &mut State| state.clock.seconds = i64::MIN,
    ]
    .into_iter()
    .enumerate()
    {
        let mut state = good.clone();
        damage(&mut state);
        assert!(rtc.restore(&state).is_err(), "damage {index}");
    }
    assert_eq!(rtc.save(), good);
}
