//! The timer in its three modes.

use super::*;

#[test]
fn one_shot_counts_down_fires_once_and_stops() {
    let mut apic = xapic(0);
    let _ = apic.write(DIVIDE_CONFIGURATION, 0x3, NOW); // by 16
    let _ = apic.write(0x320, 0x30, NOW);
    let _ = apic.write(INITIAL_COUNT, 1000, NOW);
    assert_eq!(apic.deadline(), Some(at(16_000)));
    assert_eq!(apic.read(CURRENT_COUNT, NOW), 1000);
    assert_eq!(apic.read(CURRENT_COUNT, at(1600)), 900);
    apic.poll(at(15_999), 0);
    assert_eq!((apic.pending(), apic.read(CURRENT_COUNT, at(15_999))), (None, 1));
    apic.poll(at(16_000), 0);
    assert_eq!(apic.acknowledge(), Some(0x30));
    assert_eq!((apic.deadline(), apic.read(CURRENT_COUNT, at(16_000))), (None, 0));
    assert_eq!(apic.read(INITIAL_COUNT, NOW), 1000);
}

#[test]
fn every_divider_divides() {
    for (configuration, divider) in
        [(0x0, 2), (0x1, 4), (0x2, 8), (0x3, 16), (0x8, 32), (0x9, 64), (0xa, 128), (0xb, 1)]
    {
        let mut apic = xapic(0);
        let _ = apic.write(0x320, 0x30, NOW);
        let _ = apic.write(DIVIDE_CONFIGURATION, configuration | 0xf4, NOW);
        assert_eq!(apic.read(DIVIDE_CONFIGURATION, NOW), configuration);
        let _ = apic.write(INITIAL_COUNT, 10_000, NOW);
        assert_eq!(apic.deadline(), Some(at(10_000 * divider)));
    }
}

#[test]
fn changing_the_divider_keeps_the_count() {
    let mut apic = xapic(0);
    let _ = apic.write(0x320, 0x30, NOW);
    let _ = apic.write(DIVIDE_CONFIGURATION, 0xb, NOW);
    let _ = apic.write(INITIAL_COUNT, 1000, NOW);
    let _ = apic.write(DIVIDE_CONFIGURATION, 0x0, at(600));
    assert_eq!(apic.read(CURRENT_COUNT, at(600)), 400);
    assert_eq!(apic.deadline(), Some(at(600 + 800)));
}

#[test]
fn periodic_fires_every_period_and_merges_what_was_missed() {
    let mut apic = xapic(0);
    let _ = apic.write(DIVIDE_CONFIGURATION, 0xb, NOW);
    let _ = apic.write(0x320, 0x2_0030, NOW);
    let _ = apic.write(INITIAL_COUNT, 20_000, NOW);
    apic.poll(at(20_000), 0);
    assert_eq!(apic.acknowledge(), Some(0x30));
    let _ = apic.write(EOI, 0, NOW);
    assert_eq!(apic.deadline(), Some(at(40_000)));
    apic.poll(at(105_000), 0);
    assert_eq!(apic.acknowledge(), Some(0x30));
    let _ = apic.write(EOI, 0, NOW);
    assert_eq!((apic.pending(), apic.deadline()), (None, Some(at(120_000))));
    assert_eq!(apic.read(CURRENT_COUNT, at(125_000)), 15_000, "counts on unpolled");
}

#[test]
fn a_period_too_short_to_serve_is_stretched() {
    let mut apic = xapic(0);
    let _ = apic.write(DIVIDE_CONFIGURATION, 0xb, NOW);
    let _ = apic.write(0x320, 0x2_0030, NOW);
    let _ = apic.write(INITIAL_COUNT, 1, NOW);
    apic.poll(at(10_000), 0);
    assert_eq!(apic.deadline(), Some(at(20_000)));
    assert_eq!(apic.read(CURRENT_COUNT, at(10_001)), 1);
}

#[test]
fn a_masked_timer_counts_silently() {
    let mut apic = xapic(0);
    let _ = apic.write(DIVIDE_CONFIGURATION, 0xb, NOW);
    let _ = apic.write(0x320, 0x1_0030, NOW);
    let _ = apic.write(INITIAL_COUNT, 1000, NOW);
    assert_eq!(apic.deadline(), None);
    assert_eq!(apic.read(CURRENT_COUNT, at(400)), 600);
    let _ = apic.write(0x320, 0x30, at(2000));
    apic.poll(at(2000), 0);
    assert_eq!(apic.pending(), None, "it ended while masked");
}

#[test]
fn writing_zero_stops_the_count() {
    let mut apic = xapic(0);
    let _ = apic.write(0x320, 0x30, NOW);
    let _ = apic.write(INITIAL_COUNT, 1000, NOW);
    let _ = apic.write(INITIAL_COUNT, 0, at(10));
    assert_eq!(apic.deadline(), None);
    apic.poll(at(1 << 40), 0);
    assert_eq!(apic.pending(), None);
}

#[test]
fn tsc_deadline_fires_when_the_tsc_gets_there() {
    let mut apic = xapic(0);
    apic.set_tsc_deadline(5000, 100);
    assert_eq!(apic.tsc_deadline(), None, "not in this mode yet");
    let _ = apic.write(0x320, 0x4_0030, NOW);
    apic.set_tsc_deadline(5000, 100);
    assert_eq!(apic.tsc_deadline(), Some(5000));
    apic.poll(at(1 << 40), 4999);
    assert_eq!(apic.pending(), None);
    apic.poll(NOW, 5000);
    assert_eq!((apic.acknowledge(), apic.tsc_deadline()), (Some(0x30), None));
    let _ = apic.write(EOI, 0, NOW);
    apic.set_tsc_deadline(50, 5000);
    assert_eq!(apic.acknowledge(), Some(0x30), "a deadline of the past fires at once");
    let _ = apic.write(EOI, 0, NOW);
    apic.set_tsc_deadline(9000, 5000);
    apic.set_tsc_deadline(0, 5001);
    apic.poll(NOW, 10_000);
    assert_eq!(apic.pending(), None, "disarmed");
}

#[test]
fn leaving_or_entering_tsc_deadline_mode_disarms() {
    let mut apic = xapic(0);
    let _ = apic.write(0x320, 0x30, NOW);
    let _ = apic.write(INITIAL_COUNT, 1000, NOW);
    let _ = apic.write(0x320, 0x4_0030, NOW);
    assert_eq!(apic.deadline(), None);
    let _ = apic.write(INITIAL_COUNT, 1000, NOW);
    assert_eq!((apic.deadline(), apic.read(INITIAL_COUNT, NOW)), (None, 0));
    apic.set_tsc_deadline(5000, 0);
    let _ = apic.write(0x320, 0x30, NOW);
    assert_eq!(apic.tsc_deadline(), None);
}
