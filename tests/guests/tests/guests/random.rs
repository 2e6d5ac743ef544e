//! The guest's source of random numbers.

use tern_guests::debian::CMDLINE;
use tern_guests::{Guest, PROMPT, Tern};

fn guest() -> Guest {
    let mut guest = Tern::run().arg("--cmdline").arg(CMDLINE).start();
    guest.wait_for(PROMPT);
    // Its driver is loaded when there is nothing else to do.
    guest.ask("until grep -q virtio /sys/class/misc/hw_random/rng_available; do sleep 0.2; done");
    guest
}

#[test]
fn the_hosts_random_numbers_reach_the_guest() {
    let mut guest = guest();
    assert_eq!(guest.ask("cat /sys/class/misc/hw_random/rng_current"), "virtio_rng.0");
    let mut numbers = || guest.ask("dd if=/dev/hwrng bs=64 count=4 2>/dev/null | md5sum");
    let (first, second) = (numbers(), numbers());
    assert_ne!(first, second);
    let zeros = guest.ask("dd if=/dev/zero bs=64 count=4 2>/dev/null | md5sum");
    assert!(first != zeros && second != zeros);
    let _ = guest.power_off();
}

#[test]
fn a_machine_can_do_without() {
    let mut guest = Tern::run().arg("--rng").arg("off").start();
    guest.wait_for(PROMPT);
    assert_eq!(guest.ask("ls /sys/bus/pci/devices"), "0000:00:00.0");
    let _ = guest.power_off();
}
