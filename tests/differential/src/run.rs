//! Running many cases and counting what they met.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use iced_x86::{Code, Mnemonic};

use crate::case::Generator;
use crate::compare::{Mismatch, differences};
use crate::interpreter::Interpreter;
use crate::native::Native;
use crate::registers::{End, Event};
use crate::vendors;

/// Which cases to run.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The seed of everything.
    pub seed: u64,
    /// The number of the first case.
    pub first: u64,
    /// How many cases.
    pub cases: u64,
    /// Only instructions with this mnemonic.
    pub mnemonic: Option<Mnemonic>,
    /// After how many mismatches to stop.
    pub most_mismatches: usize,
}

/// What came out.
#[derive(Debug, Default)]
pub struct Summary {
    /// Cases run.
    pub cases: u64,
    /// Those of which it was left open what should come out, because the host is of another vendor than the guest's model.
    pub open: u64,
    /// Instructions in them.
    pub instructions: u64,
    /// How many kinds of instructions there are to choose from.
    pub kinds: usize,
    /// How often each kind came first in a case.
    pub met: BTreeMap<Code, u64>,
    /// The kinds that came first in a case that completed.
    pub completed: BTreeSet<Code>,
    /// How often each vector ended a case on the host.
    pub vectors: BTreeMap<u8, u64>,
    /// The cases that differ.
    pub mismatches: Vec<Mismatch>,
}

/// Runs the cases.
///
/// # Errors
/// One of the sides cannot be set up or broke down; a difference is no error.
pub fn run(plan: Plan) -> Result<Summary> {
    let generator = Generator::new(plan.seed, plan.mnemonic);
    anyhow::ensure!(!generator.codes().is_empty(), "no instruction with this mnemonic is compared");
    let (mut native, mut interpreter) = (Native::new()?, Interpreter::new()?);
    let mut summary = Summary { kinds: generator.codes().len(), ..Summary::default() };
    for number in plan.first..plan.first.saturating_add(plan.cases) {
        let case = generator.case(number);
        let on_host = native.run(&case)?;
        let interpreted = interpreter.run(&case)?;
        let is_open = vendors::is_open(&case, &on_host, &interpreted);
        summary.open += u64::from(is_open);
        let found = if is_open {
            Vec::new()
        } else {
            differences(&case, (&on_host, native.memory()), (&interpreted, interpreter.memory()))
        };
        let code = case.code[0].instruction.code();
        summary.cases += 1;
        summary.instructions += case.code.len() as u64;
        if code != Code::INVALID {
            *summary.met.entry(code).or_default() += 1;
        }
        if let End::Event(Event { vector, .. }) = on_host.end {
            *summary.vectors.entry(vector).or_default() += 1;
            if vector == case.extent.vector() && code != Code::INVALID {
                summary.completed.insert(code);
            }
        }
        if !found.is_empty() {
            summary.mismatches.push(Mismatch { seed: plan.seed, case, differences: found });
            if summary.mismatches.len() >= plan.most_mismatches {
                break;
            }
        }
    }
    Ok(summary)
}
