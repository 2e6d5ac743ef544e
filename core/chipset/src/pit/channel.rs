//! One counter of the 8254: its access latches, and its output and count as functions of time.

use super::FREQUENCY;
use crate::{InvalidState, Time};
use serde::{Deserialize, Serialize};

/// The shortest period that interrupts, in ticks: about ten microseconds.
const SHORTEST_PERIOD: u64 = 12;

/// Which bytes of the count reads and writes go to (control word bits 5:4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// The least significant byte only.
    Low = 1,
    /// The most significant byte only.
    High = 2,
    /// The least significant byte, then the most significant one.
    Both = 3,
}

/// What one channel holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelState {
    /// Mode 0 to 5.
    pub mode: u8,
    /// The counter counts in four decimal digits.
    pub bcd: bool,
    /// Which bytes are accessed.
    pub access: Access,
    /// The count in ticks: 1 to 65536, or to 10000 in decimal.
    pub reload: u32,
    /// Whether a count was written since the control word.
    pub loaded: bool,
    /// The low byte of a count whose high byte is still to be written.
    pub written_low: Option<u8>,
    /// The next read gives the high byte.
    pub read_high_next: bool,
    /// A count held for reading.
    pub latched_count: Option<u16>,
    /// A status held for reading.
    pub latched_status: Option<u8>,
    /// The level of the gate input.
    pub gate: bool,
    /// When the count began; none while it waits for a count or for its gate to rise.
    pub start: Option<Time>,
    /// When a low gate held up the count (modes 0 and 4).
    pub paused: Option<Time>,
    /// How many rising edges of the output since `start` have been reported.
    pub edges_reported: u64,
}

/// One channel. Its registers are all there is to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Channel(ChannelState);

impl Channel {
    pub(super) fn new(gate: bool) -> Self {
        Self(ChannelState {
            mode: 0,
            bcd: false,
            access: Access::Both,
            reload: 0x1_0000,
            loaded: false,
            written_low: None,
            read_high_next: false,
            latched_count: None,
            latched_status: None,
            gate,
            start: None,
            paused: None,
            edges_reported: 0,
        })
    }

    pub(super) fn save(&self) -> ChannelState {
        self.0.clone()
    }

    pub(super) fn from_state(state: &ChannelState) -> Result<Self, InvalidState> {
        let reason = if state.mode > 5 {
            "a channel is in a mode above 5"
        } else if !(1..=modulus(state.bcd)).contains(&state.reload) {
            "a channel's count is out of range"
        } else {
            return Ok(Self(state.clone()));
        };
        Err(InvalidState { device: "interval timer", reason })
    }

    /// A control word for this channel: a counter latch command, or a new mode.
    pub(super) fn write_control(&mut self, value: u8, now: Time) {
        let access = match value >> 4 & 3 {
            0 => return self.latch_count(now),
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        };
        let mode = match value >> 1 & 7 {
            // The highest bit is not looked at in modes 2 and 3.
            6 => 2,
            7 => 3,
            mode => mode,
        };
        let gate = self.0.gate;
        *self = Self::new(gate);
        self.0.mode = mode;
        self.0.access = access;
        self.0.bcd = value & 1 != 0;
        self.0.reload = modulus(self.0.bcd);
    }

    pub(super) fn write(&mut self, value: u8, now: Time) {
        let high = u16::from(value) << 8;
        match (self.0.access, self.0.written_low.take()) {
            (Access::Low, _) => self.load(u16::from(value), now),
            (Access::High, _) => self.load(high, now),
            (Access::Both, Some(low)) => self.load(high | u16::from(low), now),
            (Access::Both, None) => {
                self.0.written_low = Some(value);
                if self.0.mode == 0 {
                    // Half a count stops this mode, and its output falls.
                    self.0.start = None;
                }
            }
        }
    }

    fn load(&mut self, count: u16, now: Time) {
        let state = &mut self.0;
        let count = if state.bcd { decimal_value(count) } else { u32::from(count) };
        state.reload = match count {
            0 => modulus(state.bcd),
            count => count,
        };
        state.loaded = true;
        match state.mode {
            0 | 4 => {
                state.start = Some(now);
                state.paused = (!state.gate).then_some(now);
            }
            2 | 3 => state.start = state.gate.then_some(now),
            // Modes 1 and 5 wait for the gate.
            _ => {}
        }
        state.edges_reported = 0;
    }

    pub(super) fn set_gate(&mut self, level: bool, now: Time) {
        let state = &mut self.0;
        if state.gate == level {
            return;
        }
        state.gate = level;
        match state.mode {
            0 | 4 if level => {
                if let Some(since) = state.paused.take() {
                    state.start = state.start.map(|start| start + (now - since));
                }
            }
            0 | 4 => state.paused = Some(now),
            2 | 3 => state.start = (level && state.loaded).then_some(now),
            _ if level && state.loaded => state.start = Some(now),
            _ => {}
        }
    }

    /// Ticks since the count began.
    fn elapsed(&self, now: Time) -> Option<u64> {
        let start = self.0.start?;
        let until = self.0.paused.unwrap_or(now);
        Some((until - start).ticks(FREQUENCY))
    }

    /// The level of the output.
    pub(super) fn output(&self, now: Time) -> bool {
        let reload = u64::from(self.0.reload);
        match (self.0.mode, self.elapsed(now)) {
            (0, None) => false,
            (_, None) => true,
            (0 | 1, Some(elapsed)) => elapsed >= reload,
            (2, Some(elapsed)) => elapsed % reload != reload - 1,
            (3, Some(elapsed)) => elapsed % reload < reload.div_ceil(2),
            (_, Some(elapsed)) => elapsed != reload,
        }
    }

    /// What the counting element holds.
    fn count(&self, now: Time) -> u16 {
        let reload = u64::from(self.0.reload);
        let modulus = u64::from(modulus(self.0.bcd));
        let count = match (self.0.mode, self.elapsed(now)) {
            (_, None) => reload,
            (2, Some(elapsed)) => reload - elapsed % reload,
            (3, Some(elapsed)) => {
                // Down by two from an even number, once for each half of the square wave.
                let into_period = elapsed % reload;
                let half = reload.div_ceil(2);
                let into_half = if into_period < half { into_period } else { into_period - half };
                (reload & !1) - 2 * into_half
            }
            // The other modes count on below zero.
            (_, Some(elapsed)) => reload + modulus - elapsed % modulus,
        };
        let count = (count % modulus) as u16;
        if self.0.bcd { decimal_digits(count) } else { count }
    }

    pub(super) fn latch_count(&mut self, now: Time) {
        // A count that is still to be read stays.
        if self.0.latched_count.is_none() {
            self.0.latched_count = Some(self.count(now));
            self.0.read_high_next = false;
        }
    }

    pub(super) fn latch_status(&mut self, now: Time) {
        if self.0.latched_status.is_none() {
            let null_count = !self.0.loaded || self.0.written_low.is_some();
            self.0.latched_status = Some(
                u8::from(self.output(now)) << 7
                    | u8::from(null_count) << 6
                    | (self.0.access as u8) << 4
                    | self.0.mode << 1
                    | u8::from(self.0.bcd),
            );
        }
    }

    pub(super) fn read(&mut self, now: Time) -> u8 {
        if let Some(status) = self.0.latched_status.take() {
            return status;
        }
        let [low, high] = match self.0.latched_count {
            Some(count) => count,
            None => self.count(now),
        }
        .to_le_bytes();
        let takes_high = match self.0.access {
            Access::Low => false,
            Access::High => true,
            Access::Both => self.0.read_high_next,
        };
        self.0.read_high_next = self.0.access == Access::Both && !takes_high;
        if !self.0.read_high_next {
            self.0.latched_count = None;
        }
        if takes_high { high } else { low }
    }

    /// The tick, counted from the start, at which the output rises for the `number`th time.
    fn tick_of_edge(&self, number: u64) -> Option<u64> {
        let reload = u64::from(self.0.reload);
        match self.0.mode {
            0 => (number == 1).then_some(reload),
            4 => (number == 1).then_some(reload + 1),
            2 | 3 => Some(number.saturating_mul(reload.max(SHORTEST_PERIOD))),
            // The gate of channel 0 never rises.
            _ => None,
        }
    }

    pub(super) fn next_edge(&self) -> Option<Time> {
        let start = self.0.start.filter(|_| self.0.paused.is_none())?;
        let tick = self.tick_of_edge(self.0.edges_reported.saturating_add(1))?;
        Some(start + Time::of_ticks(tick, FREQUENCY))
    }

    /// Whether the output has risen since the last call, however often.
    pub(super) fn poll_edge(&mut self, now: Time) -> bool {
        if self.next_edge().is_none_or(|next| next > now) {
            return false;
        }
        let period = u64::from(self.0.reload).max(SHORTEST_PERIOD);
        self.0.edges_reported = match (self.0.mode, self.elapsed(now)) {
            (2 | 3, Some(elapsed)) => elapsed / period,
            _ => 1,
        };
        true
    }
}

/// One more than the highest count: what a count of zero stands for.
const fn modulus(bcd: bool) -> u32 {
    if bcd { 10_000 } else { 0x1_0000 }
}

/// The value of four decimal digits. Digits above nine count for what they are, within range.
fn decimal_value(digits: u16) -> u32 {
    let digit = |shift: u32| u32::from(digits >> shift & 0xf);
    let value = digit(12) * 1000 + digit(8) * 100 + digit(4) * 10 + digit(0);
    value.min(9999)
}

/// The four decimal digits of a value below 10000.
fn decimal_digits(value: u16) -> u16 {
    let digit = |divisor: u16| value / divisor % 10;
    digit(1000) << 12 | digit(100) << 8 | digit(10) << 4 | digit(1)
}
