//! One guest from start to end: its boot and every workload, timed.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::contender::{Contender, Files};
use super::statistics;
use super::workload::{WORKLOADS, Workload};
use crate::console::{Console, PROMPT};

/// A guest that takes longer for anything does not work.
const LIMIT: Duration = Duration::from_secs(180);

/// What one run of a contender gave.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// From starting the command to the prompt, in seconds.
    pub boot: f64,
    /// For each of [`WORKLOADS`], in seconds.
    pub workloads: Vec<f64>,
    /// Millions of guest instructions per second of execution, if the contender counts them.
    pub mips: Option<f64>,
}

/// Starts a contender, measures and powers off.
///
/// # Errors
/// If it cannot be started, or the guest does not do what it is told.
pub(crate) fn run(contender: &Contender, files: &Files) -> Result<Sample> {
    let command = (contender.command)(files)?;
    let start = Instant::now();
    let mut console = Console::start(command)?;
    let (_, ready) = console.wait_for(PROMPT, LIMIT).context("the guest did not start")?;
    console.type_line("set -o pipefail")?;
    let workloads =
        WORKLOADS.iter().map(|workload| time(&mut console, workload)).collect::<Result<Vec<_>>>()?;
    console.type_line("poweroff")?;
    let errors = console.end(LIMIT).context("the guest did not power off")?;
    Ok(Sample { boot: (ready - start).as_secs_f64(), workloads, mips: statistics::mips(&errors) })
}

/// The time between two marks that the guest prints: neither the typing nor its echo count. The echo
/// itself has quotation marks in the marks and is not mistaken for them.
fn time(console: &mut Console, workload: &Workload) -> Result<f64> {
    let Workload { name, command } = workload;
    let context = || format!("the workload '{name}' failed");
    console.type_line(&format!("echo be''gin; {{ {command}; }} >/dev/null 2>&1; echo e''nd $?"))?;
    let (_, begin) = console.wait_for("begin\r\n", LIMIT).with_context(context)?;
    let (_, end) = console.wait_for("end ", LIMIT).with_context(context)?;
    let (status, _) = console.wait_for("\r\n", LIMIT).with_context(context)?;
    ensure!(status == "0", "the workload '{name}' failed in the guest with {status}: {command}");
    Ok((end - begin).as_secs_f64())
}
