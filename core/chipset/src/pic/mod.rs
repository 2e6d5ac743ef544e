//! The pair of 8259A interrupt controllers, with the edge/level control registers (ELCR).
//!
//! Follows Intel's 8259A data sheet (231468-003), and for the ELCR and the fixed cascade the
//! 82371AB (PIIX4) data sheet.
//!
//! ```text
//!   irq 8..15 ──▶ ┌───────────┐ INT
//!                 │ secondary ├──────┐
//!                 └───────────┘      ▼ 2
//!   irq 0,1,3..7 ─────────────▶ ┌─────────┐ INT
//!                               │ primary ├─────▶ output(): the processors' INTR / LINT0
//!                               └─────────┘
//! ```
//!
//! Where the PC differs from the bare chip, this is the PC: the ELCR decides between edge and
//! level for each input (ICW1's LTIM is ignored), and the two chips are always cascaded (ICW1's
//! SNGL is ignored).
//!
//! One liberty is taken: an edge that has been seen stays requested even if the line falls before
//! it is acknowledged. The chip would answer with the spurious vector then. The kernels that
//! emulate this chip all do the same, since the shorter pulses of an emulated timer would
//! otherwise be lost.

mod chip;
#[cfg(test)]
mod tests;

use crate::InvalidState;
use chip::Chip;
pub use chip::{ChipState, Initialization};
use serde::{Deserialize, Serialize};

/// The primary's input that the secondary's output is wired to.
const CASCADE: u8 = 2;

/// Which inputs may be level-triggered: not the timer, the keyboard, the cascade, the real-time
/// clock, nor the coprocessor's error.
const ELCR_MASK: [u8; 2] = [0xf8, 0xde];

/// Both controllers as one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pic {
    primary: Chip,
    secondary: Chip,
}

/// What the two controllers hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The controller at port 0x20.
    pub primary: ChipState,
    /// The controller at port 0xa0.
    pub secondary: ChipState,
}

impl Pic {
    /// The controllers after power-on: nothing requested, vectors not yet programmed.
    pub fn new() -> Self {
        Self { primary: Chip::new(true), secondary: Chip::new(false) }
    }

    /// Answers a read from one of the six ports. Reads change the state in poll mode only.
    pub fn read(&mut self, port: u16) -> u8 {
        let value = match port {
            0x20 => self.primary.read_command(),
            0x21 => self.primary.read_data(),
            0xa0 => self.secondary.read_command(),
            0xa1 => self.secondary.read_data(),
            0x4d0 => self.primary.elcr(),
            0x4d1 => self.secondary.elcr(),
            _ => 0xff,
        };
        self.cascade();
        value
    }

    /// Takes a write to one of the six ports. [`Pic::output`] may change.
    pub fn write(&mut self, port: u16, value: u8) {
        match port {
            0x20 => self.primary.write_command(value),
            0x21 => self.primary.write_data(value),
            0xa0 => self.secondary.write_command(value),
            0xa1 => self.secondary.write_data(value),
            0x4d0 => self.primary.set_elcr(value & ELCR_MASK[0]),
            0x4d1 => self.secondary.set_elcr(value & ELCR_MASK[1]),
            _ => {}
        }
        self.cascade();
    }

    /// Drives an input line, 0 to 15. Line 2 is the cascade and not connected to anything else;
    /// it and numbers above 15 are ignored.
    pub fn set_line(&mut self, irq: u8, level: bool) {
        match irq {
            CASCADE => {}
            0..8 => self.primary.set_line(irq, level),
            8..16 => self.secondary.set_line(irq - 8, level),
            _ => {}
        }
        self.cascade();
    }

    /// The INT pin: whether the processor is asked to acknowledge an interrupt.
    pub fn output(&self) -> bool {
        self.primary.output()
    }

    /// The processor's interrupt-acknowledge cycle: the vector to enter.
    ///
    /// If nothing is requested any more, it is the spurious one: input 7 of whichever controller
    /// found nothing, with nothing marked in service there.
    pub fn acknowledge(&mut self) -> u8 {
        let vector = match self.primary.acknowledge() {
            Some(CASCADE) => {
                let input = self.secondary.acknowledge();
                self.secondary.vector(input.unwrap_or(7))
            }
            input => self.primary.vector(input.unwrap_or(7)),
        };
        self.cascade();
        vector
    }

    /// Drives the secondary's output onto the primary's input.
    fn cascade(&mut self) {
        self.primary.set_cascade(self.secondary.output());
    }

    /// What the controllers hold.
    pub fn save(&self) -> State {
        State { primary: self.primary.save(), secondary: self.secondary.save() }
    }

    /// Puts back what [`Pic::save`] gave.
    ///
    /// # Errors
    ///
    /// If a register holds what it cannot; nothing is changed then.
    pub fn restore(&mut self, state: &State) -> Result<(), InvalidState> {
        let [primary_mask, secondary_mask] = ELCR_MASK;
        if state.primary.elcr & !primary_mask != 0 || state.secondary.elcr & !secondary_mask != 0 {
            return Err(InvalidState {
                device: "8259 interrupt controllers",
                reason: "an input that is always edge-triggered is set to level-triggered",
            });
        }
        let primary = Chip::from_state(&state.primary, true)?;
        let secondary = Chip::from_state(&state.secondary, false)?;
        *self = Self { primary, secondary };
        self.cascade();
        Ok(())
    }
}

impl Default for Pic {
    fn default() -> Self {
        Self::new()
    }
}
