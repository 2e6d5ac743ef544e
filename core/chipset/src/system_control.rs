//! Port 0x92, "system control port A": fast reset and the A20 gate of the PS/2 and its successors.

use crate::power::SystemEvent;
use serde::{Deserialize, Serialize};

/// Bit 0: a rising edge resets the processor.
const FAST_RESET: u8 = 1 << 0;
/// Bit 1: address line 20 is not forced to zero.
const A20: u8 = 1 << 1;

/// The port. Address line 20 is never really gated, only the bit is kept: no machine since the
/// 386's days needs the wrap, and every boot path starts with the line enabled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemControl {
    a20: bool,
}

impl SystemControl {
    /// The port after reset, with A20 enabled.
    pub fn new() -> Self {
        Self { a20: true }
    }

    /// Answers a read.
    pub fn read(&self) -> u8 {
        if self.a20 { A20 } else { 0 }
    }

    /// Takes a write, which may reset the machine.
    pub fn write(&mut self, value: u8) -> Option<SystemEvent> {
        self.a20 = value & A20 != 0;
        (value & FAST_RESET != 0).then_some(SystemEvent::Reset)
    }
}

impl Default for SystemControl {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bit_0_resets_and_bit_1_is_kept() {
        let mut port = SystemControl::new();
        assert_eq!(port.read(), 0x02);
        assert_eq!(port.write(0x00), None);
        assert_eq!(port.read(), 0x00);
        assert_eq!(port.write(0x02), None);
        assert_eq!(port.read(), 0x02);
        assert_eq!(port.write(0x03), Some(SystemEvent::Reset));
    }
}
