//! Guest memory of the host's huge pages.

use serde_json::Value;
use tern_guests::{PROMPT, Tern, host};

/// How many pages of 2 MiB a guest of 128 MiB takes.
const NEEDED: u64 = 64;

/// Runs the tiny guest with this memory; gives what its engine counted.
fn run(memory: &str) -> Value {
    let mut guest = Tern::run().memory(memory).arg("--stats").arg("-o").arg("json").start();
    guest.wait_for(PROMPT);
    assert_eq!(guest.ask("echo $((6 * 7))"), "42");
    let end = guest.power_off();
    let last = end.errors.lines().last().unwrap_or_default();
    let statistics: Value =
        serde_json::from_str(last).unwrap_or_else(|_| end.fail("there are no statistics"));
    statistics["of-the-engine"].clone()
}

#[test]
fn a_guest_takes_reserved_huge_pages_and_gives_them_back() {
    let free = host::free_huge_pages();
    if free < NEEDED {
        eprintln!("not tested: this host has {free} huge pages free, and the guest would need {NEEDED}");
        return;
    }
    let counted = run("128M,hugepages=2M");
    assert_eq!(host::free_huge_pages(), free, "they are free again");
    if let Some(mapped) = counted["kvm-mapped-2m-pages"].as_u64() {
        assert!(mapped > 0, "the guest's pages are the host's: {counted}");
    }
}

#[test]
fn a_guest_runs_on_transparent_huge_pages_where_the_host_has_them() {
    if host::has_transparent_huge_pages() {
        run("128M,hugepages=thp");
    } else {
        eprintln!("not tested: this host has no transparent huge pages");
    }
}
