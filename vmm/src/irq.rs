//! Interrupt lines: what a device pulls, without knowing what is at the other end.

use std::sync::{Arc, Mutex};

use tern_engine::Vm;

use crate::lock;

/// One device's end of an interrupt line. The line is high while any of its devices holds it high.
pub(crate) struct IrqLine {
    shared: Arc<Shared>,
    level: bool,
}

struct Shared {
    vm: Arc<dyn Vm>,
    gsi: u32,
    /// How many devices hold the line high.
    holders: Mutex<usize>,
}

impl IrqLine {
    /// A low line to input `gsi` of the interrupt controllers.
    pub(crate) fn new(vm: Arc<dyn Vm>, gsi: u8) -> Self {
        let shared = Shared { vm, gsi: gsi.into(), holders: Mutex::new(0) };
        Self { shared: Arc::new(shared), level: false }
    }

    /// Sets the level. Only changes go further, and in their order.
    pub(crate) fn set(&mut self, level: bool) {
        if level == self.level {
            return;
        }
        self.level = level;
        let Shared { vm, gsi, holders } = &*self.shared;
        let mut holders = lock(holders);
        let was_high = *holders > 0;
        *holders = if level { *holders + 1 } else { *holders - 1 };
        if (*holders > 0) != was_high {
            vm.set_irq_line(*gsi, level);
        }
    }
}

impl Clone for IrqLine {
    /// Another device's end of the same line, low.
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared), level: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::fake::FakeVm;

    #[test]
    fn only_changes_are_forwarded() {
        let vm = Arc::new(FakeVm::default());
        let mut line = IrqLine::new(Arc::<FakeVm>::clone(&vm), 8);
        for level in [false, true, true, false, false] {
            line.set(level);
        }
        assert_eq!(vm.lines(), [(8, true), (8, false)]);
    }

    #[test]
    fn a_shared_line_is_high_while_anyone_holds_it() {
        let vm = Arc::new(FakeVm::default());
        let mut first = IrqLine::new(Arc::<FakeVm>::clone(&vm), 4);
        let mut second = first.clone();
        first.set(true);
        second.set(true);
        first.set(false);
        assert_eq!(vm.lines(), [(4, true)]);
        second.set(false);
        assert_eq!(vm.lines(), [(4, true), (4, false)]);
    }
}
