//! The pair of controllers as an operating system uses it.

use super::*;

/// Programmed like a PC's: vectors 0x20 and 0x28, nothing masked.
fn initialized() -> Pic {
    let mut pic = Pic::new();
    for (port, value) in [
        (0x20, 0x11),
        (0x21, 0x20),
        (0x21, 0x04),
        (0x21, 0x01),
        (0xa0, 0x11),
        (0xa1, 0x28),
        (0xa1, 0x02),
        (0xa1, 0x01),
        (0x21, 0x00),
        (0xa1, 0x00),
    ] {
        pic.write(port, value);
    }
    pic
}

fn pulse(pic: &mut Pic, irq: u8) {
    pic.set_line(irq, true);
    pic.set_line(irq, false);
}

fn in_service(pic: &mut Pic, port: u16) -> u8 {
    pic.write(port, 0x0b);
    pic.read(port)
}

#[test]
fn an_edge_is_delivered_once() {
    let mut pic = initialized();
    pic.set_line(4, true);
    assert!(pic.output());
    assert_eq!(pic.acknowledge(), 0x24);
    pic.write(0x20, 0x20);
    assert!(!pic.output(), "the line is still high, but did not rise again");
    pic.set_line(4, false);
    pic.set_line(4, true);
    assert!(pic.output());
}

#[test]
fn a_level_is_delivered_until_it_falls() {
    let mut pic = initialized();
    pic.write(0x4d1, 0x02);
    assert_eq!(pic.read(0x4d1), 0x02);
    pic.set_line(9, true);
    assert_eq!(pic.acknowledge(), 0x29);
    assert!(!pic.output(), "in service");
    pic.write(0xa0, 0x20);
    pic.write(0x20, 0x20);
    assert!(pic.output());
    pic.set_line(9, false);
    assert!(!pic.output());
}

#[test]
fn inputs_that_are_edge_triggered_on_a_pc_stay_so() {
    let mut pic = initialized();
    pic.write(0x4d0, 0xff);
    pic.write(0x4d1, 0xff);
    assert_eq!((pic.read(0x4d0), pic.read(0x4d1)), (0xf8, 0xde));
}

#[test]
fn the_lower_input_is_more_urgent_and_interrupts_the_higher() {
    let mut pic = initialized();
    pulse(&mut pic, 5);
    assert_eq!(pic.acknowledge(), 0x25);
    pulse(&mut pic, 7);
    assert!(!pic.output());
    pulse(&mut pic, 1);
    assert_eq!(pic.acknowledge(), 0x21);
    assert_eq!(in_service(&mut pic, 0x20), 0x22);
    pic.write(0x20, 0x20);
    assert_eq!(in_service(&mut pic, 0x20), 0x20, "the most urgent one ends first");
    assert!(!pic.output());
    pic.write(0x20, 0x20);
    assert_eq!(pic.acknowledge(), 0x27);
}

#[test]
fn the_secondary_needs_both_acknowledged() {
    let mut pic = initialized();
    pulse(&mut pic, 14);
    pulse(&mut pic, 8);
    assert_eq!(pic.acknowledge(), 0x28);
    assert_eq!(in_service(&mut pic, 0x20), 0x04);
    assert_eq!(in_service(&mut pic, 0xa0), 0x01);
    pic.write(0xa0, 0x20);
    assert!(!pic.output(), "the cascade is still in service");
    pic.write(0x20, 0x20);
    assert_eq!(pic.acknowledge(), 0x2e);
}

#[test]
fn special_fully_nested_mode_lets_the_secondary_interrupt_itself() {
    let mut pic = initialized();
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 0x04), (0x21, 0x11)] {
        pic.write(port, value);
    }
    pulse(&mut pic, 12);
    assert_eq!(pic.acknowledge(), 0x2c);
    pulse(&mut pic, 8);
    assert_eq!(pic.acknowledge(), 0x28);
}

#[test]
fn a_request_that_vanished_gives_the_spurious_vector() {
    let mut pic = initialized();
    assert_eq!(pic.acknowledge(), 0x27);
    assert_eq!(in_service(&mut pic, 0x20), 0);
    pic.write(0x4d0, 0x20);
    pic.set_line(5, true);
    pic.set_line(5, false);
    assert_eq!(pic.acknowledge(), 0x27);
}

#[test]
fn masked_requests_wait() {
    let mut pic = initialized();
    pic.write(0x21, 0x10);
    pulse(&mut pic, 4);
    assert!(!pic.output());
    assert_eq!(pic.read(0x20), 0x10, "the IRR shows it");
    pic.write(0x21, 0x00);
    assert_eq!(pic.acknowledge(), 0x24);
}

#[test]
fn initialization_clears_masks_and_requests_but_not_lines() {
    let mut pic = initialized();
    pic.write(0x4d0, 0x20);
    pic.write(0x21, 0xff);
    pic.set_line(4, true);
    pic.set_line(5, true);
    pic.write(0x20, 0x11);
    pic.write(0x21, 0x40);
    pic.write(0x21, 0x04);
    pic.write(0x21, 0x01);
    assert_eq!(pic.read(0x21), 0);
    assert_eq!(pic.acknowledge(), 0x45, "the level is still there");
    pic.write(0x20, 0x20);
    pic.set_line(5, false);
    assert!(!pic.output(), "the edge must come again");
}

#[test]
fn initialization_without_icw4_ends_after_icw3() {
    let mut pic = initialized();
    pic.write(0x20, 0x10);
    pic.write(0x21, 0x30);
    pic.write(0x21, 0x04);
    pic.write(0x21, 0xa5);
    assert_eq!(pic.read(0x21), 0xa5);
}

#[test]
fn automatic_end_of_interrupt_leaves_nothing_in_service() {
    let mut pic = initialized();
    for (port, value) in [(0x20, 0x11), (0x21, 0x20), (0x21, 0x04), (0x21, 0x03)] {
        pic.write(port, value);
    }
    pulse(&mut pic, 3);
    pulse(&mut pic, 4);
    assert_eq!(pic.acknowledge(), 0x23);
    assert_eq!(in_service(&mut pic, 0x20), 0);
    assert_eq!(pic.acknowledge(), 0x24);

    pic.write(0x20, 0x80);
    pulse(&mut pic, 3);
    assert_eq!(pic.acknowledge(), 0x23);
    pulse(&mut pic, 3);
    pulse(&mut pic, 5);
    assert_eq!(pic.acknowledge(), 0x25, "input 3 rotated to the lowest priority");
}

#[test]
fn rotation_makes_the_served_input_the_least_urgent() {
    let mut pic = initialized();
    pulse(&mut pic, 4);
    assert_eq!(pic.acknowledge(), 0x24);
    pic.write(0x20, 0xa0);
    pulse(&mut pic, 4);
    pulse(&mut pic, 6);
    assert_eq!(pic.acknowledge(), 0x26);
    pic.write(0x20, 0xe6);
    pic.write(0x20, 0xc3);
    pulse(&mut pic, 3);
    assert_eq!(pic.acknowledge(), 0x24, "set priority made 3 the last");
}

#[test]
fn a_specific_end_of_interrupt_ends_just_that() {
    let mut pic = initialized();
    pulse(&mut pic, 5);
    pic.acknowledge();
    pulse(&mut pic, 1);
    pic.acknowledge();
    pic.write(0x20, 0x65);
    assert_eq!(in_service(&mut pic, 0x20), 0x02);
}

#[test]
fn special_mask_mode_opens_everything_but_what_is_masked() {
    let mut pic = initialized();
    pulse(&mut pic, 1);
    pic.acknowledge();
    pulse(&mut pic, 6);
    assert!(!pic.output());
    pic.write(0x21, 0x02);
    pic.write(0x20, 0x68);
    assert_eq!(pic.acknowledge(), 0x26);
    pic.write(0x20, 0x20);
    assert_eq!(in_service(&mut pic, 0x20), 0x02, "the hidden one is not ended");
    pic.write(0x20, 0x48);
    pic.write(0x20, 0x20);
    assert_eq!(in_service(&mut pic, 0x20), 0);
}

#[test]
fn polling_acknowledges_without_the_processor() {
    let mut pic = initialized();
    pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x20), 0);
    pulse(&mut pic, 10);
    pic.write(0x20, 0x0c);
    assert_eq!(pic.read(0x20), 0x82);
    pic.write(0xa0, 0x0c);
    assert_eq!(pic.read(0xa0), 0x82);
    assert!(!pic.output());
    assert_eq!(pic.read(0x20), 0, "one read per poll command");
}

#[test]
fn lines_that_do_not_exist_are_ignored() {
    let mut pic = initialized();
    pic.set_line(2, true);
    pic.set_line(16, true);
    pic.set_line(255, true);
    assert!(!pic.output());
}

#[test]
fn a_saved_state_behaves_like_the_original() {
    let mut pic = initialized();
    pic.write(0x4d1, 0x02);
    pic.set_line(9, true);
    pulse(&mut pic, 4);
    pic.write(0x20, 0x11);
    pic.write(0x21, 0x50);
    let mut copy = Pic::new();
    copy.restore(&pic.save()).unwrap();
    assert_eq!(copy, pic);
}

#[test]
fn an_impossible_state_is_refused_and_changes_nothing() {
    let pic = initialized();
    let mut copy = pic.clone();
    let mut state = pic.save();
    state.secondary.highest_priority = 8;
    assert!(copy.restore(&state).is_err());
    let mut state = pic.save();
    state.primary.vector_base = 3;
    assert!(copy.restore(&state).is_err());
    let mut state = pic.save();
    state.primary.elcr = 1;
    assert!(copy.restore(&state).is_err());
    assert_eq!(copy, pic);
}
