//! A fixed seed: every kind of instruction a few times, without a difference.

use std::collections::BTreeSet;

use tern_differential::codes::COMPARED;
use tern_differential::run::{Plan, run};

/// Three in four cases begin with the kind of instruction whose turn it is.
const ROUNDS: u64 = 30;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: '{text}'")))
}

#[test]
fn the_interpreter_does_what_the_processor_does() {
    let kinds = COMPARED.len() as u64;
    let plan = Plan {
        seed: number("TERN_DIFF_SEED").unwrap_or(0x7e57),
        first: 0,
        cases: number("TERN_DIFF_CASES").unwrap_or(ROUNDS * kinds),
        mnemonic: None,
        most_mismatches: 20,
    };
    let summary = run(plan).unwrap_or_else(|error| panic!("{error:?}"));
    let shown = summary.mismatches.iter().fold(String::new(), |text, mismatch| format!("{text}\n{mismatch}"));
    assert!(summary.mismatches.is_empty(), "{} mismatches:{shown}", summary.mismatches.len());
    assert!(summary.open * 8 < summary.cases, "{} of {} cases are left open", summary.open, summary.cases);
    let once_or_twice = |code| summary.met.get(code).is_none_or(|&times| times < 3);
    let rare: BTreeSet<_> = COMPARED.iter().filter(|&code| once_or_twice(code)).collect();
    assert!(summary.cases < ROUNDS * kinds || rare.is_empty(), "hardly met: {rare:?}");
}
