//! `tern run`: from words to a machine, and from the machine's end to an exit code.
//!
//! Everything that belongs to the command line happens here, in `guest` and in `terminal/`; the machine itself is
//! `tern-vmm`'s.

use std::io;
use std::process;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use tern_engine::Engine;
use tern_soft::Profile;
use tern_virtio::balloon::Balloon;
use tern_vmm::config::{CpuModel, DeviceConfig, MachineConfig, OnReboot};
use tern_vmm::console::ConsoleInput;
use tern_vmm::machine::{End, Machine, MachineError, Outcome};

use crate::cli::{OutputForm, RunArguments, Stats};
use crate::command::{self, Ended, LastLines, Prepared, Talk};
use crate::control::{self, Claim, Detached, Hub, Served, State, Status};
use crate::devices::Devices;
use crate::engines::{Chosen, SoftOptions};
use crate::exit::{Code, Failure};
use crate::files::FromFiles;
use crate::size::Memory;
use crate::source::Source;
use crate::terminal::{self, Console, Leaving};
use crate::waiting::{Awaited, Waiting};
use crate::{devices, engines, guest, limits, statistics};

/// Runs a machine as the command line says, until it ends.
pub(crate) fn run(arguments: &RunArguments) -> Result<Code, Failure> {
    if control::is_to_detach(arguments) {
        return control::detach();
    }
    let detached = Detached::begin(arguments)?;
    let is_measured = arguments.stats == Some(Stats::All);
    let profile = Profile { is_sampled: is_measured, counts_hits: is_measured, is_dumped: arguments.jitdump };
    let (translation, code_cache) = (arguments.translation, arguments.code_cache);
    let soft = SoftOptions { translation, code_cache, profile };
    let Chosen { engine, note } = engines::choose(arguments.engine, soft)?;
    let source = Source::find(arguments)?;
    // Behind the programs that may have been run to make the system: they are not to inherit it.
    limits::allow_enough_descriptors();
    let (memory, cpus) = source.sizes(arguments);
    let hub = Hub::default();
    let control = match control(arguments, &source, engine.name(), memory, cpus, &hub) {
        // Nobody asked for a name: a machine that cannot be found is better than none.
        Err(failure) if failure.code == Code::HOST && arguments.name.is_none() && !arguments.detach => {
            if !arguments.quiet {
                eprintln!("tern: the machine cannot be found by `tern ps`: {}", failure.text().trim_end());
            }
            None
        }
        control => Some(control?),
    };
    let (prepared, port) = command::prepare(arguments, &source)?.unzip();
    let segment = match &prepared {
        Some(prepared) => prepared.segment().to_vec(),
        // Nobody logs in beside a command.
        None if arguments.initrd.is_none() => source.segment.clone(),
        None => Vec::new(),
    };
    let guest = guest::load(arguments, &source, memory.size, segment)?;
    let Devices { all, balloon } = devices::of(arguments, source.disk.as_ref(), cpus, port)?;
    let cpu_model = cpu_model(&arguments.cpu, engine);
    let config = config(arguments, guest, all, memory, cpus, cpu_model);
    if let Some(note) = note
        && !arguments.quiet
    {
        eprintln!("tern: {note}");
    }
    if let Some(prepared) = prepared {
        let lines = LastLines::default();
        let machine = Machine::new(config, engine, hub.output(lines.clone()))?;
        let (ended, outcome) = run_command(machine, prepared, control.as_ref(), &balloon)?;
        if let Some(control) = &control {
            control.served.ends();
        }
        hub.end();
        tell_statistics(arguments, engine.name(), cpus, &outcome);
        drop((source, control));
        return code_of_command(ended, &outcome.end, &lines, arguments.quiet);
    }
    let console = Console::open(arguments.quiet, "Ctrl-] leaves and ends the machine")
        .context("cannot use standard input and output as a console")
        .map_err(Failure::host)?;
    // Nobody looks at a machine in the background.
    let is_silent = arguments.quiet || arguments.detach;
    let waiting = if is_silent { Ok(Waiting::silent()) } else { Waiting::start(None) };
    let waiting = waiting.context("cannot show that the guest starts").map_err(Failure::host)?;
    let waiting = Arc::new(waiting);
    let outcome = Machine::new(config, engine, hub.output(Awaited::new(&waiting, console.output())))
        .map_err(Failure::from)
        .and_then(|machine| run_machine(machine, &console, control.as_ref(), &balloon, detached));
    if let Some(control) = &control {
        control.served.ends();
    }
    hub.end();
    waiting.end();
    // Errors and statistics are for a terminal that is itself again.
    let leaving = console.close();
    let outcome = outcome?;
    tell_statistics(arguments, engine.name(), cpus, &outcome);
    // Whatever is to be put in order is, before a signal may end the process.
    drop((source, control));
    match leaving {
        None => code_of(outcome.end),
        Some(why) => code_of_leaving(why, arguments.quiet),
    }
}

fn tell_statistics(arguments: &RunArguments, engine: &str, cpus: u32, outcome: &Outcome) {
    if arguments.stats.is_some() {
        let tell = match arguments.output {
            OutputForm::Text => statistics::text,
            OutputForm::Json => statistics::json,
        };
        eprint!("{}", tell(engine, cpus, outcome.wall, &outcome.statistics));
    }
}

/// How a machine is ended from outside.
fn stop_of(machine: &Machine) -> terminal::Stop {
    let handle = machine.handle();
    Arc::new(move || handle.stop())
}

/// Runs a machine for a command, and tells how both ended.
fn run_command(
    machine: Machine,
    prepared: Prepared,
    control: Option<&Control>,
    balloon: &Weak<Balloon>,
) -> Result<((Ended, Option<Leaving>), Outcome), Failure> {
    let talk = Talk::start(prepared, stop_of(&machine))
        .context("cannot pass on the command's input and output")
        .map_err(Failure::host)?;
    if let Some(Control { served, .. }) = control {
        served.runs(machine.handle(), stop_of(&machine), machine.console_input(), balloon);
    }
    let outcome = machine.run();
    let ended = talk.finish();
    Ok((ended, outcome?))
}

/// What a command's end means. The machine's own end counts only if it came first.
fn code_of_command(
    (ended, leaving): (Ended, Option<Leaving>),
    end: &End,
    lines: &LastLines,
    quiet: bool,
) -> Result<Code, Failure> {
    if let Some(why) = leaving {
        return code_of_leaving(why, quiet);
    }
    let with_lines = |what: String| {
        let told = lines.told();
        let told = if told.is_empty() {
            String::new()
        } else {
            format!("; its console's last lines:\n{}", told.trim_end())
        };
        Failure::crash(anyhow!("{what}{told}"))
    };
    match ended {
        Ended::Command { code, reason } => {
            if let Some(reason) = reason {
                eprintln!("tern: {reason}");
            }
            Ok(Code::of_command(code))
        }
        Ended::Broken(why) => {
            Err(with_lines(format!("what the guest says about the command makes no sense: {why}")))
        }
        Ended::OutputFailed(error) => {
            Err(Failure::host(anyhow::Error::new(error).context("the command's output cannot be written")))
        }
        Ended::Machine { had_started } => {
            let when = if had_started { "under the command" } else { "before the command started" };
            Err(with_lines(match end {
                End::Crash(report) => format!("the guest crashed {when}: {report}"),
                End::Stopped => format!("the machine was ended {when}"),
                End::Reboot => format!("the guest asked for a reboot {when}"),
                _ => format!("the guest powered off {when}"),
            }))
        }
    }
}

/// The machine's name, and who answers for it.
struct Control {
    claim: Claim,
    served: Served,
}

/// Takes a name for the machine, and lets it be found by that.
fn control(
    arguments: &RunArguments,
    source: &Source,
    engine: &str,
    memory: Memory,
    cpus: u32,
    hub: &Hub,
) -> Result<Control, Failure> {
    let name = arguments.name.as_ref().or(source.kept.as_ref());
    let claim = Claim::take(name.map(String::as_str), &source.label)?;
    let status = Status {
        name: claim.name.clone(),
        image: source.label.clone(),
        kept: source.kept.clone(),
        state: State::Starting,
        process: process::id(),
        engine: engine.to_owned(),
        cpus,
        memory: memory.size,
        started: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        guest_memory: None,
    };
    let served = Served::start(&claim, status, hub)?;
    Ok(Control { claim, served })
}

/// The processor model that the command line names, or what it leaves to the engine.
fn cpu_model(name: &str, engine: &dyn Engine) -> CpuModel {
    CpuModel::by_name(name).unwrap_or_else(|| CpuModel::most_capable(engine.instruction_sets()))
}

fn config(
    arguments: &RunArguments,
    guest: FromFiles,
    devices: Vec<DeviceConfig>,
    memory: Memory,
    cpus: u32,
    cpu_model: CpuModel,
) -> MachineConfig {
    MachineConfig {
        memory: memory.size,
        pages: memory.pages,
        cpus,
        cpu_model,
        devices,
        debug_exit: arguments.debug_exit,
        // A command is run once.
        on_reboot: if arguments.no_reboot || arguments.command.is_there() {
            OnReboot::End
        } else {
            OnReboot::Restart
        },
        ..MachineConfig::new(guest)
    }
}

/// Connects the machine to the console and to those who find it by name, and runs it.
fn run_machine(
    machine: Machine,
    console: &Console,
    control: Option<&Control>,
    balloon: &Weak<Balloon>,
    detached: Option<Detached>,
) -> Result<Outcome, Failure> {
    console
        .connect(Arc::new(machine.console_input()), stop_of(&machine))
        .context("cannot start a thread for the console")
        .map_err(Failure::host)?;
    if let Some(Control { claim, served }) = control {
        let stop = console.without_waiting(stop_of(&machine));
        served.runs(machine.handle(), stop, machine.console_input(), balloon);
        if let Some(detached) = detached {
            detached.runs(&claim.name)?;
        }
    }
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
        Leaving::Signal(signal) => {
            terminal::end_by_signal(signal);
            // Only a signal that ends nothing comes back.
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
