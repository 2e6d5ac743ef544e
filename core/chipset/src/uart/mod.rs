//! The 16550A serial port.
//!
//! Follows the PC16550D data sheet (National Semiconductor, TL/C/8652) register by register.
//!
//! The line is infinitely fast: a byte written to the transmitter is handed to the owner at once,
//! and the transmitter is empty again. Two things follow from it, and are as a driver expects:
//! the "transmitter holding register empty" interrupt comes right after each write, and received
//! bytes below the trigger level are announced (as the character timeout) without a wait.
//!
//! The interrupt output is not gated by OUT2 (MCR bit 3), as it is on a PC's serial card: small
//! kernels that have only met virtual machines leave OUT2 off.

mod fifo;
mod registers;
#[cfg(test)]
mod tests;

use crate::InvalidState;
pub use fifo::FIFO_SIZE;
use fifo::Fifo;
use registers::*;
pub use registers::{Ier, Mcr, Msr};
use serde::{Deserialize, Serialize};

/// The other end of the cable is there and ready, always.
const CONNECTED: Msr = Msr::CTS.union(Msr::DSR).union(Msr::DCD);

/// One serial port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uart {
    received: Fifo,
    ier: Ier,
    fifos_enabled: bool,
    /// FCR bits 7:6.
    trigger: u8,
    lcr: u8,
    mcr: Mcr,
    overrun: bool,
    msr: Msr,
    scr: u8,
    divisor: [u8; 2],
    /// The transmitter has become empty, and nobody has been told yet.
    thr_empty_pending: bool,
}

/// What a serial port holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The bytes received and not yet read: one, or up to [`FIFO_SIZE`] with the FIFOs enabled.
    pub received: alloc::vec::Vec<u8>,
    /// Interrupt enable register.
    pub ier: Ier,
    /// FIFO control register: FIFOs enabled, receiver trigger level.
    pub fcr: u8,
    /// Line control register.
    pub lcr: u8,
    /// Modem control register.
    pub mcr: Mcr,
    /// Line status register: the overrun error.
    pub overrun: bool,
    /// Modem status register.
    pub msr: Msr,
    /// Scratch register.
    pub scr: u8,
    /// Divisor latch.
    pub divisor: u16,
    /// The "transmitter holding register empty" interrupt is pending.
    pub thr_empty_pending: bool,
}

impl Uart {
    /// The port after reset, at 9600 baud, its cable connected.
    pub fn new() -> Self {
        Self {
            received: Fifo::default(),
            ier: Ier::empty(),
            fifos_enabled: false,
            trigger: 0,
            lcr: 0,
            mcr: Mcr::empty(),
            overrun: false,
            msr: CONNECTED,
            scr: 0,
            divisor: [12, 0],
            thr_empty_pending: false,
        }
    }

    /// Answers a read of the register at `offset`, 0 to 7.
    pub fn read(&mut self, offset: u16) -> u8 {
        let latch = self.lcr & LCR_DLAB != 0;
        match offset {
            RBR_THR if latch => self.divisor[0],
            IER if latch => self.divisor[1],
            RBR_THR => self.received.pop().unwrap_or(0),
            IER => self.ier.bits(),
            IIR_FCR => self.read_iir(),
            LCR => self.lcr,
            MCR => self.mcr.bits(),
            LSR => self.read_lsr(),
            MSR => {
                let value = self.msr.bits();
                self.msr &= !(Msr::DCTS | Msr::DDSR | Msr::TERI | Msr::DDCD);
                value
            }
            SCR => self.scr,
            _ => 0xff,
        }
    }

    /// Takes a write to the register at `offset`, 0 to 7, and gives the byte that it transmits.
    pub fn write(&mut self, offset: u16, value: u8) -> Option<u8> {
        let latch = self.lcr & LCR_DLAB != 0;
        match offset {
            RBR_THR if latch => self.divisor[0] = value,
            IER if latch => self.divisor[1] = value,
            RBR_THR => return self.transmit(value),
            IER => {
                let enabled = Ier::from_bits_truncate(value);
                if (enabled - self.ier).contains(Ier::ETBEI) {
                    // The transmitter is empty, so enabling its interrupt raises it.
                    self.thr_empty_pending = true;
                }
                self.ier = enabled;
            }
            IIR_FCR => self.write_fcr(value),
            LCR => self.lcr = value,
            MCR => self.write_mcr(Mcr::from_bits_truncate(value)),
            SCR => self.scr = value,
            // LSR and MSR are read-only.
            _ => {}
        }
        None
    }

    /// The level of the interrupt output.
    pub fn interrupt(&self) -> bool {
        self.interrupt_source() != IIR_NONE
    }

    /// How many bytes [`Uart::receive`] accepts at present.
    pub fn room(&self) -> usize {
        if self.mcr.contains(Mcr::LOOP) {
            return 0; // The input is disconnected; the bytes wait at the owner's.
        }
        self.capacity() - self.received.len()
    }

    /// Receives as many of `bytes` as there is room for, and says how many that were.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let accepted = bytes.len().min(self.room());
        for byte in &bytes[..accepted] {
            self.received.push(*byte);
        }
        accepted
    }

    fn capacity(&self) -> usize {
        if self.fifos_enabled { FIFO_SIZE } else { 1 }
    }

    /// How many received bytes are announced as data rather than as a timeout.
    fn trigger_level(&self) -> usize {
        match self.trigger {
            _ if !self.fifos_enabled => 1,
            0 => 1,
            1 => 4,
            2 => 8,
            _ => 14,
        }
    }

    fn interrupt_source(&self) -> u8 {
        let deltas = Msr::DCTS | Msr::DDSR | Msr::TERI | Msr::DDCD;
        if self.ier.contains(Ier::ELSI) && self.overrun {
            IIR_LINE_STATUS
        } else if self.ier.contains(Ier::ERBFI) && self.received.len() >= self.trigger_level() {
            IIR_DATA_AVAILABLE
        } else if self.ier.contains(Ier::ERBFI) && self.received.len() > 0 {
            IIR_CHARACTER_TIMEOUT
        } else if self.ier.contains(Ier::ETBEI) && self.thr_empty_pending {
            IIR_THR_EMPTY
        } else if self.ier.contains(Ier::EDSSI) && self.msr.intersects(deltas) {
            IIR_MODEM_STATUS
        } else {
            IIR_NONE
        }
    }

    /// Reading the IIR acknowledges the transmitter's interrupt, if that is what it tells.
    fn read_iir(&mut self) -> u8 {
        let source = self.interrupt_source();
        if source == IIR_THR_EMPTY {
            self.thr_empty_pending = false;
        }
        if self.fifos_enabled { source | IIR_FIFOS } else { source }
    }

    fn read_lsr(&mut self) -> u8 {
        let mut value = LSR_TRANSMITTER_EMPTY;
        if self.received.len() > 0 {
            value |= LSR_DATA_READY;
        }
        if core::mem::take(&mut self.overrun) {
            value |= LSR_OVERRUN;
        }
        value
    }

    fn write_fcr(&mut self, value: u8) {
        let enable = value & FCR_ENABLE != 0;
        if enable != self.fifos_enabled || value & FCR_CLEAR_RECEIVER != 0 {
            self.received.clear();
        }
        self.fifos_enabled = enable;
        // The other bits take effect only with this one set.
        self.trigger = if enable { value >> 6 } else { 0 };
    }

    fn transmit(&mut self, byte: u8) -> Option<u8> {
        self.thr_empty_pending = true;
        if !self.mcr.contains(Mcr::LOOP) {
            return Some(byte);
        }
        if self.received.len() < self.capacity() {
            self.received.push(byte);
        } else {
            self.overrun = true;
            if !self.fifos_enabled {
                // Without FIFOs the newer byte replaces the older one.
                self.received.clear();
                self.received.push(byte);
            }
        }
        None
    }

    fn write_mcr(&mut self, value: Mcr) {
        self.mcr = value;
        let inputs = if value.contains(Mcr::LOOP) {
            let mut inputs = Msr::empty();
            inputs.set(Msr::CTS, value.contains(Mcr::RTS));
            inputs.set(Msr::DSR, value.contains(Mcr::DTR));
            inputs.set(Msr::RI, value.contains(Mcr::OUT1));
            inputs.set(Msr::DCD, value.contains(Mcr::OUT2));
            inputs
        } else {
            CONNECTED
        };
        let changed = inputs ^ self.msr;
        for (input, delta) in [(Msr::CTS, Msr::DCTS), (Msr::DSR, Msr::DDSR), (Msr::DCD, Msr::DDCD)] {
            if changed.contains(input) {
                self.msr |= delta;
            }
        }
        if (self.msr - inputs).contains(Msr::RI) {
            self.msr |= Msr::TERI;
        }
        let levels = Msr::CTS | Msr::DSR | Msr::RI | Msr::DCD;
        self.msr = (self.msr - levels) | inputs;
    }

    /// What the port holds.
    pub fn save(&self) -> State {
        State {
            received: self.received.iter().collect(),
            ier: self.ier,
            fcr: self.trigger << 6 | u8::from(self.fifos_enabled),
            lcr: self.lcr,
            mcr: self.mcr,
            overrun: self.overrun,
            msr: self.msr,
            scr: self.scr,
            divisor: u16::from_le_bytes(self.divisor),
            thr_empty_pending: self.thr_empty_pending,
        }
    }

    /// Puts back what [`Uart::save`] gave.
    ///
    /// # Errors
    ///
    /// If a register holds what it cannot; nothing is changed then.
    pub fn restore(&mut self, state: &State) -> Result<(), InvalidState> {
        let refuse = |reason| Err(InvalidState { device: "serial port", reason });
        let fifos_enabled = state.fcr & FCR_ENABLE != 0;
        if state.fcr & !(FCR_ENABLE | 0xc0) != 0 || !fifos_enabled && state.fcr != 0 {
            return refuse("the FIFO control register has reserved bits set");
        }
        if Ier::from_bits(state.ier.bits()).is_none() || Mcr::from_bits(state.mcr.bits()).is_none() {
            return refuse("a register has reserved bits set");
        }
        let mut received = Fifo::default();
        for byte in &state.received {
            if !received.push(*byte) {
                return refuse("more bytes were received than fit");
            }
        }
        if !fifos_enabled && received.len() > 1 {
            return refuse("more bytes were received than fit");
        }
        *self = Self {
            received,
            ier: state.ier,
            fifos_enabled,
            trigger: state.fcr >> 6,
            lcr: state.lcr,
            mcr: state.mcr,
            overrun: state.overrun,
            msr: state.msr,
            scr: state.scr,
            divisor: state.divisor.to_le_bytes(),
            thr_empty_pending: state.thr_empty_pending,
        };
        Ok(())
    }
}

impl Default for Uart {
    fn default() -> Self {
        Self::new()
    }
}
