//! The reset control register at port 0xcf9, as Intel's chipsets have it (82371AB data sheet).
//! ACPI's RESET_REG points here.

use super::SystemEvent;
use serde::{Deserialize, Serialize};

/// Bit 2: its rising edge resets.
const RCPU: u8 = 1 << 2;
/// Bit 1: the reset is a hard one.
const SRST: u8 = 1 << 1;

/// The register. Soft and hard resets both start the whole machine over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetControl {
    hard: bool,
}

impl ResetControl {
    /// The value to be written for a hard reset: what ACPI's RESET_VALUE says.
    pub const HARD_RESET: u8 = RCPU | SRST;

    /// The register after reset.
    pub fn new() -> Self {
        Self::default()
    }

    /// Answers a read.
    pub fn read(&self) -> u8 {
        if self.hard { SRST } else { 0 }
    }

    /// Takes a write, which may reset the machine.
    pub fn write(&mut self, value: u8) -> Option<SystemEvent> {
        self.hard = value & SRST != 0;
        (value & RCPU != 0).then_some(SystemEvent::Reset)
    }
}
