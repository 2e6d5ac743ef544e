//! The software engine's three ways with hot code: translated, interpreted, and both in lockstep.

use std::time::Duration;

use tern_guests::{End, Guest, PROMPT, Tern};

/// Lockstep interprets all that runs, step by step, beside it.
const PATIENCE: Duration = Duration::from_secs(400);

fn guest(how: &str, more: &[&str]) -> Guest {
    let run = Tern::new(["run", "--engine", "soft", "--translation", how, "--cmdline"]);
    let run = run.arg(tern_guests::debian::CMDLINE).within(PATIENCE);
    let mut guest = more.iter().fold(run, |run, word| run.arg(*word)).start();
    guest.wait_for(PROMPT);
    guest
}

/// Integers, strings, floating point, processes, pipes and files, as text that must always be the same.
const WORK: &str = "n=0; while [ $n -lt 300 ]; do n=$((n+1)); echo $((n*n*7919%1009)); done | sort -n | md5sum; \
    awk 'BEGIN { for (i = 1; i < 3000; i++) s += sqrt(i) / i; printf \"%.12f\\n\", s }'; \
    cat /bin/busybox | gzip | gunzip | sha256sum; for i in 1 2 3; do (echo $i; /bin/true); done";

#[test]
fn translated_and_interpreted_guests_compute_the_same() {
    let answers = ["on", "off"].map(|how| {
        let mut guest = guest(how, &[]);
        let answer = guest.ask(WORK);
        let _ = guest.power_off();
        answer
    });
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0].lines().count(), 6, "{}", answers[0]);
}

#[test]
fn no_translated_unit_differs_from_the_interpreter_while_linux_boots_and_works() {
    let mut guest = guest("verify", &[]);
    assert_eq!(guest.ask("echo $((6*7)); seq 50 | sort -r | head -1"), "42\n9");
    let end = guest.power_off().expect_code(0);
    assert_eq!(end.errors.lines().find(|line| line.contains("disagree")), None);
}

/// What `--stats -o json` has told.
fn statistics(end: &End) -> serde_json::Value {
    let lines = end.errors.lines().rev();
    lines.into_iter().find_map(|line| serde_json::from_str(line).ok()).unwrap()
}

#[test]
fn the_statistics_tell_what_the_translator_did() {
    let guest = guest("on", &["--stats", "-o", "json"]);
    let end = guest.power_off().expect_code(0);
    let told = statistics(&end);
    let count = |name: &str| told["of-the-engine"][name].as_u64().unwrap();
    let instructions = told["instructions"].as_u64().unwrap();
    // A boot walks page tables seldom, and accesses memory often; but not so often as it executes instructions.
    assert!(count("tlb-hits") > instructions / 20 && count("tlb-hits") < instructions, "{told}");
    assert!(count("tlb-misses") < count("tlb-hits") / 20, "{told}");
    assert!(told["tlb-hit-rate"].as_f64().unwrap() > 0.95, "{told}");
    for name in ["translations", "retranslations", "traces", "left-to-interpret"] {
        assert!(count(name) > 0, "{name}: {told}");
    }
    // There is room for a boot.
    assert_eq!(count("evictions"), 0, "{told}");
    for name in ["ms-translated-code", "ms-interpreter", "ms-translator"] {
        assert!(count(name) > 0, "{name}: {told}");
    }
    end.expect_errors(&["ms-slow-path"]);
}

#[test]
fn code_that_does_not_find_room_makes_room_again_and_again() {
    let mut guest = guest("on", &["--code-cache", "1M", "--stats", "-o", "json"]);
    let answer = guest.ask(WORK);
    let end = guest.power_off().expect_code(0);
    let told = statistics(&end);
    assert!(told["of-the-engine"]["evictions"].as_u64() > Some(3), "{told}");
    assert!(told["of-the-engine"]["translated-bytes"].as_u64() <= Some(1 << 20), "{told}");
    let mut guest = self::guest("on", &[]);
    assert_eq!(guest.ask(WORK), answer);
    let _ = guest.power_off();
}

/// The bytes of a jitdump's header, and the words of a record before its times.
const JITDUMP_HEADER: usize = 40;

#[test]
fn translated_code_in_which_time_is_spent_is_written_down_for_perf() {
    let folder = tempfile::tempdir().unwrap();
    let run = Tern::new(["run", "--jitdump", "--cmdline"]).arg(tern_guests::debian::CMDLINE);
    let mut guest = run.through(&["env", "-C", folder.path().to_str().unwrap()]).start();
    guest.wait_for(PROMPT);
    let process = guest.process();
    let _ = guest.power_off();
    let bytes = std::fs::read(folder.path().join(format!("jit-{process}.dump"))).unwrap();
    assert_eq!(bytes[..4], *b"DTiJ");
    let (mut records, mut at) = (0, JITDUMP_HEADER);
    while at < bytes.len() {
        let size = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        let name = &bytes[at + 56..];
        let name = &name[..name.iter().position(|byte| *byte == 0).unwrap()];
        assert!(name.windows(13).any(|part| part == b"guest code 0x"), "{}", String::from_utf8_lossy(name));
        (records, at) = (records + 1, at + size);
    }
    assert_eq!(at, bytes.len(), "the last record is cut off");
    assert!(records > 100, "{records} units took time");
}
