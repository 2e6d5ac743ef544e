//! The pair of 8259s (`struct kvm_pic_state`): register for register.

use kvm_bindings::kvm_pic_state;
use tern_chipset::pic::{ChipState, Initialization, State};

/// Which inputs may be level-triggered, as in [`tern_chipset::pic`].
const ELCR_MASK: [u8; 2] = [0xf8, 0xde];

/// The primary's and the secondary's state as the kernel takes it.
#[must_use]
pub fn to_kvm(state: &State) -> (kvm_pic_state, kvm_pic_state) {
    (chip_to_kvm(&state.primary, ELCR_MASK[0]), chip_to_kvm(&state.secondary, ELCR_MASK[1]))
}

/// The state of both, as the kernel gives it.
#[must_use]
pub fn from_kvm(primary: &kvm_pic_state, secondary: &kvm_pic_state) -> State {
    State { primary: chip_from_kvm(primary, ELCR_MASK[0]), secondary: chip_from_kvm(secondary, ELCR_MASK[1]) }
}

fn chip_to_kvm(chip: &ChipState, elcr_mask: u8) -> kvm_pic_state {
    kvm_pic_state {
        last_irr: chip.lines,
        irr: chip.irr,
        imr: chip.imr,
        isr: chip.isr,
        priority_add: chip.highest_priority,
        irq_base: chip.vector_base,
        read_reg_select: chip.read_isr.into(),
        poll: chip.poll.into(),
        special_mask: chip.special_mask.into(),
        init_state: match chip.initialization {
            Initialization::Done => 0,
            Initialization::Icw2 => 1,
            Initialization::Icw3 => 2,
            Initialization::Icw4 => 3,
        },
        auto_eoi: chip.auto_eoi.into(),
        rotate_on_auto_eoi: chip.rotate_on_auto_eoi.into(),
        special_fully_nested_mode: chip.special_fully_nested.into(),
        init4: chip.icw4_announced.into(),
        elcr: chip.elcr,
        elcr_mask,
    }
}

fn chip_from_kvm(chip: &kvm_pic_state, elcr_mask: u8) -> ChipState {
    ChipState {
        lines: chip.last_irr,
        irr: chip.irr,
        isr: chip.isr,
        imr: chip.imr,
        elcr: chip.elcr & elcr_mask,
        vector_base: chip.irq_base & !7,
        highest_priority: chip.priority_add & 7,
        read_isr: chip.read_reg_select != 0,
        poll: chip.poll != 0,
        special_mask: chip.special_mask != 0,
        special_fully_nested: chip.special_fully_nested_mode != 0,
        auto_eoi: chip.auto_eoi != 0,
        rotate_on_auto_eoi: chip.rotate_on_auto_eoi != 0,
        icw4_announced: chip.init4 != 0,
        initialization: match chip.init_state {
            1 => Initialization::Icw2,
            2 => Initialization::Icw3,
            3 => Initialization::Icw4,
            _ => Initialization::Done,
        },
    }
}

#[cfg(test)]
mod tests {
    use tern_chipset::pic::Pic;

    use super::*;

    /// The controllers as Linux has programmed them, with the timer in service and the keyboard's request waiting.
    fn linux() -> Pic {
        let mut pic = Pic::new();
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x30),
            (0x21, 0x04),
            (0x21, 0x01),
            (0xa0, 0x11),
            (0xa1, 0x38),
            (0xa1, 0x02),
            (0xa1, 0x01),
            (0x21, 0xf8),
            (0xa1, 0xff),
            (0x4d1, 0x0c),
        ] {
            pic.write(port, value);
        }
        pic.set_line(0, true);
        assert_eq!(pic.acknowledge(), 0x30);
        pic.set_line(1, true);
        pic
    }

    #[test]
    fn a_programmed_pair_comes_back_and_is_accepted() {
        let state = linux().save();
        let (primary, secondary) = to_kvm(&state);
        assert_eq!((primary.irq_base, primary.isr, primary.irr, primary.imr), (0x30, 1, 2, 0xf8));
        assert_eq!((secondary.irq_base, secondary.elcr, secondary.elcr_mask), (0x38, 0x0c, 0xde));
        let back = from_kvm(&primary, &secondary);
        assert_eq!(back, state);
        Pic::new().restore(&back).unwrap();
    }

    #[test]
    fn initialization_continues_at_the_same_command_word() {
        let mut pic = linux();
        for expected in 1..=3 {
            let state = pic.save();
            pic.write(if expected == 1 { 0x20 } else { 0x21 }, 0x11);
            assert_ne!(pic.save(), state);
            let (primary, secondary) = to_kvm(&pic.save());
            assert_eq!(primary.init_state, expected);
            assert_eq!(from_kvm(&primary, &secondary), pic.save());
        }
    }
}
