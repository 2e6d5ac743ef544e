//! The state of the controllers and the timer after power-on, as firmware would leave it: the same on every engine.

use tern_chipset::ioapic::{self, IoApic};
use tern_chipset::lapic::{self, LocalApic};
use tern_chipset::pic::{self, Pic};
use tern_chipset::pit::{self, Pit};

/// The 8259s.
#[must_use]
pub fn pic() -> pic::State {
    Pic::new().save()
}

/// The IO-APIC.
#[must_use]
pub fn ioapic() -> ioapic::State {
    let mut ioapic = IoApic::new();
    ioapic.enter_virtual_wire_mode();
    ioapic.save()
}

/// The interval timer.
#[must_use]
pub fn pit() -> pit::State {
    Pit::new().save()
}

/// Processor `index`'s local APIC: the first one's lets the 8259's interrupts through.
#[must_use]
pub fn lapic(index: u32) -> lapic::State {
    let mut apic = LocalApic::new(index, index == 0);
    if index == 0 {
        apic.enter_virtual_wire_mode();
    }
    apic.save()
}
