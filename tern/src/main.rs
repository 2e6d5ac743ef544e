//! The command `tern`: words in, words out, no mechanism.
//!
//! ```text
//! cli.rs        what can be said; one definition gives parser, help and completions
//! usage.rs      from words to what was said, or what is wrong with them
//! habits.rs     what people say who come from other programs, and the answers
//! run.rs        `tern run`: from words to a machine, and from its end to an exit code
//! source.rs     what a machine starts from: an image, a kept machine, a kernel
//! login.rs      what a system's login is to know of the terminal
//! initramfs.rs  what is put behind a guest's initramfs
//! guest.rs      from file names to a kernel and what belongs to it
//! devices.rs    from words to the devices on the PCI bus
//! files.rs      a guest's files, read when the machine needs them
//! heap.rs       the allocator, told to keep nothing large
//! limits.rs     as many open files as a machine may need
//! statistics.rs what a machine did, for people
//! engines.rs    the engines, and `tern engines`
//! command/      `tern run -- COMMAND`: one command in a guest
//! images.rs     `tern image`: systems, kept machines and the rest of the cache
//! disks/        `tern image`: disk images
//! waiting.rs    what is shown while a guest boots
//! patience.rs   what is shown of other things that take long
//! terminal/     the user's terminal as the guest's serial console
//! control/      running machines, by name: `tern ps`, `tern stop`, `tern console`, `tern run --detach`
//! panics.rs     what a mistake of ours leaves to the disks
//! exit.rs       what the exit codes mean
//! size.rs       sizes as people write them
//! ```

#![deny(unsafe_code)]

mod cli;
mod command;
mod control;
mod devices;
mod disks;
mod engines;
mod exit;
mod files;
mod guest;
mod habits;
mod heap;
mod images;
mod initramfs;
mod limits;
mod login;
mod panics;
mod patience;
mod run;
mod size;
mod source;
mod statistics;
mod terminal;
mod usage;
mod waiting;

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::CommandFactory;

use cli::{Cli, Command};
use exit::{Code, Failure};

fn main() -> ExitCode {
    heap::give_back_large_blocks();
    let words: Vec<OsString> = env::args_os().collect();
    match usage::read(&words).and_then(|cli| obey(cli.command)) {
        Ok(code) => code.into(),
        Err(failure) => {
            failure.report();
            failure.code.into()
        }
    }
}

fn obey(command: Command) -> Result<Code, Failure> {
    match command {
        Command::Run(arguments) => command::judged(&arguments, run::run(&arguments)),
        Command::Engines { output } => engines::list(output).map(|()| Code::SUCCESS),
        Command::Ps { output } => control::list(output).map(|()| Code::SUCCESS),
        Command::Stop(arguments) => control::stop(&arguments).map(|()| Code::SUCCESS),
        Command::Console { name, quiet } => control::attach(&name, quiet),
        Command::Image(command) => images::manage(&command).map(|()| Code::SUCCESS),
        Command::Completions { shell } => completions(shell).map(|()| Code::SUCCESS),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tern", &mut script);
    print(&script)
}

/// Writes to standard output. Whoever closes it early has seen enough: that is no failure.
fn print(text: &[u8]) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::host(anyhow::Error::new(error).context("cannot write to standard output")))
        }
        _ => Ok(()),
    }
}
