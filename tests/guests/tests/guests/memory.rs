//! Memory on both sides of the hole below 4 GiB: the guest has all of it, its devices reach it, and the host gives it where it
//! is touched.

use std::fs::{self, File};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tern_guests::{Guest, PROMPT, Tern, debian::CMDLINE};

/// How long this may take on a busy host.
const PATIENCE: Duration = Duration::from_secs(600);

/// Bytes that are written above 4 GiB.
const SIZE: u64 = 48 << 20;

/// The exit codes of a wrong command line, and of a host that fails.
const USAGE: i32 = 2;
const HOST: i32 = 74;

/// Free pages above 4 GiB, all of which are of the zone `Normal` on x86-64.
fn free_above_4_gib(guest: &mut Guest) -> u64 {
    let script =
        "awk '/^Node/ { zone = $4 } /nr_free_pages/ && zone == \"Normal\" { print $2 }' /proc/zoneinfo";
    guest.ask(script).parse().unwrap_or_else(|_| guest.fail("there is no memory above 4 GiB"))
}

/// What a process has of the host's memory, in KiB.
fn resident(process: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn sixteen_gib_are_the_guests_above_4_gib_too_and_the_hosts_until_they_are_touched() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.raw");
    File::create(&path).unwrap().set_len(SIZE).unwrap();
    let run = Tern::run().memory("16G").cpus(2).within(PATIENCE).arg("--cmdline").arg(CMDLINE);
    let mut guest = run.arg("--disk").arg(format!("{},format=raw", path.display())).start();
    guest.wait_for(PROMPT);
    let total: u64 = guest.ask("awk '/MemTotal/ { print $2 }' /proc/meminfo").parse().unwrap();
    // A sixty-fourth is the kernel's table of pages.
    assert!(total > 15 << 20, "the guest finds {total} KiB");
    let taken = resident(guest.process());
    assert!(taken < 2 << 20, "the host gave {taken} KiB to a guest that does nothing");

    let before = free_above_4_gib(&mut guest);
    guest.ask(&format!("mkdir /m; mount -t tmpfs -o size=1G tmpfs /m; head -c {SIZE} /dev/urandom >/m/data"));
    let used = before.saturating_sub(free_above_4_gib(&mut guest)) * 4096;
    if used < SIZE / 2 {
        guest.fail(&format!("only {used} bytes of {SIZE} are above 4 GiB"));
    }
    let sum = guest.ask("sha256sum </m/data");
    assert_eq!(guest.ask("cp /m/data /m/copy; sha256sum </m/copy"), sum);
    // The disk's pages in the guest's memory are there as well: the device reads from above 4 GiB, and writes to it.
    guest.ask("dd if=/m/data of=/dev/vda bs=1M conv=fsync 2>/dev/null");
    let here: String =
        Sha256::digest(fs::read(&path).unwrap()).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(format!("{here}  -"), sum);
    guest.ask("echo 3 >/proc/sys/vm/drop_caches");
    assert_eq!(guest.ask("sha256sum </dev/vda"), sum);
    let _ = guest.power_off();
}

#[test]
fn memory_that_the_host_does_not_give_is_refused_with_what_to_do() {
    let limited = ["sh", "-c", "ulimit -v 4000000; exec \"$0\" \"$@\""];
    let end = Tern::run().memory("16G").through(&limited).finish().expect_code(HOST);
    end.expect_errors(&["does not give 16384 MiB", "--memory", "ulimit -v"]);
    let end = Tern::run().memory("300G").finish().expect_code(USAGE);
    end.expect_errors(&["at most 256G"]);
}
