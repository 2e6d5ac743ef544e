//! A function's interrupts on their way to the engine.

use std::sync::Arc;

use tern_chipset::pci::MsiMessage;
use tern_engine::{Message, MessageInterrupt, Vm};
use tern_virtio::interrupts::InterruptSink;

use crate::irq::IrqLine;

/// One function's interrupts.
pub(super) struct EngineInterrupts {
    vm: Arc<dyn Vm>,
    line: IrqLine,
    /// Those that were sent already, by vector.
    vectors: Vec<Option<Vector>>,
}

/// A message that the engine knows.
struct Vector {
    message: Message,
    interrupt: Box<dyn MessageInterrupt>,
}

impl EngineInterrupts {
    pub(super) fn new(vm: Arc<dyn Vm>, line: IrqLine) -> Self {
        Self { vm, line, vectors: Vec::new() }
    }

    /// The vector's interrupt with this message. The engine hears of a message when it is first sent, and not each time that a
    /// guest masks or moves it: that costs more than the interrupt itself.
    fn interrupt(&mut self, vector: u16, message: Message) -> Option<&dyn MessageInterrupt> {
        let index = usize::from(vector);
        if self.vectors.len() <= index {
            self.vectors.resize_with(index + 1, || None);
        }
        let place = &mut self.vectors[index];
        if place.is_none() {
            let interrupt = self.vm.message_interrupt().ok()?;
            interrupt.set_message(Some(message)).ok()?;
            *place = Some(Vector { message, interrupt });
        }
        let vector = place.as_mut()?;
        if vector.message != message {
            vector.interrupt.set_message(Some(message)).ok()?;
            vector.message = message;
        }
        Some(&*vector.interrupt)
    }
}

impl InterruptSink for EngineInterrupts {
    fn send(&mut self, vector: u16, message: MsiMessage) {
        let MsiMessage { address, data } = message;
        match self.interrupt(vector, Message { address, data }) {
            Some(interrupt) => interrupt.signal(),
            // The engine has no room for another: it goes the slower way.
            None => self.vm.signal_msi(address, data),
        }
    }

    fn set_line(&mut self, level: bool) {
        self.line.set(level);
    }
}
