//! Debian's kernel, which boots and works while its machine goes from engine to engine.

use std::fs;
use std::ops::Range;
use std::sync::Arc;

use tern_guests::debian::{self, Flavour, Suite};
use tern_test_transfer::{Arrival, Journey, seeds};
use tern_vmm::boot::Kernel;
use tern_vmm::config::{CpuModel, MachineConfig};
use tern_vmm::guest::Guest;
use tern_vmm::machine::End;

use super::{journeys, name, on_this_host};

/// Lines that the guest counts.
const LINES: u64 = 60;

/// What is typed: a loop of the shell's own, pipes between processes on all processors, and the end.
const WORK: &str = "\
i=0; while [ $i -lt 60 ]; do echo \"line $i $((i * 7919 % 1000))\"; i=$((i + 1)); done\n\
for n in 1 2 3 4; do (seq 1 2000 | sort -n -r | sha256sum) & done; wait\n\
a=$(cut -d. -f1 /proc/uptime); sleep 1; b=$(cut -d. -f1 /proc/uptime); echo slept $((b - a))\n\
poweroff\n";

pub(super) fn machine(cpus: u32) -> MachineConfig {
    let kernel = fs::read(debian::kernel(Suite::Host, Flavour::Cloud)).unwrap();
    let initrd = fs::read(debian::initramfs()).unwrap();
    let command_line = debian::CMDLINE.replace("quiet", "").trim().to_owned();
    let kernel = Kernel::parse(kernel, None).unwrap();
    let guest = Guest { initrd: Some(initrd), command_line, ..Guest::new(kernel) };
    MachineConfig { memory: 256 << 20, cpus, ..MachineConfig::new(Arc::new(guest)) }
}

fn check(arrival: &Arrival, what: &str) {
    let Arrival { output, end, .. } = arrival;
    let fail = |why: &str| -> ! { panic!("{what}: {why}\n{output}") };
    if !matches!(end, End::PowerOff) {
        fail(&format!("it ended otherwise: {end:?}"));
    }
    let lines = output.lines().filter(|line| line.starts_with("line "));
    let expected = (0..LINES).map(|n| format!("line {n} {}", n * 7919 % 1000));
    if !lines.map(str::trim_end).eq(expected) {
        fail("the lines are not the ones that the guest was to count");
    }
    let sums: Vec<_> = output.lines().filter(|line| line.trim_end().ends_with("  -")).collect();
    if sums.len() != 4 || sums.iter().any(|sum| *sum != sums[0]) {
        fail("the same computation had different results");
    }
    if !["slept 1", "slept 2"].iter().any(|slept| output.contains(slept)) {
        fail("the guest's time did not go on as it should");
    }
    let log = |word: &&str| output.lines().any(|line| line.starts_with('[') && line.contains(word));
    for word in ["BUG:", "Oops", "WARNING: CPU", "rcu_sched", "soft lockup", "TSC ADJUST", "spurious"] {
        if log(&word) {
            fail(&format!("the kernel's log has {word:?}"));
        }
    }
}

/// Boots and works with `departures` on the way, on every way that can be gone here.
fn travels(cpus: u32, departures: usize, stay: Range<u64>, count: u64) {
    for journey in journeys(departures, stay) {
        let cpu_model = journey.processor(|| machine(cpus));
        goes(&journey, cpus, &cpu_model, count);
    }
}

fn goes(journey: &Journey, cpus: u32, cpu_model: &CpuModel, count: u64) {
    for seed in seeds(count) {
        let config = MachineConfig { cpu_model: cpu_model.clone(), ..machine(cpus) };
        let arrival = journey.travel(config, WORK, seed);
        check(&arrival, &format!("{}, seed {seed}, {} departures", name(journey), arrival.departures));
        assert!(arrival.departures > 5, "it ended before it could leave");
    }
}

#[test]
fn a_debian_kernel_boots_and_works_while_it_goes_from_engine_to_engine() {
    travels(1, 41, 500..60_000, 1);
}

#[test]
fn two_processors_go_together() {
    travels(2, 31, 500..80_000, 1);
}

#[test]
fn a_debian_kernel_goes_with_its_hosts_own_processor() {
    if let Some(journey) = on_this_host(15, 500..100_000) {
        goes(&journey, 2, &CpuModel::by_name("host").unwrap(), 1);
    }
}

#[test]
#[ignore = "takes minutes: many journeys, with departures all the way"]
fn many_journeys_come_to_their_end() {
    for cpus in [1, 2, 4] {
        travels(cpus, 401, 200..30_000, 10);
    }
}
