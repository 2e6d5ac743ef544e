//! Debian's kernels come up, find the machine they were promised, complain about nothing and switch off.
//!
//! Kernels, processors and memory are combined in pairs: each two of them meet in one of the machines below.

use tern_guests::debian::{self, Flavour, Suite};
use tern_guests::{PROMPT, Tern, host};

/// What a kernel writes when something is wrong with the machine, or with our processor.
const COMPLAINTS: [&str; 19] = [
    "BUG:",
    "WARNING:",
    "Oops",
    "Call Trace",
    "unchecked MSR",
    "detected stall",
    "self-detected stall",
    "soft lockup",
    "hung_task",
    "blocked for more than",
    "Marking clocksource",
    "clocksource: Long readout",
    "ACPI Error",
    "ACPI BIOS Error",
    "[Firmware Bug]",
    "general protection",
    "segfault",
    "do_IRQ",
    "nobody cared",
];

/// What x86-64-v2 has beyond x86-64, and what Tern's first processor model adds.
const FEATURES: [&str; 14] = [
    "lm", "nx", "cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2", "xsave", "rdtscp", "smep",
    "smap", "pdpe1gb",
];

fn boots(suite: Suite, flavour: Flavour, cpus: usize, mebibytes: u64) {
    let kernel = debian::kernel(suite, flavour);
    let mut guest = Tern::linux(&kernel).cpus(cpus).memory(&format!("{mebibytes}M")).start();
    guest.wait_for(PROMPT);
    println!("{} at its prompt after {:.1} s", debian::release(&kernel), guest.age().as_secs_f64());

    assert_eq!(guest.ask("uname -r"), debian::release(&kernel));
    assert_eq!(guest.ask("nproc"), cpus.to_string());

    let total: u64 = guest.ask("awk '/MemTotal/ { print $2 }' /proc/meminfo").parse().unwrap();
    let missing = (mebibytes << 10).checked_sub(total);
    // The kernel itself, and its table of pages.
    let most = (80 << 10) + (mebibytes << 10) / 32;
    if missing.is_none_or(|missing| missing > most) {
        guest.fail(&format!("the guest finds {total} KiB of its {mebibytes} MiB"));
    }

    let flags = guest.ask("grep -m1 ^flags /proc/cpuinfo");
    let flags: Vec<_> = flags.split_whitespace().collect();
    for feature in FEATURES {
        if host::gives(feature) && !flags.contains(&feature) {
            guest.fail(&format!("the processor lacks {feature}"));
        }
    }
    let source = guest.ask("cat /sys/devices/system/clocksource/clocksource0/current_clocksource");
    assert!(host::clocks().contains(&source.as_str()), "the clock is {source}");

    let log = guest.ask("dmesg");
    for complaint in COMPLAINTS {
        if let Some(line) = log.lines().find(|line| line.contains(complaint) && !host::explains(line)) {
            guest.fail(&format!("the kernel complains: {line}"));
        }
    }
    let _ = guest.power_off();
}

macro_rules! machines {
    ($($(#[$ignored:meta])* $name:ident: $suite:ident $flavour:ident, $cpus:literal, $mebibytes:literal;)*) => {
        $(
            #[test]
            $(#[$ignored])*
            fn $name() {
                boots(Suite::$suite, Flavour::$flavour, $cpus, $mebibytes);
            }
        )*
    };
}

machines! {
    debians_own_cloud_kernel_boots_with_1_cpu_and_128_mib: Host Cloud, 1, 128;
    debians_own_generic_kernel_boots_with_2_cpus_and_512_mib: Host Generic, 2, 512;
    debian_13s_cloud_kernel_boots_with_4_cpus_and_512_mib: Trixie Cloud, 4, 512;
    debian_13s_generic_kernel_boots_with_1_cpu_and_4_gib: Trixie Generic, 1, 4096;

    #[ignore = "the rest of the pairs takes minutes"]
    debians_own_cloud_kernel_boots_with_2_cpus_and_4_gib: Host Cloud, 2, 4096;
    #[ignore = "the rest of the pairs takes minutes"]
    debians_own_cloud_kernel_boots_with_4_cpus_and_512_mib: Host Cloud, 4, 512;
    #[ignore = "the rest of the pairs takes minutes"]
    debians_own_generic_kernel_boots_with_1_cpu_and_4_gib: Host Generic, 1, 4096;
    #[ignore = "the rest of the pairs takes minutes"]
    debians_own_generic_kernel_boots_with_4_cpus_and_128_mib: Host Generic, 4, 128;
    #[ignore = "the rest of the pairs takes minutes"]
    debian_13s_cloud_kernel_boots_with_1_cpu_and_4_gib: Trixie Cloud, 1, 4096;
    #[ignore = "the rest of the pairs takes minutes"]
    debian_13s_cloud_kernel_boots_with_2_cpus_and_128_mib: Trixie Cloud, 2, 128;
    #[ignore = "the rest of the pairs takes minutes"]
    debian_13s_generic_kernel_boots_with_2_cpus_and_128_mib: Trixie Generic, 2, 128;
    #[ignore = "the rest of the pairs takes minutes"]
    debian_13s_generic_kernel_boots_with_4_cpus_and_512_mib: Trixie Generic, 4, 512;
    #[ignore = "the rest of the pairs takes minutes"]
    debian_13s_generic_kernel_boots_with_4_cpus_and_4_gib: Trixie Generic, 4, 4096;
}
