//! The IO-APIC (`struct kvm_ioapic_state`).
//!
//! The kernel's `irr` stands for the lines, but it injects whatever it finds asserted there: edges that have been delivered
//! already must not be handed over, so only level-triggered inputs are. Coming back, a line that is high at an
//! edge-triggered input looks low; its device will lower and raise it before the next interrupt anyway.

use kvm_bindings::{kvm_ioapic_state, kvm_ioapic_state__bindgen_ty_1};
use tern_chipset::ioapic::{PINS, State};
use tern_chipset::layout::IO_APIC;

const DELIVERY_STATUS: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL_TRIGGERED: u64 = 1 << 15;
/// Vector, modes, polarity, trigger, mask and destination: what a redirection entry has.
const ENTRY: u64 = 0xff00_0000_0001_ffff;

/// The state as the kernel takes it.
#[must_use]
pub fn to_kvm(state: &State) -> kvm_ioapic_state {
    let mut level = 0;
    let mut redirtbl = [kvm_ioapic_state__bindgen_ty_1 { bits: 0 }; PINS as usize];
    for (pin, (entry, bits)) in redirtbl.iter_mut().zip(state.redirection).enumerate() {
        entry.bits = bits;
        level |= u32::from(bits & LEVEL_TRIGGERED != 0) << pin;
    }
    kvm_ioapic_state {
        base_address: IO_APIC.start,
        ioregsel: state.ioregsel.into(),
        id: state.id.into(),
        irr: state.lines & level,
        pad: 0,
        redirtbl,
    }
}

/// The state as the kernel gives it.
#[must_use]
pub fn from_kvm(state: &kvm_ioapic_state) -> State {
    let redirection = state.redirtbl.map(|entry| {
        // SAFETY: both members of the union are the same eight bytes, and integers.
        let bits = unsafe { entry.bits } & ENTRY & !DELIVERY_STATUS;
        // Only a level awaits its end.
        if bits & LEVEL_TRIGGERED == 0 { bits & !REMOTE_IRR } else { bits }
    });
    State {
        ioregsel: state.ioregsel as u8,
        id: state.id as u8 & 0xf,
        lines: state.irr & ((1 << PINS) - 1),
        redirection,
    }
}

#[cfg(test)]
mod tests {
    use tern_chipset::ioapic::IoApic;

    use super::*;

    const SELECT: u16 = 0;
    const WINDOW: u16 = 0x10;

    fn programmed(pin: u8, entry: u32) -> IoApic {
        let mut ioapic = IoApic::new();
        let _ = ioapic.write(SELECT, u32::from(0x10 + 2 * pin));
        let _ = ioapic.write(WINDOW, entry);
        ioapic
    }

    #[test]
    fn a_level_in_service_comes_back_with_its_line() {
        let mut ioapic = programmed(9, 0x8031);
        assert!(ioapic.set_line(9, true).is_some());
        let state = ioapic.save();
        let kvm = to_kvm(&state);
        assert_eq!(kvm.irr, 1 << 9);
        // SAFETY: both members of the union are integers.
        assert_eq!(unsafe { kvm.redirtbl[9].bits } & 0xffff, 0xc031);
        assert_eq!(from_kvm(&kvm), state);
    }

    #[test]
    fn an_edge_that_was_delivered_is_not_delivered_again() {
        let mut ioapic = programmed(4, 0x0024);
        assert!(ioapic.set_line(4, true).is_some());
        assert_eq!(to_kvm(&ioapic.save()).irr, 0);
    }

    #[test]
    fn what_only_the_kernel_keeps_is_left_out() {
        let mut kvm = to_kvm(&IoApic::new().save());
        kvm.redirtbl[3].bits = 0x5123;
        kvm.irr = 1 << 30 | 1 << 3;
        let state = from_kvm(&kvm);
        assert_eq!(state.redirection[3], 0x0123);
        IoApic::new().restore(&state).unwrap();
    }
}
