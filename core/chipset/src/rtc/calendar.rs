//! Dates and times of day, and the forms in which the clock's registers hold them.

use super::{CENTURY, SIZE};

/// Register B: hours run from 0 to 23, not from 1 to 12 with a mark for the afternoon.
pub(super) const HOURS_24: u8 = 1 << 1;
/// Register B: numbers are binary, not two decimal digits.
const BINARY: u8 = 1 << 2;
/// In the hours of a 12-hour clock: afternoon.
const AFTERNOON: u8 = 1 << 7;

const SECONDS_PER_DAY: i64 = 86_400;
/// Days in 400 years, after which the Gregorian calendar repeats.
const DAYS_PER_ERA: i64 = 146_097;
/// From 1 March of the year 0 to 1 January 1970.
const DAYS_TO_1970: i64 = 719_468;

/// How registers hold numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    is_binary: bool,
    has_24_hours: bool,
}

impl Format {
    pub(super) fn of_register_b(value: u8) -> Self {
        Self { is_binary: value & BINARY != 0, has_24_hours: value & HOURS_24 != 0 }
    }

    /// The register value for a number below 100.
    pub(super) fn number(self, value: u8) -> u8 {
        if self.is_binary { value } else { ((value / 10) << 4) | (value % 10) }
    }

    /// The register value for an hour, 0 to 23.
    pub(super) fn hours(self, hour: u8) -> u8 {
        if self.has_24_hours {
            return self.number(hour);
        }
        let on_the_dial = match hour % 12 {
            0 => 12,
            hour => hour,
        };
        let afternoon = if hour >= 12 { AFTERNOON } else { 0 };
        self.number(on_the_dial) | afternoon
    }

    /// The number that a register holds. Digits above nine count for what they are.
    fn parse_number(self, register: u8) -> i64 {
        if self.is_binary {
            i64::from(register)
        } else {
            i64::from(register >> 4) * 10 + i64::from(register & 0xf)
        }
    }

    fn parse_hours(self, register: u8) -> i64 {
        if self.has_24_hours {
            return self.parse_number(register);
        }
        let hour = self.parse_number(register & !AFTERNOON) % 12;
        if register & AFTERNOON != 0 { hour + 12 } else { hour }
    }
}

/// A point in time on the calendar. Fields that come from a guest may lie outside their ranges;
/// they then stand for a later or earlier date, as in "32 January".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Date {
    year: i64,
    /// 1 to 12.
    month: i64,
    /// 1 to 31.
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    /// 1 is Sunday.
    weekday: i64,
}

impl Date {
    /// The date that is so many seconds after the beginning of 1970.
    pub(super) fn from_unix(seconds: i64) -> Self {
        let time_of_day = seconds.rem_euclid(SECONDS_PER_DAY);
        let days_since_1970 = seconds.div_euclid(SECONDS_PER_DAY);
        // Count from 1 March, so that the leap day is the last of its year.
        let days = days_since_1970 + DAYS_TO_1970;
        let day_of_era = days.rem_euclid(DAYS_PER_ERA);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - days_before_year(year_of_era);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let is_next_year = month_from_march >= 10;
        Self {
            year: days.div_euclid(DAYS_PER_ERA) * 400 + year_of_era + i64::from(is_next_year),
            month: if is_next_year { month_from_march - 9 } else { month_from_march + 3 },
            day: day_of_year - days_before_month(month_from_march) + 1,
            hour: time_of_day / 3600,
            minute: time_of_day / 60 % 60,
            second: time_of_day % 60,
            // 1 January 1970 was a Thursday.
            weekday: (days_since_1970 + 4).rem_euclid(7) + 1,
        }
    }

    /// Seconds since the beginning of 1970.
    pub(super) fn to_unix(self) -> i64 {
        let month = self.month.clamp(1, 12);
        let (year, month_from_march) =
            if month > 2 { (self.year, month - 3) } else { (self.year - 1, month + 9) };
        let days = year.div_euclid(400) * DAYS_PER_ERA
            + days_before_year(year.rem_euclid(400))
            + days_before_month(month_from_march)
            + (self.day - 1)
            - DAYS_TO_1970;
        days * SECONDS_PER_DAY + self.hour * 3600 + self.minute * 60 + self.second
    }

    /// The date that a clock's registers hold. The weekday follows from the others.
    pub(super) fn from_registers(registers: &[u8; SIZE], format: Format) -> Self {
        let number = |index: usize| format.parse_number(registers[index]);
        Self {
            year: number(usize::from(CENTURY)) * 100 + number(0x09),
            month: number(0x08),
            day: number(0x07),
            hour: format.parse_hours(registers[0x04]),
            minute: number(0x02),
            second: number(0x00),
            weekday: number(0x06),
        }
    }

    /// What the register at `index` holds, if it is one of the time's.
    pub(super) fn register(self, index: u8, format: Format) -> Option<u8> {
        // Each of them is below 100, so nothing is lost.
        let number = |value: i64| format.number(value.rem_euclid(100) as u8);
        Some(match index {
            0x00 => number(self.second),
            0x02 => number(self.minute),
            0x04 => format.hours(self.hour as u8),
            0x06 => number(self.weekday),
            0x07 => number(self.day),
            0x08 => number(self.month),
            0x09 => number(self.year),
            CENTURY => number(self.year.div_euclid(100)),
            _ => return None,
        })
    }
}

/// Whether the register at `index` holds a part of the time (its alarms are not).
pub(super) fn is_time_register(index: u8) -> bool {
    matches!(index, 0x00 | 0x02 | 0x04 | 0x06..=0x09 | CENTURY)
}

/// Days from 1 March of an era's first year to 1 March of its year `year`, 0 to 399.
fn days_before_year(year: i64) -> i64 {
    year * 365 + year / 4 - year / 100
}

/// Days from 1 March to the first of the month that is so many months later, 0 to 11.
fn days_before_month(months: i64) -> i64 {
    (153 * months + 2) / 5
}

/// The first second after `after` (both since 1970) whose time of day satisfies all three.
pub(super) fn next_time_of_day(
    after: i64,
    hour_matches: impl Fn(u8) -> bool,
    minute_matches: impl Fn(u8) -> bool,
    second_matches: impl Fn(u8) -> bool,
) -> Option<i64> {
    let day = after.div_euclid(SECONDS_PER_DAY) * SECONDS_PER_DAY;
    let first = |from: i64| {
        for hour in (0..24u8).filter(|hour| hour_matches(*hour)) {
            let hour = i64::from(hour) * 3600;
            if hour + 3600 <= from {
                continue;
            }
            for minute in (0..60u8).filter(|minute| minute_matches(*minute)) {
                let minute = hour + i64::from(minute) * 60;
                if minute + 60 <= from {
                    continue;
                }
                let seconds = (0..60u8).filter(|second| second_matches(*second));
                let mut times = seconds.map(|second| minute + i64::from(second));
                if let Some(time) = times.find(|time| *time >= from) {
                    return Some(time);
                }
            }
        }
        None
    };
    match first(after + 1 - day) {
        Some(time) => Some(day + time),
        None => first(0).map(|time| day + SECONDS_PER_DAY + time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(seconds: i64) -> [i64; 7] {
        let date = Date::from_unix(seconds);
        let Date { year, month, day, .. } = date;
        [year, month, day, date.hour, date.minute, date.second, date.weekday]
    }

    #[test]
    fn known_dates_are_right() {
        assert_eq!(fields(0), [1970, 1, 1, 0, 0, 0, 5]);
        assert_eq!(fields(951_782_399), [2000, 2, 28, 23, 59, 59, 2]);
        assert_eq!(fields(951_782_400), [2000, 2, 29, 0, 0, 0, 3]);
        assert_eq!(fields(1_709_164_800), [2024, 2, 29, 0, 0, 0, 5]);
        assert_eq!(fields(4_102_444_800), [2100, 1, 1, 0, 0, 0, 6]);
        assert_eq!(fields(4_107_542_400), [2100, 3, 1, 0, 0, 0, 2]);
        assert_eq!(fields(-1), [1969, 12, 31, 23, 59, 59, 4]);
    }

    #[test]
    fn every_day_of_four_centuries_survives_both_ways() {
        for day in 0..DAYS_PER_ERA {
            let seconds = day * SECONDS_PER_DAY + day % SECONDS_PER_DAY;
            assert_eq!(Date::from_unix(seconds).to_unix(), seconds);
        }
    }

    #[test]
    fn fields_out_of_range_carry_over() {
        let date = Date::from_unix(0);
        assert_eq!(fields(Date { day: 32, ..date }.to_unix())[..3], [1970, 2, 1]);
        assert_eq!(fields(Date { day: 0, ..date }.to_unix())[..3], [1969, 12, 31]);
    }

    #[test]
    fn hours_have_two_dials_and_two_notations() {
        let cases = [
            (0x00, 0, 0x12),
            (0x00, 9, 0x09),
            (0x00, 12, 0x92),
            (0x00, 23, 0x91),
            (BINARY, 23, 0x8b),
            (HOURS_24, 23, 0x23),
            (HOURS_24 | BINARY, 23, 0x17),
        ];
        for (register_b, hour, expected) in cases {
            let format = Format::of_register_b(register_b);
            assert_eq!(format.hours(hour), expected);
            assert_eq!(format.parse_hours(expected), i64::from(hour));
        }
    }

    #[test]
    fn the_next_time_of_day_is_the_nearest() {
        let next = |after, hour: Option<u8>, minute: Option<u8>, second: Option<u8>| {
            next_time_of_day(
                after,
                |value| hour.is_none_or(|hour| hour == value),
                |value| minute.is_none_or(|minute| minute == value),
                |value| second.is_none_or(|second| second == value),
            )
        };
        assert_eq!(next(100, None, None, None), Some(101));
        assert_eq!(next(100, None, None, Some(40)), Some(160));
        assert_eq!(next(100, None, Some(0), Some(0)), Some(3600));
        assert_eq!(next(3600, Some(1), Some(0), Some(0)), Some(86_400 + 3600));
        assert_eq!(next(86_399, Some(0), None, None), Some(86_400));
        assert_eq!(next(0, Some(24), None, None), None);
    }
}
