//! One round: the contenders' guests boot one after the other, then they take turns with every workload.
//!
//! They take turns row by row because what else the host does comes and goes within seconds: so it meets all of them in the
//! same row. Who begins changes from round to round and from row to row.
//!
//! A workload that fails is a row that says so, and does not cost the others theirs: a guest that is lost with it is
//! replaced by another one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::contender::{Contender, Files, Kind, Ready};
use super::workload::{Source, Workload};
use super::{program, statistics};
use crate::console::Console;

/// A guest that takes longer to boot, or to power off, does not work.
const LIMIT: Duration = Duration::from_secs(180);

/// A workload that takes longer has failed.
const WORKLOAD_LIMIT: Duration = Duration::from_secs(90);

/// What came of one workload in one round.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Outcome {
    /// In the workload's unit.
    Value(f64),
    /// Why there is no value.
    Failed(String),
    /// This contender does not do that.
    Absent,
}

/// What one round of a contender gave.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sample {
    /// For each workload.
    pub outcomes: Vec<Outcome>,
    /// Millions of guest instructions per second of execution, if the contender counts them.
    pub mips: Option<f64>,
    /// How many of the guest's seconds pass in one of the host's.
    pub clock: Option<f64>,
}

/// A shell that is ready.
#[derive(Debug)]
struct Session {
    console: Console,
    /// How long each of the texts that tell of a guest's boot took to come.
    boot: Vec<(&'static str, f64)>,
}

/// Starts the contenders one after the other, lets them take turns with the workloads, and powers them off; what they gave is in their
/// order. The order of their turns begins `rotation` further.
///
/// # Errors
/// If a contender is not installed, or the like: what the guest does is told by the outcomes.
pub(crate) fn run(
    contenders: &[Contender],
    files: &Files,
    workloads: &[Workload],
    rotation: usize,
    mut progress: impl FnMut(&Contender, &Workload, &Outcome),
) -> Result<Vec<Sample>> {
    let all = contenders.len();
    let order = |rotation: usize| (0..all).map(move |next| (rotation + next) % all);
    let mut started: Vec<_> = contenders.iter().map(|_| None).collect();
    for next in order(rotation) {
        let contender = &contenders[next];
        let runner = Runner::start(contender, files).with_context(|| format!("{} failed", contender.name))?;
        started[next] = Some(runner);
    }
    let mut runners: Vec<_> = started.into_iter().flatten().collect();
    for (row, workload) in workloads.iter().enumerate() {
        for next in order(rotation + row) {
            let runner = &mut runners[next];
            let outcome = runner.measure(workload);
            progress(runner.contender, workload, &outcome);
            runner.outcomes.push(outcome);
        }
    }
    Ok(runners.into_iter().map(Runner::end).collect())
}

/// A contender in a round.
#[derive(Debug)]
struct Runner<'a> {
    contender: &'a Contender,
    files: &'a Files,
    /// None if it was lost, or if nobody has anything to type there.
    session: Option<Session>,
    /// What its boot took, or why it did not come up.
    boot: Result<Vec<(&'static str, f64)>, String>,
    clock: Clock,
    outcomes: Vec<Outcome>,
}

impl<'a> Runner<'a> {
    fn start(contender: &'a Contender, files: &'a Files) -> Result<Self> {
        let started = start(contender, files)?;
        let boot = started.as_ref().map(|session| session.boot.clone()).map_err(|error| format!("{error:#}"));
        // Where nobody logs in, the guest would only disturb the others.
        let session = started.ok().filter(|_| files.ready == Ready::Prompt);
        Ok(Self { contender, files, session, boot, clock: Clock::default(), outcomes: Vec::new() })
    }

    fn measure(&mut self, workload: &Workload) -> Outcome {
        let boot = match (&workload.source, &self.boot) {
            (Source::Boot(_) | Source::Shell(_), _) if self.contender.kind == Kind::Host => {
                return Outcome::Absent;
            }
            (_, Err(reason)) => return Outcome::Failed(reason.clone()),
            (_, Ok(boot)) => boot,
        };
        if let Source::Boot(text) = workload.source {
            let seconds = boot.iter().find(|(seen, _)| *seen == text).map(|(_, seconds)| *seconds);
            return seconds.map_or(Outcome::Absent, Outcome::Value);
        }
        let measured = usable(&mut self.session, self.contender, self.files)
            .and_then(|session| time(&mut session.console, workload, &mut self.clock));
        match measured {
            Ok(Timed::Value(value)) => Outcome::Value(value),
            Ok(Timed::Failed(reason)) => Outcome::Failed(reason),
            Err(error) => {
                self.session = None;
                Outcome::Failed(format!("{error:#}"))
            }
        }
    }

    fn end(self) -> Sample {
        let mips = self.session.and_then(|session| power_off(self.contender, session));
        Sample { outcomes: self.outcomes, mips, clock: self.clock.speed() }
    }
}

/// The contender's shell, once it is there; the inner error tells why the guest did not come up.
fn start(contender: &Contender, files: &Files) -> Result<Result<Session>> {
    let command = (contender.command)(files)?;
    let start = Instant::now();
    let mut console = Console::start(command)?;
    let come_up = |console: &mut Console| -> Result<_> {
        let mut boot = Vec::new();
        if contender.kind == Kind::Guest {
            for text in files.ready.marks() {
                let (_, at) = console.wait_for(text, LIMIT).context("the guest did not start")?;
                boot.push((*text, (at - start).as_secs_f64()));
            }
        }
        if contender.kind == Kind::Guest && files.ready == Ready::Prompt {
            console.type_line("set -o pipefail")?;
        }
        Ok(boot)
    };
    Ok(come_up(&mut console).map(|boot| Session { console, boot }))
}

/// The session that there is, or a new one for the one that was lost.
fn usable<'a>(
    session: &'a mut Option<Session>,
    contender: &Contender,
    files: &Files,
) -> Result<&'a mut Session> {
    let usable = match session.take() {
        Some(usable) => usable,
        None => start(contender, files)?.context("after another workload failed")?,
    };
    Ok(session.insert(usable))
}

/// What the shell told of a workload.
#[derive(Debug)]
enum Timed {
    Value(f64),
    Failed(String),
}

/// The time between two marks that the shell prints: neither the typing nor its echo count. The echo
/// itself has quotation marks in the marks and is not mistaken for them.
///
/// # Errors
/// If the marks do not come: this shell is of no more use.
fn time(console: &mut Console, workload: &Workload, clock: &mut Clock) -> Result<Timed> {
    let command = match &workload.source {
        Source::Shell(command) => format!("{{ {command}; }} >/dev/null 2>&1"),
        // There are no words of the program's in between, as a rule, and if it fails they are wanted.
        Source::Anywhere(command) => format!("{{ {command}; }} 2>&1"),
        Source::Disk(device) => format!("{} disk {} {device} 2>&1", program::NAME, workload.name),
        Source::Boot(_) | Source::Program => format!("{} {} 2>&1", program::NAME, workload.name),
    };
    console.type_line(&format!("echo be''gin; {command}; echo e''nd $?"))?;
    let (_, begin) = console.wait_for("begin", WORKLOAD_LIMIT)?;
    let (text, end) = console.wait_for("end ", WORKLOAD_LIMIT)?;
    let (status, _) = console.wait_for("\n", WORKLOAD_LIMIT)?;
    let (status, elapsed) = (status.trim(), (end - begin).as_secs_f64());
    if status != "0" {
        return Ok(Timed::Failed(format!("it ended with {status}: {}", text.trim())));
    }
    if !matches!(workload.source, Source::Program | Source::Disk(_)) {
        return Ok(Timed::Value(elapsed));
    }
    Ok(match program::said(&text, workload) {
        Ok(said) => {
            clock.add(said.took, elapsed);
            Timed::Value(said.value)
        }
        Err(error) => Timed::Failed(format!("{error:#}")),
    })
}

/// Powers a guest off, and reads its speed. What goes wrong here costs no row.
fn power_off(contender: &Contender, mut session: Session) -> Option<f64> {
    if contender.kind == Kind::Host {
        // There is nothing to learn: dropping the session ends it.
        return None;
    }
    let errors = session.console.type_line("poweroff").and_then(|()| session.console.end(LIMIT));
    match errors {
        Ok(errors) => statistics::mips(&errors),
        Err(error) => {
            eprintln!("bench: {}: the guest did not power off: {error:#}", contender.name);
            None
        }
    }
}

/// The guest's clock beside the host's: the program's own time beside the time between the marks around it.
#[derive(Debug, Default)]
struct Clock {
    guest: f64,
    host: f64,
}

impl Clock {
    fn add(&mut self, guest: f64, host: f64) {
        self.guest += guest;
        self.host += host;
    }

    fn speed(&self) -> Option<f64> {
        (self.host > 0.0).then(|| self.guest / self.host)
    }
}

/// Whether what was measured with a clock of this speed is worth something. Starting the program takes time that the
/// guest's clock is not asked for.
///
/// # Errors
/// If not.
pub(crate) fn trust(clock: f64) -> Result<()> {
    ensure!(
        (0.9..1.03).contains(&clock),
        "the guest's clock makes {clock:.2} seconds of one of the host's: do not trust its rows"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use tern_image::Image;

    use super::*;
    use crate::soft::workload;

    /// What the program would print, by a shell function of its name.
    const PROGRAM: &str = "tern-workload() { case $1 in good) echo row good 2.5 us; echo took 0.001 s;; \
        bad) echo broken; return 3;; lost) exit;; esac; }; ";

    fn files() -> Files {
        let image = Image { kernel: PathBuf::new(), initrd: None, cmdline: String::new() };
        let (unpacked, program) = (PathBuf::new(), PathBuf::new());
        let (cpu, ready) = (String::new(), Ready::Prompt);
        Files { image, unpacked, memory: 0, cpu, ready, program, drives: Vec::new() }
    }

    /// A row of the program's.
    fn row(name: &str) -> Workload {
        let (unit, group, source) = ("us".into(), workload::Group::Kernel, Source::Program);
        Workload { name: name.into(), unit, group, source }
    }

    fn outcomes(kind: Kind, script: fn(&Files) -> Result<Command>, names: &[&str]) -> Vec<Outcome> {
        let contender = Contender { name: "fake", kind, command: script };
        let program = names.iter().map(|name| row(name));
        let workloads: Vec<_> = workload::boot().into_iter().chain(program).collect();
        run(&[contender], &files(), &workloads, 0, |_, _, _| ()).unwrap().remove(0).outcomes
    }

    fn shell(script: &str) -> Result<Command> {
        let mut command = Command::new("bash");
        command.args(["-c", script]);
        Ok(command)
    }

    /// Obeys the lines that it reads, but for the one that must not reach this host.
    const OBEY: &str = "while read -r line; do case $line in poweroff) exit;; *) eval \"$line\";; esac; done";

    fn host(_: &Files) -> Result<Command> {
        shell(&format!("{PROGRAM} {OBEY}"))
    }

    /// The same, after a boot.
    fn guest(_: &Files) -> Result<Command> {
        shell(&format!("{PROGRAM} echo busybox shell; echo 'tern:/# '; {OBEY}"))
    }

    #[test]
    fn a_workload_that_fails_or_loses_the_guest_does_not_cost_the_others() {
        let outcomes = outcomes(Kind::Guest, guest, &["good", "bad", "lost", "good"]);
        let [Outcome::Value(init), Outcome::Value(prompt), rest @ ..] = outcomes.as_slice() else {
            panic!("{outcomes:?}")
        };
        assert!(init <= prompt);
        let [Outcome::Value(2.5), Outcome::Failed(bad), Outcome::Failed(lost), Outcome::Value(2.5)] = rest
        else {
            panic!("{rest:?}")
        };
        assert!(bad.contains("ended with 3: broken"), "{bad}");
        assert!(lost.contains("the guest ended"), "{lost}");
    }

    #[test]
    fn the_host_does_not_boot() {
        assert_eq!(
            outcomes(Kind::Host, host, &["good"]),
            [Outcome::Absent, Outcome::Absent, Outcome::Value(2.5)]
        );
    }

    #[test]
    fn a_guest_that_does_not_start_fails_every_row() {
        let outcomes = outcomes(Kind::Guest, |_| shell("echo panic"), &["good"]);
        for outcome in &outcomes {
            assert!(matches!(outcome, Outcome::Failed(reason) if reason.contains("panic")), "{outcome:?}");
        }
        assert_eq!(outcomes.len(), 3);
    }

    #[test]
    fn contenders_take_turns_row_by_row_and_each_begins_in_its_turn() {
        let named = |name| Contender { name, kind: Kind::Host, command: host };
        let rows = [row("good"), row("good")];
        let mut turns = Vec::new();
        let samples = run(&[named("a"), named("b")], &files(), &rows, 1, |contender, _, _| {
            turns.push(contender.name);
        });
        assert_eq!(turns, ["b", "a", "a", "b"]);
        for sample in samples.unwrap() {
            assert_eq!(sample.outcomes, [Outcome::Value(2.5), Outcome::Value(2.5)]);
        }
    }

    #[test]
    fn a_clock_that_runs_at_half_the_speed_or_ahead_is_not_trusted() {
        assert!(trust(0.95).is_ok());
        assert!(trust(0.5).is_err());
        assert!(trust(1.5).is_err());
    }
}
