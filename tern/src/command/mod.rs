//! `tern run IMAGE -- COMMAND`: a machine for one command, whose streams, signals and exit code are this command's.
//!
//! ```text
//! stdin ──▶ input.rs ──▶ outbox.rs ──▶ port of the console device ──▶ the agent in the guest (command/agent)
//! stdout, stderr ◀── output.rs ◀── talk.rs ◀── port ◀──
//! segment.rs      how the agent comes into the guest
//! signals.rs      signals go to the command, and sizes of the terminal
//! last_lines.rs   the guest's console, which nobody sees unless something goes wrong
//! ```
//!
//! Exit codes are docker(1)'s: the command's own, 128 and a signal's number, 127 if there is no such command, 126 if it cannot be run, and
//! 125 if there was no guest to run it.

mod input;
mod last_lines;
mod outbox;
mod output;
mod segment;
mod signals;
mod talk;

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

use anyhow::anyhow;
use tern_command_protocol::{PORT, Size, Start};
use tern_virtio::console::PortConfig;

use crate::cli::RunArguments;
use crate::exit::{Code, Failure};
use crate::source::Source;
use crate::terminal;

pub(crate) use last_lines::LastLines;
pub(crate) use talk::{Ended, Talk};

/// What `tern run` takes for a command.
#[derive(Debug, clap::Args)]
pub(crate) struct CommandArguments {
    /// Run this in the guest in place of a shell: its streams, signals and exit code are this command's, and the machine ends with it
    #[arg(last = true, value_name = "COMMAND")]
    pub words: Vec<OsString>,

    /// Give the command a terminal, this one
    #[arg(short = 't', long = "terminal", alias = "tty", requires = "words", help_heading = "Command")]
    pub has_terminal: bool,

    /// Give the command this variable; without a value, the one that it has here. May be repeated
    #[arg(short, long = "env", value_name = "NAME[=VALUE]", requires = "words", help_heading = "Command")]
    pub environment: Vec<OsString>,

    /// Start the command in this folder of the guest's
    #[arg(
        short = 'w',
        long = "workdir",
        value_name = "FOLDER",
        requires = "words",
        help_heading = "Command"
    )]
    pub directory: Option<OsString>,
}

impl CommandArguments {
    /// Whether there is a command.
    pub(crate) fn is_there(&self) -> bool {
        !self.words.is_empty()
    }
}

/// A command for which there is no machine yet.
pub(crate) struct Prepared {
    start: Start,
    stream: UnixStream,
    /// Nothing is to be shown but what the command writes.
    is_quiet: bool,
    /// The machine ends as soon as the command does: what it writes is gone anyway.
    ends_at_once: bool,
    /// What the guest's initramfs gets in addition.
    segment: Vec<u8>,
}

/// The command that the command line names, with the port of the console device that leads to it.
///
/// # Errors
/// The guest cannot be given it.
pub(crate) fn prepare(
    arguments: &RunArguments,
    source: &Source,
) -> Result<Option<(Prepared, PortConfig)>, Failure> {
    let command = &arguments.command;
    if !command.is_there() {
        return Ok(None);
    }
    if arguments.initrd.is_none() && source.initrd.is_none() {
        let way_out = "name the kernel's initramfs with --initrd FILE";
        return Err(Failure::input(anyhow!(
            "a command comes into the guest through its initramfs, and there is none: {way_out}"
        )));
    }
    let start = start(command)?;
    if !start.fits() {
        return Err(Failure::input(anyhow!("the command and its environment are longer than a mebibyte")));
    }
    let (port, stream) = PortConfig::joined(PORT).map_err(|error| {
        Failure::host(anyhow::Error::new(error).context("cannot make a way for the command to the guest"))
    })?;
    let is_kept =
        source.kept.is_some() || arguments.disks.iter().any(|disk| !disk.is_read_only && !disk.has_overlay);
    let segment = segment::segment(source.is_tiny() && arguments.initrd.is_none());
    let is_quiet = arguments.quiet;
    Ok(Some((Prepared { start, stream, is_quiet, ends_at_once: !is_kept, segment }, port)))
}

impl Prepared {
    /// What is put behind the guest's initramfs.
    pub(crate) fn segment(&self) -> &[u8] {
        &self.segment
    }
}

fn start(command: &CommandArguments) -> Result<Start, Failure> {
    let bytes = |text: &OsString| text.as_bytes().to_vec();
    let mut environment = Vec::new();
    for variable in &command.environment {
        if variable.as_bytes().contains(&b'=') {
            environment.push(bytes(variable));
        } else if let Some(value) = std::env::var_os(variable) {
            environment.push([variable.as_bytes(), b"=", value.as_bytes()].concat());
        }
    }
    if environment.iter().any(|variable| variable.starts_with(b"=")) {
        return Err(Failure::input(anyhow!("--env takes NAME or NAME=VALUE, and a name has letters")));
    }
    let terminal = command.has_terminal.then(|| {
        let (columns, rows) = terminal::size().unwrap_or((80, 24));
        Size { columns, rows }
    });
    if terminal.is_some() {
        if !std::io::IsTerminal::is_terminal(&std::io::stdin()) {
            return Err(Failure::input(anyhow!("--terminal is for a terminal, and standard input is none")));
        }
        if let Some(kind) = std::env::var_os("TERM") {
            environment.insert(0, [b"TERM=", kind.as_bytes()].concat());
        }
    }
    Ok(Start {
        words: command.words.iter().map(bytes).collect(),
        environment,
        directory: command.directory.as_ref().map(bytes),
        terminal,
    })
}

/// With the exit code of a command that could not be run, whatever the reason, if there was to be one.
pub(crate) fn judged(arguments: &RunArguments, done: Result<Code, Failure>) -> Result<Code, Failure> {
    match done {
        Err(failure) if arguments.command.is_there() => Err(failure.with_code(Code::NOT_RUN)),
        done => done,
    }
}
