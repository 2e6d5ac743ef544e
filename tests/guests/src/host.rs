//! What a guest on KVM inherits from its host.
//!
//! On `soft` everything that a guest sees is Tern's, and nothing here makes a difference. On `kvm` the guest runs on the host's
//! processor, by the host's time-stamp counter, and the host's kernel decides what it passes on; where a test's expectation
//! depends on that, the test asks here. Each answer is the host's own word, so that a host without the peculiarity is not
//! forgiven it.

use std::fs;

use crate::tern::engine;

/// Where a kernel tells its clock.
const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// Lines with which Linux advises about flaws of the processor, which the guest learns from the host's CPUID.
const ADVICE_ON_FLAWS: [&str; 2] = ["Speculative Return Stack Overflow:", "Spectre V2 :"];

/// Lines with which Linux stops using a time-stamp counter.
const DOUBTS_ABOUT_TSC: [&str; 3] =
    ["TSC found unstable", "Marking TSC unstable", "tsc: Marking clocksource tsc unstable"];

/// Whether this process may do what only root may.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// How many reserved pages of 2 MiB nobody uses.
#[must_use]
pub fn free_huge_pages() -> u64 {
    let text = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// Whether programs can ask for huge pages that were not reserved.
#[must_use]
pub fn has_transparent_huge_pages() -> bool {
    fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled")
        .is_ok_and(|policy| !policy.contains("[never]"))
}

/// What engines make different.
fn is_inherited() -> bool {
    engine() == "kvm"
}

/// Whether the host's processor has a feature of this name in `/proc/cpuinfo`.
fn host_has(feature: &str) -> bool {
    let text = fs::read_to_string("/proc/cpuinfo").expect("Linux tells about its processor");
    let flags = text.lines().find_map(|line| line.strip_prefix("flags"));
    flags.is_some_and(|flags| flags.split_whitespace().any(|flag| flag == feature))
}

/// Whether the host itself goes by its time-stamp counter, and by one that counts at a constant rate.
fn host_trusts_tsc() -> bool {
    host_has("constant_tsc") && fs::read_to_string(CLOCK).is_ok_and(|clock| clock.trim() == "tsc")
}

/// The clocks by which a guest's kernel may go.
#[must_use]
pub fn clocks() -> &'static [&'static str] {
    // KVM offers a clock of its own, and Linux takes it unless the time-stamp counter is above all doubt.
    if is_inherited() { &["tsc", "tsc-early", "kvm-clock"] } else { &["tsc", "tsc-early"] }
}

/// Whether the guest's processor has a feature of Tern's model: what the hardware lacks, KVM cannot give.
#[must_use]
pub fn gives(feature: &str) -> bool {
    !is_inherited() || host_has(feature)
}

/// Whether a line in the guest's log is about the host, and not about Tern.
#[must_use]
pub fn explains(line: &str) -> bool {
    let is_one_of = |texts: &[&str]| texts.iter().any(|text| line.contains(text));
    is_inherited() && (is_one_of(&ADVICE_ON_FLAWS) || is_one_of(&DOUBTS_ABOUT_TSC) && !host_trusts_tsc())
}

/// Whether a crash can show the registers: on AMD's processors, KVM resets one that shuts down before they can be read.
#[must_use]
pub fn keeps_registers_of_a_crash() -> bool {
    !(is_inherited() && host_has("svm"))
}

/// Whether the engine gives up on a guest that executes where no memory is: KVM can execute nothing but memory.
#[must_use]
pub fn gives_up_outside_of_memory() -> bool {
    is_inherited()
}

/// Under which name `--stats` counts the guest's halts: on KVM, the kernel waits in them and only its own counters know.
#[must_use]
pub fn halts() -> &'static str {
    if is_inherited() { "kvm-halt-exits" } else { "halt" }
}

/// Under which name `--stats` counts what ticks bring about in any case: interrupts, or what only KVM's own counters know.
#[must_use]
pub fn ticks() -> &'static str {
    if is_inherited() { "kvm-exits" } else { "interrupt" }
}

/// Whether the guest's instructions are counted: hardware executes them without a word.
#[must_use]
pub fn counts_instructions() -> bool {
    !is_inherited()
}
