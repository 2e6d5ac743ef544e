//! The two 8259 interrupt controllers and the interval timer behind them.

use iced_x86::code_asm::*;

use crate::guest::Emit;
use crate::long::Long;

/// The vector of the first controller's first line; the second's follow.
pub const FIRST_VECTOR: u8 = 0x20;

/// Writes a byte to a port. AL and DX are lost.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn out(g: &mut Long, port: u16, value: u8) -> Emit {
    g.mov(dx, i32::from(port))?;
    g.mov(al, i32::from(value))?;
    g.out(dx, al)
}

/// Initializes both controllers and opens the lines whose bits are set in `lines`.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn initialize(g: &mut Long, lines: u16) -> Emit {
    let [first, second] = (!lines).to_le_bytes();
    let words = [
        (0x20, 0x11),
        (0x21, FIRST_VECTOR),
        (0x21, 4),
        (0x21, 1),
        (0xa0, 0x11),
        (0xa1, FIRST_VECTOR + 8),
        (0xa1, 2),
        (0xa1, 1),
        (0x21, first),
        (0xa1, second),
    ];
    words.into_iter().try_for_each(|(port, value)| out(g, port, value))
}

/// Starts channel 0 of the interval timer in mode 2 with this divisor of 1.193182 MHz.
///
/// # Errors
/// The instructions cannot be encoded.
pub fn start_timer(g: &mut Long, divisor: u16) -> Emit {
    let [low, high] = divisor.to_le_bytes();
    [(0x43, 0x34), (0x40, low), (0x40, high)].into_iter().try_for_each(|(port, value)| out(g, port, value))
}
