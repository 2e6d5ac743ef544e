//! One start of a contender, watched until the guest's prompt.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::contender::{Contender, Files};
use super::exits::{Exits, Trace};
use super::{MEMORY, memory};
use crate::console::{Console, INIT, PROMPT};

/// A guest that takes longer does not work.
const LIMIT: Duration = Duration::from_secs(120);

/// What one start gave.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    /// From starting the command to the first line of the guest's init, in seconds.
    pub init: f64,
    /// What the program holds in memory at the prompt beside the guest's, in KiB.
    pub beside: u64,
    /// Why the guest was left until init's first line, if that was traced.
    pub exits: Option<Exits>,
}

/// Starts a contender, waits for the guest's prompt, and ends it.
///
/// # Errors
/// If it cannot be started, or its guest does not come up.
pub(crate) fn take(contender: &Contender, files: &Files, trace: Option<&Trace>) -> Result<Sample> {
    let command = (contender.command)(files)?;
    trace.map_or(Ok(()), Trace::start)?;
    let start = Instant::now();
    let mut console = Console::start(command)?;
    let came_up = console.wait_for(INIT, LIMIT);
    trace.map_or(Ok(()), Trace::stop)?;
    let (_, init) = came_up.context("the guest did not come up")?;
    console.wait_for(PROMPT, LIMIT).context("the guest did not come to its prompt")?;
    let exits = trace.map(|trace| trace.exits(console.process())).transpose()?;
    let beside = memory::beside_guest(console.process(), u64::from(MEMORY) << 10)?;
    Ok(Sample { init: (init - start).as_secs_f64(), beside, exits })
}
