//! The registers of the 16550A and their bits.

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

bitflags! {
    /// Interrupt enable register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Ier: u8 {
        /// Received data available.
        const ERBFI = 1 << 0;
        /// Transmitter holding register empty.
        const ETBEI = 1 << 1;
        /// Receiver line status.
        const ELSI = 1 << 2;
        /// Modem status.
        const EDSSI = 1 << 3;
    }

    /// Modem control register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Mcr: u8 {
        /// Data terminal ready.
        const DTR = 1 << 0;
        /// Request to send.
        const RTS = 1 << 1;
        /// Auxiliary output 1.
        const OUT1 = 1 << 2;
        /// Auxiliary output 2.
        const OUT2 = 1 << 3;
        /// The transmitter feeds the receiver, the outputs the modem status.
        const LOOP = 1 << 4;
    }

    /// Modem status register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Msr: u8 {
        /// CTS has changed.
        const DCTS = 1 << 0;
        /// DSR has changed.
        const DDSR = 1 << 1;
        /// RI has fallen.
        const TERI = 1 << 2;
        /// DCD has changed.
        const DDCD = 1 << 3;
        /// Clear to send.
        const CTS = 1 << 4;
        /// Data set ready.
        const DSR = 1 << 5;
        /// Ring indicator.
        const RI = 1 << 6;
        /// Data carrier detect.
        const DCD = 1 << 7;
    }
}

/// Register offsets. With LCR's DLAB set, the first two are the divisor latch.
pub(super) const RBR_THR: u16 = 0;
pub(super) const IER: u16 = 1;
pub(super) const IIR_FCR: u16 = 2;
pub(super) const LCR: u16 = 3;
pub(super) const MCR: u16 = 4;
pub(super) const LSR: u16 = 5;
pub(super) const MSR: u16 = 6;
pub(super) const SCR: u16 = 7;

/// Interrupt identification, most urgent first.
pub(super) const IIR_LINE_STATUS: u8 = 0x06;
pub(super) const IIR_DATA_AVAILABLE: u8 = 0x04;
pub(super) const IIR_CHARACTER_TIMEOUT: u8 = 0x0c;
pub(super) const IIR_THR_EMPTY: u8 = 0x02;
pub(super) const IIR_MODEM_STATUS: u8 = 0x00;
pub(super) const IIR_NONE: u8 = 0x01;
/// The FIFOs are enabled.
pub(super) const IIR_FIFOS: u8 = 0xc0;

pub(super) const FCR_ENABLE: u8 = 1 << 0;
pub(super) const FCR_CLEAR_RECEIVER: u8 = 1 << 1;

pub(super) const LCR_DLAB: u8 = 1 << 7;

pub(super) const LSR_DATA_READY: u8 = 1 << 0;
pub(super) const LSR_OVERRUN: u8 = 1 << 1;
/// Transmitter holding register and shift register empty.
pub(super) const LSR_TRANSMITTER_EMPTY: u8 = 0x60;
