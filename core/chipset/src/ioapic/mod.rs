//! The IO-APIC: 24 interrupt inputs, each with an entry that says what message it sends.
//!
//! Follows Intel's 82093AA data sheet (290566-001), with the EOI register that later chipsets
//! added and that version 0x20 announces.
//!
//! Lines are logical: `set_line(pin, true)` means that the device asserts its interrupt, whatever
//! voltage that would be. The polarity bit of an entry is kept and has no effect.

#[cfg(test)]
mod tests;

use crate::InvalidState;
use crate::interrupt::{DeliveryMode, Destination, Message, Trigger};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

/// How many inputs the IO-APIC has.
pub const PINS: u8 = 24;

/// Version 0x20 (has an EOI register), highest redirection entry 23.
const VERSION: u32 = 0x0017_0020;

/// Offsets of the registers that the processor reaches directly.
const IOREGSEL: u16 = 0x00;
const IOWIN: u16 = 0x10;
const EOIR: u16 = 0x40;

/// Indices of the registers behind the window.
const IOAPICID: u8 = 0x00;
const IOAPICVER: u8 = 0x01;
const IOAPICARB: u8 = 0x02;
const IOREDTBL: u8 = 0x10;

/// Fields of a redirection entry.
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL_TRIGGERED: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// Delivery mode: the vector is the 8259s'.
const EXTINT: u64 = 7 << 8;
const LOGICAL: u64 = 1 << 11;
/// What a guest may write: all but the delivery status, the remote IRR and the reserved bits.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

/// The controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoApic {
    state: State,
}

/// What the controller holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The index register.
    pub ioregsel: u8,
    /// The ID register's field, 0 to 15.
    pub id: u8,
    /// The levels of the input lines, bit n for pin n.
    pub lines: u32,
    /// The redirection table.
    pub redirection: [u64; PINS as usize],
}

impl IoApic {
    /// The controller after reset: every pin masked.
    pub fn new() -> Self {
        Self { state: State { ioregsel: 0, id: 0, lines: 0, redirection: [MASKED; PINS as usize] } }
    }

    /// What PC firmware leaves ("virtual wire mode", MultiProcessor Specification § 3.6.2.2): pin 0 passes on what the 8259s ask
    /// for. No line leads there, because the 8259s reach the bootstrap processor by LINT0; but systems look for the pin that
    /// does so, pin by pin, until they find it. Machines that boot without firmware call this before the first instruction.
    pub fn enter_virtual_wire_mode(&mut self) {
        self.state.redirection[0] = EXTINT;
    }

    /// Answers a 32-bit read at `offset` from the controller's base.
    pub fn read(&self, offset: u16) -> u32 {
        match offset {
            IOREGSEL => u32::from(self.state.ioregsel),
            IOWIN => self.read_indirect(),
            _ => 0,
        }
    }

    /// Takes a 32-bit write at `offset` from the controller's base, and gives the messages that
    /// it causes: unmasking a pin or ending an interrupt may find a line still asserted.
    pub fn write(&mut self, offset: u16, value: u32) -> Vec<Message> {
        let [low, ..] = value.to_le_bytes();
        match offset {
            IOREGSEL => self.state.ioregsel = low,
            IOWIN => return self.write_indirect(value).into_iter().collect(),
            EOIR => return self.end_of_interrupt(low),
            _ => {}
        }
        Vec::new()
    }

    /// Drives an input line, and gives the message to send if there is one. Pins that do not
    /// exist are ignored.
    ///
    /// As on hardware an edge at a masked pin is lost; a level is not.
    pub fn set_line(&mut self, pin: u8, level: bool) -> Option<Message> {
        let entry = *self.state.redirection.get(usize::from(pin))?;
        let bit = 1 << pin;
        let rises = level && self.state.lines & bit == 0;
        if level {
            self.state.lines |= bit;
        } else {
            self.state.lines &= !bit;
        }
        if entry & LEVEL_TRIGGERED != 0 {
            self.send_level(pin)
        } else if rises && entry & MASKED == 0 {
            message(entry)
        } else {
            None
        }
    }

    /// A local APIC has ended the level-triggered interrupt `vector`: gives the messages of those
    /// pins whose lines are still (or again) asserted.
    pub fn end_of_interrupt(&mut self, vector: u8) -> Vec<Message> {
        let mut messages = Vec::new();
        for pin in 0..PINS {
            let entry = &mut self.state.redirection[usize::from(pin)];
            let [its_vector, ..] = entry.to_le_bytes();
            if its_vector == vector && *entry & REMOTE_IRR != 0 {
                *entry &= !REMOTE_IRR;
                messages.extend(self.send_level(pin));
            }
        }
        messages
    }

    /// Sends a level-triggered pin's message if its line is asserted and nobody is at it already.
    fn send_level(&mut self, pin: u8) -> Option<Message> {
        let asserted = self.state.lines & (1 << pin) != 0;
        let entry = &mut self.state.redirection[usize::from(pin)];
        if !asserted || *entry & (MASKED | REMOTE_IRR) != 0 {
            return None;
        }
        let message = message(*entry)?;
        if matches!(message.delivery_mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority) {
            *entry |= REMOTE_IRR;
        }
        Some(message)
    }

    fn read_indirect(&self) -> u32 {
        match self.state.ioregsel {
            IOAPICID | IOAPICARB => u32::from(self.state.id) << 24,
            IOAPICVER => VERSION,
            index => match self.entry_half(index) {
                Some((pin, false)) => self.state.redirection[pin] as u32,
                Some((pin, true)) => (self.state.redirection[pin] >> 32) as u32,
                None => 0,
            },
        }
    }

    fn write_indirect(&mut self, value: u32) -> Option<Message> {
        let index = self.state.ioregsel;
        if index == IOAPICID {
            let [.., high] = value.to_le_bytes();
            self.state.id = high & 0x0f;
            return None;
        }
        let (pin, is_high) = self.entry_half(index)?;
        let entry = &mut self.state.redirection[pin];
        let (value, writable) = if is_high {
            (u64::from(value) << 32, WRITABLE & !0xffff_ffff)
        } else {
            (u64::from(value), WRITABLE & 0xffff_ffff)
        };
        *entry = *entry & !writable | value & writable;
        if *entry & LEVEL_TRIGGERED == 0 {
            // Old drivers end an interrupt by switching the pin to edge and back.
            *entry &= !REMOTE_IRR;
            return None;
        }
        self.send_level(pin as u8)
    }

    /// The pin whose entry the index selects, and whether it is its high half.
    fn entry_half(&self, index: u8) -> Option<(usize, bool)> {
        let register = index.checked_sub(IOREDTBL)?;
        let pin = register / 2;
        (pin < PINS).then_some((usize::from(pin), register % 2 == 1))
    }

    /// What the controller holds.
    pub fn save(&self) -> State {
        self.state.clone()
    }

    /// Puts back what [`IoApic::save`] gave.
    ///
    /// # Errors
    ///
    /// If a register holds what it cannot; nothing is changed then.
    pub fn restore(&mut self, state: &State) -> Result<(), InvalidState> {
        let refuse = |reason| Err(InvalidState { device: "IO-APIC", reason });
        if state.id > 15 {
            return refuse("its ID is above 15");
        }
        if state.lines >> PINS != 0 {
            return refuse("a line is asserted that does not exist");
        }
        for entry in state.redirection {
            if entry & !(WRITABLE | REMOTE_IRR) != 0 {
                return refuse("a redirection entry has reserved bits set");
            }
            if entry & (REMOTE_IRR | LEVEL_TRIGGERED) == REMOTE_IRR {
                return refuse("an edge-triggered interrupt awaits its end");
            }
        }
        self.state = state.clone();
        Ok(())
    }
}

impl Default for IoApic {
    fn default() -> Self {
        Self::new()
    }
}

/// What a redirection entry sends. `None` for reserved delivery modes.
fn message(entry: u64) -> Option<Message> {
    let [.., target] = entry.to_le_bytes();
    let destination = Destination::from_8_bits(target, entry & LOGICAL != 0);
    let message = Message::from_fields(destination, (entry & 0xffff_ffff) as u32)?;
    let trigger = match message.delivery_mode {
        DeliveryMode::Fixed | DeliveryMode::LowestPriority => message.trigger,
        // The others are edges, whatever the entry says.
        _ => Trigger::Edge,
    };
    Some(Message { trigger, ..message })
}
