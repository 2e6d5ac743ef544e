//! Memory that guests give back to the host.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tern_guests::debian::CMDLINE;
use tern_guests::{Guest, PROMPT, Tern};

const MIB: u64 = 1 << 20;

fn guest(balloon: &str) -> Guest {
    let mut guest = Tern::run().arg("--cmdline").arg(CMDLINE).memory("512M").arg(balloon).start();
    guest.wait_for(PROMPT);
    guest
}

/// How much memory the process has, in bytes.
fn resident(guest: &Guest) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", guest.process())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kibibytes << 10
}

/// Waits until the process has less memory than that.
#[track_caller]
fn wait_until_below(guest: &Guest, limit: u64) {
    let started = Instant::now();
    while resident(guest) >= limit {
        if started.elapsed() > Duration::from_secs(120) {
            guest.fail(&format!("the host still has {} MiB of the guest's", resident(guest) / MIB));
        }
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn memory_that_a_guest_no_longer_uses_goes_back_to_the_host() {
    let mut guest = guest("--balloon");
    let before = resident(&guest);
    // The root file system is memory, up to half of it.
    guest.ask("dd if=/dev/zero of=/large bs=1M count=200 2>/dev/null");
    let full = resident(&guest);
    assert!(full > before + 150 * MIB, "{} MiB", full / MIB);
    guest.ask("rm /large");
    wait_until_below(&guest, full - 100 * MIB);
    // It is the guest's again when it wants it.
    guest.ask("dd if=/dev/zero of=/large bs=1M count=200 2>/dev/null");
    assert_eq!(guest.ask("tr -d '\\0' </large | wc -c"), "0");
    let _ = guest.power_off();
}

#[test]
fn a_guest_tells_how_it_uses_its_memory() {
    let own = tempfile::tempdir().unwrap();
    let run = Tern::run().arg("--cmdline").arg(CMDLINE).memory("512M").arg("--balloon");
    let mut guest = run.environment("TERN_RUNTIME_DIR", own.path().join("run")).start();
    guest.wait_for(PROMPT);
    let ps = |form| Tern::new(["ps", "-o", form]).environment("TERN_RUNTIME_DIR", own.path().join("run"));
    let told = |what: &str| {
        let list: Value = serde_json::from_str(&ps("json").finish().expect_code(0).console).unwrap();
        list[0]["guest_memory"][what].as_u64().unwrap_or_else(|| panic!("'{what}' is not told: {list}"))
    };
    let total = guest.ask("awk '/MemTotal/ { print $2 }' /proc/meminfo");
    assert_eq!(told("total"), total.parse::<u64>().unwrap() << 10);
    let before = told("available");
    guest.ask("dd if=/dev/zero of=/large bs=1M count=200 2>/dev/null");
    let after = told("available");
    assert!(after + 150 * MIB < before, "{} MiB, and now {} MiB", before / MIB, after / MIB);
    let text = ps("text").finish().expect_code(0).console;
    // All of its memory, and what of it is used.
    assert!(text.contains("USED") && text.matches(" MiB").count() == 2, "{text}");
    let _ = guest.power_off();
}

#[test]
fn a_guest_gives_up_what_it_is_asked_for_and_takes_it_back_before_it_runs_out() {
    let mut guest = guest("--balloon=350M");
    let free = "awk '/MemFree/ { print int($2 / 1024) }' /proc/meminfo";
    guest.ask(&format!("until [ $({free}) -lt 150 ]; do sleep 0.1; done"));
    // More than is left outside of the balloon.
    guest.ask("dd if=/dev/zero of=/large bs=1M count=210 2>/dev/null");
    assert_eq!(guest.ask("wc -c </large"), (210 * MIB).to_string());
    let killed = guest.ask("dmesg | grep -c 'Out of memory'");
    assert_eq!(killed, "0");
    let _ = guest.power_off();
}
