//! The MC146818 real-time clock with 128 bytes of battery-backed memory ("CMOS").
//!
//! Follows Motorola's MC146818A data sheet (ADI1169R2); the meaning of the memory beyond the clock
//! is the PC/AT's, as firmware has filled it in since.
//!
//! The time of day is computed from the machine's time, and nothing ticks. While a guest holds the
//! clock (register B's SET, or the divider in reset), the time registers are plain memory; letting
//! go starts the clock from what they hold.

mod calendar;
#[cfg(test)]
mod tests;

use crate::time::NANOS_PER_SECOND;
use crate::{InvalidState, Time};
use alloc::vec::Vec;
use calendar::{Date, Format};
use core::time::Duration;
use serde::{Deserialize, Serialize};

/// How many bytes there are.
const SIZE: usize = 128;

/// The index port's bit that masks NMIs.
const NMI_MASK: u8 = 1 << 7;

const SECONDS: u8 = 0x00;
const SECONDS_ALARM: u8 = 0x01;
const MINUTES_ALARM: u8 = 0x03;
const HOURS_ALARM: u8 = 0x05;
const REGISTER_A: u8 = 0x0a;
const REGISTER_B: u8 = 0x0b;
const REGISTER_C: u8 = 0x0c;
const REGISTER_D: u8 = 0x0d;
/// The century's place: ACPI's FADT tells it to the guest.
pub const CENTURY: u8 = 0x32;

/// Register A: update in progress.
const UIP: u8 = 1 << 7;
/// Register A: the divider's control, and its value for a running clock.
const DV: u8 = 0x70;
const DV_RUNNING: u8 = 0x20;
/// Register A: the periodic rate.
const RS: u8 = 0x0f;

/// Register B: the guest holds the clock to set it.
const SET: u8 = 1 << 7;
/// Register B: update-ended interrupt enable.
const UIE: u8 = 1 << 4;

/// Registers B (enable) and C (flag): periodic, alarm and update-ended interrupts.
const PERIODIC: u8 = 1 << 6;
const ALARM: u8 = 1 << 5;
const UPDATE: u8 = 1 << 4;
/// Register C: an enabled interrupt is pending.
const IRQF: u8 = 1 << 7;

/// Register D: valid RAM and time.
const VRT: u8 = 1 << 7;

/// Alarm bytes from here on match anything.
const ANY: u8 = 0xc0;

/// The clock's crystal in Hz.
const CRYSTAL: u64 = 32_768;

/// How long before an update the guest is warned by UIP.
const UPDATE_WARNING: Time = Time::from_nanos(244_000);

/// From the divider's release to the first update.
const FIRST_UPDATE: Time = Time::from_nanos(NANOS_PER_SECOND / 2);

const SECOND: Time = Time::from_nanos(NANOS_PER_SECOND);

/// The clock and its memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rtc {
    index: u8,
    memory: [u8; SIZE],
    clock: Clock,
    flags: u8,
    /// Until when flags have been raised.
    polled: Time,
}

/// Counts seconds. Between updates it shows the same second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// Seconds since 1970, shown until `next_update`.
    pub seconds: i64,
    /// When the next second begins.
    pub next_update: Time,
}

/// What the clock and its memory hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The index port.
    pub index: u8,
    /// The 128 bytes. The time registers among them count only while the guest holds the clock.
    pub memory: Vec<u8>,
    /// The time of day.
    pub clock: Clock,
    /// Register C: the interrupt flags.
    pub flags: u8,
    /// Until when the flags have been raised.
    pub polled: Time,
}

impl Rtc {
    /// A clock that shows `unix_time` (since 1970, UTC) at [`Time::ZERO`], in a machine with so
    /// many bytes of RAM below and above 4 GiB.
    pub fn new(unix_time: Duration, ram_below_4g: u64, ram_above_4g: u64) -> Self {
        let mut memory = [0; SIZE];
        memory[usize::from(REGISTER_A)] = DV_RUNNING | 0x06;
        memory[usize::from(REGISTER_B)] = calendar::HOURS_24;
        describe_memory(&mut memory, ram_below_4g, ram_above_4g);
        let into_second = u64::from(unix_time.subsec_nanos());
        Self {
            index: 0,
            memory,
            clock: Clock {
                seconds: i64::try_from(unix_time.as_secs()).unwrap_or(i64::MAX).min(LATEST),
                next_update: Time::from_nanos(NANOS_PER_SECOND - into_second),
            },
            flags: 0,
            polled: Time::ZERO,
        }
    }

    /// Answers a read of port 0x71.
    pub fn read_data(&mut self, now: Time) -> u8 {
        self.poll(now);
        let index = self.index & !NMI_MASK;
        match index {
            REGISTER_A => self.register_a() | if self.is_updating(now) { UIP } else { 0 },
            REGISTER_C => {
                let value = self.register_c();
                self.flags = 0;
                value
            }
            REGISTER_D => VRT,
            _ if self.is_running() => {
                let date = Date::from_unix(self.clock.seconds_at(now));
                date.register(index, self.format()).unwrap_or(self.memory[usize::from(index)])
            }
            _ => self.memory[usize::from(index)],
        }
    }

    /// Answers a read of port 0x70. The index is write-only on old chips; on newer ones it reads.
    pub fn read_index(&self) -> u8 {
        self.index
    }

    /// Takes a write to port 0x70: which byte port 0x71 reaches, and whether NMIs are masked.
    pub fn write_index(&mut self, value: u8) {
        self.index = value;
    }

    /// Whether the guest has masked NMIs.
    pub fn nmi_masked(&self) -> bool {
        self.index & NMI_MASK != 0
    }

    /// Takes a write to port 0x71.
    pub fn write_data(&mut self, value: u8, now: Time) {
        self.poll(now);
        let index = self.index & !NMI_MASK;
        match index {
            REGISTER_C | REGISTER_D => return,
            SECONDS_ALARM | MINUTES_ALARM | HOURS_ALARM => {
                self.memory[usize::from(index)] = value;
                return;
            }
            _ => {}
        }
        let was_running = self.is_running();
        let was_in_reset = self.is_in_reset();
        let sets_time = calendar::is_time_register(index);
        if was_running {
            self.hold(now);
        }
        self.memory[usize::from(index)] = match index {
            REGISTER_A => value & !UIP,
            // Holding the clock disables the interrupt that ends its updates.
            REGISTER_B if value & SET != 0 => value & !UIE,
            _ => value,
        };
        if self.is_running() && (sets_time || !was_running) {
            let date = Date::from_registers(&self.memory, self.format());
            self.clock = Clock {
                seconds: date.to_unix(),
                next_update: if was_in_reset {
                    now + FIRST_UPDATE
                } else {
                    self.clock.next_update_after(now)
                },
            };
        }
    }

    /// The level of interrupt line 8.
    pub fn interrupt(&self) -> bool {
        self.register_c() & IRQF != 0
    }

    /// Raises the flags of what has happened up to `now`, each once.
    pub fn poll(&mut self, now: Time) {
        let since = self.polled;
        self.polled = since.max(now);
        if self.periodic_after(since).is_some_and(|next| next <= now) {
            self.flags |= PERIODIC;
        }
        if !self.is_running() {
            return;
        }
        if self.clock.next_update_after(since) <= now {
            self.flags |= UPDATE;
        }
        if self.alarm_after(since).is_some_and(|next| next <= now) {
            self.flags |= ALARM;
        }
    }

    /// When [`Rtc::poll`] will raise interrupt line 8.
    pub fn deadline(&self) -> Option<Time> {
        let enabled = self.memory[usize::from(REGISTER_B)];
        let awaited = |flag: u8| enabled & !self.flags & flag != 0;
        let periodic = self.periodic_after(self.polled).filter(|_| awaited(PERIODIC));
        let update =
            Some(self.clock.next_update_after(self.polled)).filter(|_| awaited(UPDATE) && self.is_running());
        let alarm = if awaited(ALARM) && self.is_running() { self.alarm_after(self.polled) } else { None };
        [periodic, update, alarm].into_iter().flatten().min()
    }

    fn register_a(&self) -> u8 {
        self.memory[usize::from(REGISTER_A)]
    }

    fn register_c(&self) -> u8 {
        let enabled = self.memory[usize::from(REGISTER_B)];
        if self.flags & enabled != 0 { self.flags | IRQF } else { self.flags }
    }

    fn format(&self) -> Format {
        Format::of_register_b(self.memory[usize::from(REGISTER_B)])
    }

    fn is_in_reset(&self) -> bool {
        self.register_a() & DV != DV_RUNNING
    }

    fn is_running(&self) -> bool {
        self.memory[usize::from(REGISTER_B)] & SET == 0 && !self.is_in_reset()
    }

    fn is_updating(&self, now: Time) -> bool {
        self.is_running() && self.clock.next_update_after(now) - now <= UPDATE_WARNING
    }

    /// Turns the time registers into plain memory.
    fn hold(&mut self, now: Time) {
        let date = Date::from_unix(self.clock.seconds_at(now));
        for index in (SECONDS..REGISTER_A).chain([CENTURY]) {
            if let Some(value) = date.register(index, self.format()) {
                self.memory[usize::from(index)] = value;
            }
        }
    }

    /// The first edge of the periodic interrupt after `since`.
    fn periodic_after(&self, since: Time) -> Option<Time> {
        let period: u64 = match self.register_a() & RS {
            _ if self.is_in_reset() => return None,
            0 => return None,
            // The two fastest rates are another pair of slow ones with this crystal.
            rate @ 1..=2 => 1 << (rate + 6),
            rate => 1 << (rate - 1),
        };
        let periods = since.ticks(CRYSTAL) / period;
        Some(Time::of_ticks((periods + 1) * period, CRYSTAL))
    }

    /// The first update after `since` whose time the alarm matches.
    fn alarm_after(&self, since: Time) -> Option<Time> {
        let shown = self.clock.seconds_at(since);
        let format = self.format();
        let matches = |index: u8, value: u8| {
            let alarm = self.memory[usize::from(index)];
            alarm >= ANY || alarm == value
        };
        let seconds = calendar::next_time_of_day(
            shown,
            |hour| matches(HOURS_ALARM, format.hours(hour)),
            |minute| matches(MINUTES_ALARM, format.number(minute)),
            |second| matches(SECONDS_ALARM, format.number(second)),
        )?;
        let further = u64::try_from(seconds - shown - 1).ok()?;
        let span = Time::from_nanos(further.saturating_mul(NANOS_PER_SECOND));
        Some(self.clock.next_update_after(since) + span)
    }

    /// What the clock and its memory hold.
    pub fn save(&self) -> State {
        State {
            index: self.index,
            memory: self.memory.to_vec(),
            clock: self.clock,
            flags: self.flags,
            polled: self.polled,
        }
    }

    /// Puts back what [`Rtc::save`] gave.
    ///
    /// # Errors
    ///
    /// If a register holds what it cannot; nothing is changed then.
    pub fn restore(&mut self, state: &State) -> Result<(), InvalidState> {
        let refuse = |reason| Err(InvalidState { device: "real-time clock", reason });
        let Ok(memory) = <[u8; SIZE]>::try_from(state.memory.as_slice()) else {
            return refuse("its memory is not 128 bytes long");
        };
        if state.flags & !(PERIODIC | ALARM | UPDATE) != 0 {
            return refuse("register C has reserved bits set");
        }
        if memory[usize::from(REGISTER_A)] & UIP != 0 {
            return refuse("register A has a read-only bit set");
        }
        if !(EARLIEST..=LATEST).contains(&state.clock.seconds) {
            return refuse("it shows a year that it cannot show");
        }
        *self =
            Self { index: state.index, memory, clock: state.clock, flags: state.flags, polled: state.polled };
        Ok(())
    }
}

/// The first and the last second that registers, however wrongly set, can stand for.
const EARLIEST: i64 = -(1 << 37);
const LATEST: i64 = 1 << 40;

impl Clock {
    /// The seconds since 1970 that are shown at `now`.
    fn seconds_at(&self, now: Time) -> i64 {
        if now < self.next_update {
            return self.seconds;
        }
        let updates = (now - self.next_update).as_nanos() / NANOS_PER_SECOND + 1;
        // At most 2^64 / 10^9 of them, far from overflow.
        self.seconds.saturating_add_unsigned(updates)
    }

    /// The first update after `now`.
    fn next_update_after(&self, now: Time) -> Time {
        if now < self.next_update {
            return self.next_update;
        }
        let into_second = (now - self.next_update).as_nanos() % NANOS_PER_SECOND;
        now + SECOND - Time::from_nanos(into_second)
    }
}

/// The sizes of the RAM, where firmware leaves them for operating systems of all ages.
fn describe_memory(memory: &mut [u8; SIZE], below_4g: u64, above_4g: u64) {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    let mut put = |index: usize, value: u64, limit: u64, bytes: usize| {
        let value = value.min(limit).to_le_bytes();
        memory[index..index + bytes].copy_from_slice(&value[..bytes]);
    };
    // 640 KiB of base memory.
    put(0x15, 640, 0xffff, 2);
    // KiB above 1 MiB, twice; 64 KiB blocks above 16 MiB; 64 KiB blocks above 4 GiB.
    put(0x17, below_4g.saturating_sub(MIB) / KIB, 0xffff, 2);
    put(0x30, below_4g.saturating_sub(MIB) / KIB, 0xffff, 2);
    put(0x34, below_4g.saturating_sub(16 * MIB) / (64 * KIB), 0xffff, 2);
    put(0x5b, above_4g / (64 * KIB), 0xff_ffff, 3);
    // Equipment: a coprocessor.
    put(0x14, 0x02, 0xff, 1);
}
