//! Several processors at work at once: they are there, they agree, and none gets stuck.

use std::time::Duration;

use tern_guests::{Guest, PROMPT, Tern, host};

fn guest(cpus: usize) -> Guest {
    up(Tern::run(), cpus)
}

fn up(run: Tern, cpus: usize) -> Guest {
    let mut guest = run.arg("--cmdline").arg(tern_guests::debian::CMDLINE).cpus(cpus).start();
    guest.wait_for(PROMPT);
    assert_eq!(guest.ask("nproc"), cpus.to_string());
    guest
}

/// Nothing is wrong as far as the kernel knows.
#[track_caller]
fn expect_calm(guest: &mut Guest) {
    let complaints = guest.ask("dmesg | grep -E 'BUG|WARNING|Oops|stall|lockup|unstable|segfault|traps:'");
    if complaints.lines().any(|line| !host::explains(line)) {
        guest.fail("the kernel complains");
    }
}

#[test]
fn four_processors_compute_the_same_at_once() {
    let mut guest = guest(4);
    guest.ask("dd if=/dev/urandom of=/data bs=64k count=32 2>/dev/null");
    let alone = guest.ask("md5sum </data");
    guest.ask("for i in 1 2 3 4 5 6 7 8; do (cat /data | md5sum >/sum$i) & done; wait");
    let sums = guest.ask("cat /sum*");
    assert_eq!(sums.lines().collect::<Vec<_>>(), [alone.as_str(); 8]);
    expect_calm(&mut guest);
    let _ = guest.power_off();
}

#[test]
fn processes_come_and_go_on_all_processors() {
    let mut guest = guest(4);
    guest.ask("w() { n=0; while [ $n -lt 60 ]; do n=$((n+1)); (:); /bin/true; done; echo done $1; }");
    let done = guest.ask("for i in 1 2 3 4 5 6 7 8; do w $i & done; wait");
    for worker in 1..=8 {
        if !done.lines().any(|line| line == format!("done {worker}")) {
            guest.fail(&format!("worker {worker} is not done"));
        }
    }
    // One system call each, so that what came before is reaped, and nothing is left over.
    let left: usize = guest.ask("ps | grep -c '[t]rue'").parse().unwrap();
    assert_eq!(left, 0);
    expect_calm(&mut guest);
    let _ = guest.power_off();
}

#[test]
fn pipes_carry_everything_between_processors() {
    let mut guest = guest(2);
    let count = guest.ask("seq 1 20000 | cat | cat | sort -rn | awk '{ s += $1 } END { print NR, s, $1 }'");
    assert_eq!(count, "20000 200010000 1");
    expect_calm(&mut guest);
    let _ = guest.power_off();
}

#[test]
fn every_processor_keeps_the_same_time() {
    let mut guest = guest(4);
    // Each reading starts on another processor; none may go back.
    let times = guest.ask("for i in $(seq 100); do taskset $((1 << i % 4)) cat /proc/uptime; done");
    let times: Vec<f64> =
        times.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap()).collect();
    assert_eq!(times.len(), 100);
    if !times.is_sorted() {
        guest.fail("time went back");
    }
    expect_calm(&mut guest);
    let _ = guest.power_off();
}

#[test]
#[ignore = "takes minutes: a soak of four processors"]
fn four_processors_survive_a_long_mixed_load() {
    let mut guest = up(Tern::run().within(Duration::from_secs(900)), 4);
    guest.ask("dd if=/dev/urandom of=/data bs=64k count=64 2>/dev/null");
    let alone = guest.ask("sha256sum </data");
    for round in 1..=5 {
        println!("round {round} begins after {:.0} s", guest.age().as_secs_f64());
        guest.ask("for i in 1 2 3 4 5 6; do (gzip </data | gunzip | sha256sum >/sum$i) & done; wait");
        let sums = guest.ask("cat /sum*");
        if sums.lines().any(|sum| sum != alone) || sums.lines().count() != 6 {
            guest.fail(&format!("alone it was {alone}"));
        }
        guest.ask("for i in $(seq 200); do /bin/true & done; wait");
    }
    expect_calm(&mut guest);
    let _ = guest.power_off();
}
