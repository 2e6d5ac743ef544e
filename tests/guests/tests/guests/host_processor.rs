//! `--cpu host` on the software engine: kernels and programs that find AVX2 and what else the host has, and use it.

use tern_guests::debian::{self, Flavour, Suite};
use tern_guests::{Guest, PROMPT, Tern};

/// As the kernel is started elsewhere, but with the tests of its own cryptography, which try all that the processor has.
const CMDLINE: &str = "console=ttyS0 quiet COLUMNS=1000 cryptomgr.panic_on_fail=1";

/// Host features and the names that Linux has for them.
const FEATURES: [&str; 14] = [
    "avx",
    "avx2",
    "fma",
    "f16c",
    "bmi1",
    "bmi2",
    "abm",
    "movbe",
    "aes",
    "pclmulqdq",
    "sha_ni",
    "adx",
    "vaes",
    "vpclmulqdq",
];

fn offered() -> Vec<&'static str> {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = info.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    FEATURES.into_iter().filter(|feature| flags.split_whitespace().any(|flag| flag == *feature)).collect()
}

/// Decompressors, hashes and floating point, by what the C library and busybox make of the processor.
const WORK: &str = "cat /bin/busybox | gzip | gunzip | sha256sum; \
    awk 'BEGIN { for (i = 1; i < 3000; i++) s += sqrt(i) / i; printf \"%.12f\\n\", s }'";

fn start(suite: Suite, cpus: usize, cpu: &str, translation: &str) -> Guest {
    let run = Tern::new([
        "run",
        "--engine",
        "soft",
        "--memory",
        "512M",
        "--cpu",
        cpu,
        "--translation",
        translation,
    ]);
    let kernel = debian::kernel(suite, Flavour::Cloud);
    let run = run.cpus(cpus).arg("--kernel").arg(&kernel).arg("--initrd").arg(debian::initramfs());
    let mut guest = run.arg("--cmdline").arg(CMDLINE).start();
    guest.wait_for(PROMPT);
    guest
}

/// What the guest answers to [`WORK`].
fn works(suite: Suite, cpus: usize, translation: &str) -> String {
    let mut guest = start(suite, cpus, "host", translation);
    let flags = guest.ask("grep -m1 ^flags /proc/cpuinfo");
    let flags: Vec<_> = flags.split_whitespace().collect();
    for feature in offered() {
        assert!(flags.contains(&feature), "the guest's processor lacks {feature}");
    }
    assert!(!flags.iter().any(|flag| flag.starts_with("avx512")), "AVX-512 is not executed, and shown");
    let answer = guest.ask(WORK);
    let log = guest.ask("dmesg");
    for complaint in ["alg: ", "invalid opcode", "WARNING:", "BUG:", "x86/fpu: Unknown"] {
        let said = log.lines().find(|line| line.contains(complaint) && !line.contains("passed"));
        assert_eq!(said, None, "the kernel complains");
    }
    let _ = guest.power_off();
    answer
}

#[test]
fn debians_own_kernel_tests_its_cryptography_with_all_that_the_host_has() {
    let mut guest = start(Suite::Host, 1, "tern-v2", "on");
    let expected = guest.ask(WORK);
    let _ = guest.power_off();
    assert_eq!(works(Suite::Host, 2, "on"), expected);
    assert_eq!(works(Suite::Host, 1, "off"), expected);
}

#[test]
fn debian_13s_kernel_finds_all_that_the_host_has() {
    assert_eq!(works(Suite::Trixie, 2, "on").lines().count(), 2);
}
