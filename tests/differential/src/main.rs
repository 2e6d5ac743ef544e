//! Runs any number of cases of the differential test and says what differs.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::Parser;
use iced_x86::{Code, Mnemonic};
use tern_differential::compare::Mismatch;
use tern_differential::run::{Plan, Summary, run};

/// Executes random user-mode instructions natively and in the interpreter, and compares.
#[derive(Debug, Parser)]
struct Options {
    /// What all randomness comes from
    #[arg(long, env = "TERN_DIFF_SEED", default_value_t = 1)]
    seed: u64,
    /// Number of the first case
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// How many cases
    #[arg(long, env = "TERN_DIFF_CASES", default_value_t = 100_000)]
    cases: u64,
    /// Only instructions with this mnemonic, such as "Imul"
    #[arg(long, value_parser = mnemonic)]
    mnemonic: Option<Mnemonic>,
    /// Stop after this many mismatches
    #[arg(long, default_value_t = 1000)]
    mismatches: usize,
    /// Show this many mismatches of each kind of instruction in full
    #[arg(long, default_value_t = 1)]
    show: usize,
}

fn mnemonic(text: &str) -> Result<Mnemonic> {
    let named = |mnemonic: &Mnemonic| format!("{mnemonic:?}").eq_ignore_ascii_case(text);
    Mnemonic::values().find(named).ok_or_else(|| anyhow!("there is no mnemonic '{text}'"))
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    let plan = Plan {
        seed: options.seed,
        first: options.first,
        cases: options.cases,
        mnemonic: options.mnemonic,
        most_mismatches: options.mismatches,
    };
    let summary = run(plan)?;
    let mut kinds: BTreeMap<Code, Vec<&Mismatch>> = BTreeMap::new();
    for mismatch in &summary.mismatches {
        kinds.entry(mismatch.case.code[0].instruction.code()).or_default().push(mismatch);
    }
    for mismatch in kinds.values().flat_map(|mismatches| mismatches.iter().take(options.show)) {
        println!("{mismatch}");
    }
    for (kind, mismatches) in &kinds {
        println!("{:6} mismatches: {kind:?}", mismatches.len());
    }
    report(&summary);
    Ok(if summary.mismatches.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report(summary: &Summary) {
    let Summary { cases, open, instructions, kinds, .. } = summary;
    println!("{cases} cases with {instructions} instructions, {} mismatches", summary.mismatches.len());
    if *open > 0 {
        println!("{open} of them are left open, as vendors differ");
    }
    println!(
        "of {kinds} kinds of instructions {} came first in a case, {} of them in one that completed",
        summary.met.len(),
        summary.completed.len()
    );
    println!("ends by vector: {:?}", summary.vectors);
}
