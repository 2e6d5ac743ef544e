//! The 8254 programmable interval timer, and port 0x61 beside it.
//!
//! Follows Intel's 8254 data sheet (231164-005). Channel 0 is wired to interrupt 0, channel 1 to
//! nothing any more (it refreshed the memory of old), channel 2 to the speaker and to port 0x61,
//! through which operating systems measure the speed of their clocks.
//!
//! Nothing ticks: a channel remembers when it started, and everything is computed from the time
//! that has passed since.
//!
//! **Lost ticks are merged.** If several periods of channel 0 have passed since the last poll,
//! there is one interrupt. The 8259 could not hold more than one request anyway, and a guest that
//! counts time by ticks alone is one that this machine's other clocks (the ACPI timer, the TSC,
//! the RTC) put right; a flood of late ticks would slow the guest further exactly when it is slow.
//!
//! Two simplifications, which no known guest can tell: a count written while the channel runs
//! applies at once (the chip finishes a period first, in modes 2 and 3, or a pulse, in 1 and 5),
//! and channel 0 interrupts at most every ten microseconds.

mod channel;
#[cfg(test)]
mod tests;

use crate::{InvalidState, Time};
use channel::Channel;
pub use channel::{Access, ChannelState};
use serde::{Deserialize, Serialize};

/// The input clock in Hz: a third of the television colour burst that the first PC was built on.
pub const FREQUENCY: u64 = 1_193_182;

/// Half the period of the memory refresh, in nanoseconds: bit 4 of port 0x61 toggles with it.
const REFRESH: u64 = 15_085;

/// The control word register.
const CONTROL: u16 = 0x43;
/// NMI status and control.
const NMI_STATUS: u16 = 0x61;

/// Port 0x61: the gate of channel 2.
const GATE_2: u8 = 1 << 0;
/// Port 0x61: what a write keeps: the gate, the speaker, and the two parity-check disables.
const NMI_STATUS_WRITABLE: u8 = 0x0f;
/// Port 0x61: toggles with each memory refresh.
const REFRESH_TOGGLE: u8 = 1 << 4;
/// Port 0x61: the output of channel 2.
const OUT_2: u8 = 1 << 5;

/// The timer with its three channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pit {
    channels: [Channel; 3],
    nmi_control: u8,
}

/// What the timer's registers hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The three channels.
    pub channels: [ChannelState; 3],
    /// The writable bits of port 0x61.
    pub nmi_control: u8,
}

impl Pit {
    /// The timer after power-on: nothing counts until it is programmed.
    pub fn new() -> Self {
        Self { channels: [Channel::new(true), Channel::new(true), Channel::new(false)], nmi_control: 0 }
    }

    /// Answers a read from ports 0x40 to 0x43 or 0x61.
    pub fn read(&mut self, port: u16, now: Time) -> u8 {
        match port {
            0x40..=0x42 => self.channels[usize::from(port & 3)].read(now),
            NMI_STATUS => self.nmi_status(now),
            // The control word register cannot be read.
            _ => 0xff,
        }
    }

    /// Takes a write to ports 0x40 to 0x43 or 0x61.
    pub fn write(&mut self, port: u16, value: u8, now: Time) {
        match port {
            0x40..=0x42 => self.channels[usize::from(port & 3)].write(value, now),
            CONTROL => self.write_control(value, now),
            NMI_STATUS => {
                self.nmi_control = value & NMI_STATUS_WRITABLE;
                self.channels[2].set_gate(value & GATE_2 != 0, now);
            }
            _ => {}
        }
    }

    fn nmi_status(&self, now: Time) -> u8 {
        let mut value = self.nmi_control;
        if (now.as_nanos() / REFRESH) % 2 == 1 {
            value |= REFRESH_TOGGLE;
        }
        if self.channels[2].output(now) {
            value |= OUT_2;
        }
        value
    }

    fn write_control(&mut self, value: u8, now: Time) {
        if let Some(channel) = self.channels.get_mut(usize::from(value >> 6)) {
            return channel.write_control(value, now);
        }
        // Read-back command: bits 5 and 4, inverted, choose count and status.
        for (index, channel) in self.channels.iter_mut().enumerate() {
            if value & (2 << index) == 0 {
                continue;
            }
            if value & 0x10 == 0 {
                channel.latch_status(now);
            }
            if value & 0x20 == 0 {
                channel.latch_count(now);
            }
        }
    }

    /// The output of channel 0, which is interrupt line 0.
    pub fn irq0(&self, now: Time) -> bool {
        self.channels[0].output(now)
    }

    /// Whether interrupt line 0 has risen since the last call: drive an edge then.
    pub fn poll(&mut self, now: Time) -> bool {
        self.channels[0].poll_edge(now)
    }

    /// When interrupt line 0 rises next, if it will by itself.
    pub fn deadline(&self) -> Option<Time> {
        self.channels[0].next_edge()
    }

    /// What the registers hold.
    pub fn save(&self) -> State {
        State { channels: self.channels.each_ref().map(Channel::save), nmi_control: self.nmi_control }
    }

    /// Puts back what [`Pit::save`] gave.
    ///
    /// # Errors
    ///
    /// If a register holds what it cannot; nothing is changed then.
    pub fn restore(&mut self, state: &State) -> Result<(), InvalidState> {
        let refuse = |reason| Err(InvalidState { device: "interval timer", reason });
        if state.nmi_control & !NMI_STATUS_WRITABLE != 0 {
            return refuse("port 0x61 has read-only bits set");
        }
        let gates = [true, true, state.nmi_control & GATE_2 != 0];
        for (channel, gate) in state.channels.iter().zip(gates) {
            if channel.gate != gate {
                return refuse("a channel's gate is not at the level that it is wired to");
            }
        }
        let [first, second, third] = &state.channels;
        *self = Self {
            channels: [
                Channel::from_state(first)?,
                Channel::from_state(second)?,
                Channel::from_state(third)?,
            ],
            nmi_control: state.nmi_control,
        };
        Ok(())
    }
}

impl Default for Pit {
    fn default() -> Self {
        Self::new()
    }
}
