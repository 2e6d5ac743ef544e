//! What was typed or piped in, on its way into the serial port's receiver.
//!
//! A serial line has no flow control that guests use, and they clear the receiver when they open the port: bytes that come
//! too early or too fast are lost, on hardware as well. Scripts that drive a guest need better, so a byte is handed to
//! the port only when
//!
//! * the guest listens: it has enabled the receiver's interrupt, or it polls the line status without sending anything
//!   (small kernels; a Linux that prints looks at the status between any two bytes, too, but sends them);
//! * it has read all that came before; and
//! * the line is free: a byte takes as long as at 115,200 baud, the fastest that a 16550A does. Linux's line discipline
//!   then keeps 68 KiB for a reader that is late, and one that is slow has some six seconds to catch up.
//!
//! Bytes that the guest clears from the FIFO unread are taken back and come again: a driver that enables the FIFOs right
//! after the interrupt, as Linux does, would lose the first ones.

use std::collections::VecDeque;

use tern_chipset::Time;
use tern_chipset::uart::{FIFO_SIZE, Ier, Mcr, State, Uart};

/// How many bytes wait here at most; whoever offers more keeps them.
const CAPACITY: usize = 256;

/// One start bit, eight data bits and one stop bit at 115,200 baud, in nanoseconds.
const CHARACTER: u64 = 10 * 1_000_000_000 / 115_200;

/// A guest that reads the line status as often as this without writing to the port is waiting for input.
const POLLS: u32 = 16;

/// Bytes on their way to the receiver.
#[derive(Debug, Default)]
pub(super) struct Receiver {
    waiting: VecDeque<u8>,
    /// At most so many of the bytes that the port holds were handed over, and these are its first.
    handed_over: usize,
    /// When the last byte that was handed over has arrived.
    line_is_free: Time,
    /// How often the status was read since the port was last written to.
    polls: u32,
    /// The guest polls for input.
    is_polled: bool,
    /// The machine goes on elsewhere.
    has_departed: bool,
}

impl Receiver {
    /// Bytes that can be pushed.
    pub(super) fn room(&self) -> usize {
        if self.has_departed { 0 } else { CAPACITY.saturating_sub(self.waiting.len()) }
    }

    /// Takes as many of `bytes` as there is room for.
    pub(super) fn push(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        self.waiting.extend(&bytes[..taken]);
        taken
    }

    /// Gives up what waits, and takes no more.
    pub(super) fn depart(&mut self) -> Vec<u8> {
        self.has_departed = true;
        self.waiting.drain(..).collect()
    }

    /// Takes over what waited elsewhere.
    pub(super) fn restore(&mut self, waiting: &[u8]) {
        self.waiting = waiting.iter().copied().collect();
        self.handed_over = FIFO_SIZE;
    }

    /// Forgets what is known about the guest, but not what waits for it.
    pub(super) fn reset(&mut self) {
        self.handed_over = 0;
        self.polls = 0;
        self.is_polled = false;
    }

    /// The guest has read the line status.
    pub(super) fn status_was_read(&mut self, data_ready: bool) {
        if !data_ready {
            self.polls = self.polls.saturating_add(1);
            self.is_polled |= self.polls >= POLLS;
        }
    }

    /// The guest has written to the port.
    pub(super) fn port_was_written(&mut self) {
        self.polls = 0;
    }

    /// The receiver was cleared; `before` is what the port held.
    pub(super) fn take_back(&mut self, before: &State) {
        // In a loop, the bytes are the guest's own; so are those that are left from one.
        let count = before.received.len().min(std::mem::take(&mut self.handed_over));
        if !before.mcr.contains(Mcr::LOOP) {
            for byte in before.received[..count].iter().rev() {
                self.waiting.push_front(*byte);
            }
        }
    }

    /// Hands over what the port takes at `now`, and says whether that was anything.
    pub(super) fn deliver(&mut self, uart: &mut Uart, now: Time) -> bool {
        if self.deadline(uart).is_none_or(|deadline| now < deadline) {
            return false;
        }
        let next: Vec<u8> = self.waiting.iter().copied().take(FIFO_SIZE).collect();
        let taken = uart.receive(&next);
        self.waiting.drain(..taken);
        self.handed_over = taken;
        self.line_is_free = now + Time::from_nanos(CHARACTER * taken as u64);
        taken > 0
    }

    /// When the next bytes can be handed over; `None` as long as that depends on the guest.
    pub(super) fn deadline(&self, uart: &Uart) -> Option<Time> {
        if self.waiting.is_empty() || uart.room() == 0 {
            return None;
        }
        let port = uart.save();
        let listens = port.ier.contains(Ier::ERBFI) || self.is_polled;
        (listens && port.received.is_empty()).then_some(self.line_is_free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RBR: u16 = 0;
    const IER: u16 = 1;
    const FCR: u16 = 2;
    const MCR: u16 = 4;

    fn listening() -> (Uart, Receiver) {
        let mut uart = Uart::new();
        uart.write(FCR, 1);
        uart.write(IER, 1);
        (uart, Receiver::default())
    }

    fn read_all(uart: &mut Uart) -> Vec<u8> {
        let count = uart.save().received.len();
        (0..count).map(|_| uart.read(RBR)).collect()
    }

    fn after(characters: u64) -> Time {
        Time::from_nanos(characters * CHARACTER)
    }

    #[test]
    fn nothing_reaches_a_guest_that_does_not_listen() {
        let (mut uart, mut receiver) = (Uart::new(), Receiver::default());
        assert_eq!(receiver.push(b"ls"), 2);
        assert!(!receiver.deliver(&mut uart, after(1000)));
        assert_eq!(receiver.deadline(&uart), None);
        uart.write(IER, 1);
        assert!(receiver.deliver(&mut uart, after(1000)));
        assert_eq!(uart.read(RBR), b'l');
    }

    #[test]
    fn a_guest_that_polls_without_sending_listens() {
        let (mut uart, mut receiver) = (Uart::new(), Receiver::default());
        receiver.push(b"x");
        for _ in 0..10 * POLLS {
            receiver.status_was_read(false);
            receiver.port_was_written();
        }
        assert!(!receiver.deliver(&mut uart, Time::ZERO), "it was only printing");
        for _ in 0..POLLS {
            receiver.status_was_read(false);
        }
        assert!(receiver.deliver(&mut uart, Time::ZERO));
    }

    #[test]
    fn bytes_come_at_the_pace_of_a_line_and_in_order() {
        let (mut uart, mut receiver) = listening();
        receiver.push(b"0123456789abcdefghij");
        assert!(receiver.deliver(&mut uart, Time::ZERO));
        assert_eq!(receiver.deadline(&uart), None, "the guest has not read yet");
        assert_eq!(read_all(&mut uart), b"0123456789abcdef");
        assert_eq!(receiver.deadline(&uart), Some(after(16)));
        assert!(!receiver.deliver(&mut uart, after(15)));
        assert!(receiver.deliver(&mut uart, after(16)));
        assert_eq!(read_all(&mut uart), b"ghij");
    }

    #[test]
    fn what_the_guest_clears_unread_comes_again() {
        let (mut uart, mut receiver) = listening();
        receiver.push(b"script");
        receiver.deliver(&mut uart, Time::ZERO);
        assert_eq!(uart.read(RBR), b's');
        let before = uart.save();
        uart.write(FCR, 0b11);
        receiver.take_back(&before);
        assert!(receiver.deliver(&mut uart, after(6)));
        assert_eq!(read_all(&mut uart), b"cript");
    }

    #[test]
    fn a_guest_that_talks_to_itself_is_left_alone() {
        let (mut uart, mut receiver) = listening();
        uart.write(MCR, 0x10);
        uart.write(RBR, b'?');
        receiver.push(b"x");
        assert_eq!(receiver.deadline(&uart), None);
        let before = uart.save();
        uart.write(FCR, 0b11);
        receiver.take_back(&before);
        uart.write(MCR, 0);
        assert!(receiver.deliver(&mut uart, Time::ZERO));
        assert_eq!(read_all(&mut uart), b"x");
    }

    #[test]
    fn what_a_guest_sent_itself_does_not_come_again_without_end() {
        let (mut uart, mut receiver) = listening();
        receiver.push(b"x");
        receiver.deliver(&mut uart, Time::ZERO);
        for _ in 0..3 {
            uart.write(MCR, 0x10);
            for byte in b"0123456789abcdef" {
                uart.write(RBR, *byte);
            }
            uart.write(MCR, 0);
            let before = uart.save();
            uart.write(FCR, 0b11);
            receiver.take_back(&before);
        }
        assert!(receiver.deliver(&mut uart, after(1)));
        assert_eq!(read_all(&mut uart), b"x");
    }

    #[test]
    fn no_more_is_taken_than_there_is_room_for() {
        let (mut uart, mut receiver) = listening();
        assert_eq!(receiver.push(&[0; CAPACITY + 10]), CAPACITY);
        assert_eq!((receiver.room(), receiver.push(b"x")), (0, 0));
        receiver.deliver(&mut uart, Time::ZERO);
        assert_eq!(receiver.room(), FIFO_SIZE);
    }
}
