//! Several processors at work at once: they are there, they agree, and none gets stuck.

use std::time::Duration;

use tern_guests::debian::{self, Flavour, Suite};
use tern_guests::{Guest, PROMPT, Tern, host};

/// How long many processors may take on a busy host of few.
const PATIENCE: Duration = Duration::from_secs(900);

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

/// As many processors as that are the cores of one package, in every place where Linux tells about them; and each works.
fn are_cores_of_one_package(suite: Suite, cpus: usize) {
    let kernel = debian::kernel(suite, Flavour::Cloud);
    let mut guest = Tern::linux(&kernel).cpus(cpus).within(PATIENCE).start();
    guest.wait_for(PROMPT);
    assert_eq!(guest.ask("nproc"), cpus.to_string());
    let all = format!("0-{}", cpus - 1);
    let places = guest.ask(
        "for n in $(seq 0 $(($(nproc) - 1))); do (cd /sys/devices/system/cpu/cpu$n/topology; echo $n $(cat physical_package_id core_id thread_siblings_list core_siblings_list)); done",
    );
    let expected: Vec<_> = (0..cpus).map(|n| format!("{n} 0 {n} {n} {all}")).collect();
    assert_eq!(places.lines().collect::<Vec<_>>(), expected);
    let told = guest.ask("awk '/^siblings|^cpu cores/ { print $NF }' /proc/cpuinfo | sort -u");
    assert_eq!(told, cpus.to_string());
    assert_eq!(guest.ask("awk '/^apicid/ { print $NF }' /proc/cpuinfo | sort -nu | wc -l"), cpus.to_string());
    // The field of stat that names the processor.
    let ran = guest.ask(
        "for n in $(seq 0 $(($(nproc) - 1))); do taskset $(printf %x $((1 << n))) awk '{ print $39 }' /proc/self/stat; done",
    );
    let expected: Vec<_> = (0..cpus).map(|n| n.to_string()).collect();
    assert_eq!(ran.lines().collect::<Vec<_>>(), expected);
    assert_eq!(guest.ask("dmesg | grep -E 'Firmware Bug|mismatch|not respond|failed to (boot|start)'"), "");
    expect_calm(&mut guest);
    let _ = guest.power_off();
}

#[test]
fn eight_processors_are_cores_of_one_package_and_each_of_them_works() {
    are_cores_of_one_package(Suite::Host, 8);
}

#[test]
fn sixty_four_processors_are_cores_of_one_package_and_each_of_them_works() {
    // The later kernel looks at more places, and says where they differ.
    are_cores_of_one_package(Suite::Trixie, 64);
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
