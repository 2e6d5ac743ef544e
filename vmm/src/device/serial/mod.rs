//! The serial port that is the guest's console.
//!
//! What the guest sends is written to the host while no lock on the port is held, so that a host that takes nothing does
//! not keep other processors, or what the user types, from getting through.

mod receiver;

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tern_chipset::uart::Uart;
use tern_chipset::{InvalidState, Time};
use tern_engine::Clock;

use super::register;
use crate::bus::{ByteDevice, Request};
use crate::irq::IrqLine;
use crate::lock;
use crate::saved::SerialState;
use crate::schedule::{Alarm, Timed};
use receiver::Receiver;

/// Offset of the FIFO control register.
const FCR: u64 = 2;
/// Offset of the line status register, and its bit "data ready".
const LSR: u64 = 5;
const DATA_READY: u8 = 1 << 0;

pub(crate) struct Serial {
    state: Mutex<State>,
    /// The receiver has taken something.
    room: Condvar,
    clock: Arc<Clock>,
    output: Mutex<Box<dyn Write + Send>>,
}

struct State {
    uart: Uart,
    receiver: Receiver,
    line: IrqLine,
    alarm: Alarm,
}

impl Serial {
    /// A port that sends to `output`, which may wait but must not fail: a guest has no way to know.
    pub(super) fn new(line: IrqLine, alarm: Alarm, clock: Arc<Clock>, output: Box<dyn Write + Send>) -> Self {
        let state = State { uart: Uart::new(), receiver: Receiver::default(), line, alarm };
        Self { state: Mutex::new(state), room: Condvar::new(), clock, output: Mutex::new(output) }
    }

    /// The port's state; what is offered from now on is not taken.
    pub(super) fn depart(&self) -> SerialState {
        let mut state = lock(&self.state);
        SerialState { uart: state.uart.save(), waiting: state.receiver.depart() }
    }

    /// Takes over a state as it is: what waits is handed over when time goes on. An interrupt that rose now would be lost, as
    /// the interrupt controllers take over their states after this.
    pub(super) fn restore(&self, saved: &SerialState) -> Result<(), InvalidState> {
        let State { uart, receiver, line, alarm } = &mut *lock(&self.state);
        uart.restore(&saved.uart)?;
        receiver.restore(&saved.waiting);
        line.set(uart.interrupt());
        alarm.set(receiver.deadline(uart));
        Ok(())
    }

    /// What waits to be received still does.
    pub(super) fn reset(&self) {
        let mut state = lock(&self.state);
        state.uart = Uart::new();
        state.receiver.reset();
        self.settle(&mut state, self.clock.now());
    }

    /// Takes as many of `bytes` as there is room for now.
    pub(crate) fn offer(&self, bytes: &[u8]) -> usize {
        let mut state = lock(&self.state);
        let taken = state.receiver.push(bytes);
        self.settle(&mut state, self.clock.now());
        taken
    }

    /// Waits until [`Serial::offer`] takes something, at most for `patience`.
    pub(crate) fn wait_for_room(&self, patience: Duration) {
        let state = lock(&self.state);
        let waited = self.room.wait_timeout_while(state, patience, |state| state.receiver.room() == 0);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn settle(&self, state: &mut State, now: Time) {
        let State { uart, receiver, line, alarm } = state;
        if receiver.deliver(uart, now) {
            self.room.notify_all();
        }
        line.set(uart.interrupt());
        alarm.set(receiver.deadline(uart));
    }
}

impl ByteDevice for Serial {
    fn read_byte(&self, offset: u64, now: Time) -> u8 {
        let mut state = lock(&self.state);
        let value = state.uart.read(register(offset));
        if offset == LSR {
            state.receiver.status_was_read(value & DATA_READY != 0);
        }
        self.settle(&mut state, now);
        value
    }

    fn write_byte(&self, offset: u64, value: u8, now: Time) -> Option<Request> {
        let mut state = lock(&self.state);
        let before = (offset == FCR).then(|| state.uart.save());
        let sent = state.uart.write(register(offset), value);
        state.receiver.port_was_written();
        if let Some(before) = before
            && state.uart.save().received.is_empty()
        {
            state.receiver.take_back(&before);
        }
        self.settle(&mut state, now);
        drop(state);
        if let Some(byte) = sent {
            // The machine hears of a broken console by other ways than through its guest.
            let _ = lock(&self.output).write_all(&[byte]);
        }
        None
    }
}

impl Timed for Serial {
    fn ring(&self, now: Time) {
        self.settle(&mut lock(&self.state), now);
    }
}
