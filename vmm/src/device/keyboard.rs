//! The keyboard controller at ports 0x60 and 0x64, through which many systems reset a PC.

use std::sync::Mutex;

use tern_chipset::i8042::{self, I8042};
use tern_chipset::{InvalidState, Time};

use crate::bus::{ByteDevice, Request};
use crate::irq::IrqLine;
use crate::lock;

/// Offset of the data port.
pub(super) const DATA: u64 = 0;
/// Offset of the command and status port.
pub(super) const COMMAND: u64 = 4;

pub(super) struct Keyboard(Mutex<State>);

struct State {
    controller: I8042,
    line: IrqLine,
}

impl Keyboard {
    pub(super) fn new(line: IrqLine) -> Self {
        Self(Mutex::new(State { controller: I8042::new(), line }))
    }

    pub(super) fn save(&self) -> i8042::State {
        lock(&self.0).controller.save()
    }

    pub(super) fn restore(&self, saved: &i8042::State) -> Result<(), InvalidState> {
        let mut state = lock(&self.0);
        state.controller.restore(saved)?;
        state.settle();
        Ok(())
    }

    pub(super) fn reset(&self) {
        let mut state = lock(&self.0);
        state.controller = I8042::new();
        state.settle();
    }
}

impl State {
    fn settle(&mut self) {
        self.line.set(self.controller.interrupt());
    }
}

impl ByteDevice for Keyboard {
    fn read_byte(&self, offset: u64, _now: Time) -> u8 {
        let mut state = lock(&self.0);
        if offset == COMMAND {
            return state.controller.read_status();
        }
        let value = state.controller.read_data();
        state.settle();
        value
    }

    fn write_byte(&self, offset: u64, value: u8, _now: Time) -> Option<Request> {
        let mut state = lock(&self.0);
        let event = if offset == COMMAND {
            state.controller.write_command(value)
        } else {
            state.controller.write_data(value)
        };
        state.settle();
        event.map(Request::from)
    }
}
