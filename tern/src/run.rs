//! `tern run`: from words to a machine, and from the machine's end to an exit code.
//!
//! Everything that belongs to the command line happens here, in `guest` and in `terminal/`; the machine itself is
//! `tern-vmm`'s.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tern_vmm::config::{CpuModel, DeviceConfig, MachineConfig, OnReboot};
use tern_vmm::console::ConsoleInput;
use tern_vmm::machine::{End, Machine, MachineError, Outcome};

use crate::cli::{OutputForm, RunArguments};
use crate::engines::Chosen;
use crate::exit::{Code, Failure};
use crate::files::FromFiles;
use crate::terminal::{self, Console, Leaving};
use crate::{devices, engines, guest, statistics};

/// Runs a machine as the command line says, until it ends.
pub(crate) fn run(arguments: &RunArguments) -> Result<Code, Failure> {
    let Chosen { engine, note } = engines::choose(arguments.engine, arguments.translation)?;
    let config = config(arguments, guest::load(arguments)?, devices::of(arguments)?);
    if let Some(note) = note
        && !arguments.quiet
    {
        eprintln!("tern: {note}");
    }
    let console = Console::open(arguments.quiet)
        .context("cannot use standard input and output as a console")
        .map_err(Failure::host)?;
    let outcome = Machine::new(config, engine, console.output())
        .map_err(Failure::from)
        .and_then(|machine| run_machine(machine, &console));
    // Errors and statistics are for a terminal that is itself again.
    let leaving = console.close();
    let outcome = outcome?;
    let code = match leaving {
        None => code_of(outcome.end),
        Some(why) => code_of_leaving(why, arguments.quiet),
    };
    if arguments.stats {
        let tell = match arguments.output {
            OutputForm::Text => statistics::text,
            OutputForm::Json => statistics::json,
        };
        eprint!("{}", tell(engine.name(), arguments.cpus, outcome.wall, &outcome.statistics));
    }
    code
}

fn config(arguments: &RunArguments, guest: FromFiles, devices: Vec<DeviceConfig>) -> MachineConfig {
    MachineConfig {
        memory: arguments.memory.size,
        pages: arguments.memory.pages,
        cpus: arguments.cpus,
        // The command line takes no other names.
        cpu_model: CpuModel::by_name(&arguments.cpu).unwrap_or_default(),
        devices,
        debug_exit: arguments.debug_exit,
        on_reboot: if arguments.no_reboot { OnReboot::End } else { OnReboot::Restart },
        ..MachineConfig::new(guest)
    }
}

/// Connects the machine to the console and runs it.
fn run_machine(machine: Machine, console: &Console) -> Result<Outcome, Failure> {
    let handle = machine.handle();
    console
        .connect(Arc::new(machine.console_input()), Arc::new(move || handle.stop()))
        .context("cannot start a thread for the console")
        .map_err(Failure::host)?;
    Ok(machine.run()?)
}

impl terminal::ConsoleInput for ConsoleInput {
    fn offer(&self, bytes: &[u8]) -> usize {
        self.offer(bytes)
    }

    fn wait_for_room(&self, patience: Duration) {
        self.wait_for_room(patience);
    }
}

impl From<MachineError> for Failure {
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Config(_) | MachineError::Load(_) => Self::input(error),
            _ => Self::host(error),
        }
        .context("cannot run the machine")
    }
}

fn code_of(end: End) -> Result<Code, Failure> {
    match end {
        End::PowerOff => Ok(Code::SUCCESS),
        End::Reboot => Ok(Code::REBOOT),
        End::DebugExit(status) => Ok(Code::of_guest(status)),
        // No command lets a machine depart yet.
        End::Stopped | End::Departed(_) => Ok(Code::LEFT),
        End::Crash(report) => Err(Failure::crash(anyhow!("the guest crashed: {report}"))),
    }
}

fn code_of_leaving(why: Leaving, quiet: bool) -> Result<Code, Failure> {
    match why {
        Leaving::Escape => {
            if !quiet {
                eprintln!("\ntern: left with Ctrl-]; the machine has ended");
            }
            Ok(Code::LEFT)
        }
        // As with other tools: whoever reads has seen enough.
        Leaving::OutputGone(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Code::LEFT),
        Leaving::OutputGone(error) => {
            let error = anyhow::Error::new(error);
            Err(Failure::host(error.context("the machine was ended: its console output cannot be written")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_end_is_the_commands_exit_code() {
        assert_eq!(code_of(End::PowerOff).unwrap(), Code::SUCCESS);
        assert_eq!(code_of(End::Reboot).unwrap(), Code::REBOOT);
        assert_eq!(code_of(End::DebugExit(85)).unwrap(), Code::of_guest(85));
        assert_eq!(code_of(End::Stopped).unwrap(), Code::LEFT);
    }

    #[test]
    fn a_reader_that_goes_away_is_quiet_and_a_full_disk_is_not() {
        let gone = |kind: io::ErrorKind| code_of_leaving(Leaving::OutputGone(kind.into()), true);
        assert_eq!(gone(io::ErrorKind::BrokenPipe).unwrap(), Code::LEFT);
        assert_eq!(gone(io::ErrorKind::StorageFull).unwrap_err().code, Code::HOST);
    }
}
