//! Tern on a computer that this one is not: commands run under a Linux that QEMU emulates, with the hardware they need.
//!
//! ```text
//! this host ─ QEMU (TCG, emulates AMD-V) ─ Debian's cloud kernel with kvm-amd ─ COMMAND, which may be `tern run`
//!                 ▲ emulator.rs                 ▲ files.rs, init.sh
//! ```
//!
//! The command's output is this program's, and so is its exit code. It finds `tern`, busybox, and the tiny guest, which
//! `tiny` starts: `tiny --engine kvm --cpus 2` is `tern run` with the tiny guest's kernel, initramfs and command line.

#![forbid(unsafe_code)]

mod emulator;
mod files;

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use tern_image::debian::{self, Flavour, Suite};
use tern_image::system::{Release, System};
use tern_image::{Cache, OnStderr};

use emulator::{Ended, Rig};
use files::Placed;

/// Runs a command on an emulated computer.
#[derive(Debug, Parser)]
#[command(name = "tern-rig", bin_name = "cargo xtask rig")]
struct Cli {
    /// What the computer has that this one may lack
    #[arg(value_enum)]
    kind: Kind,

    /// How many processors it has. Guests on more than one crash now and then, the computer with them: QEMU 7.2 loses
    /// interrupts between processors that enter and leave guests
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: u32,

    /// How much memory it has, in MiB
    #[arg(long, default_value_t = 2048, value_name = "MIB")]
    memory: u32,

    /// Start a shell instead of a command; `exit` ends the computer
    #[arg(long, conflicts_with = "command")]
    shell: bool,

    /// Bring this program along with its libraries, as a command of its name or of NAME, or at a place that begins with '/'; may
    /// be repeated
    #[arg(long, value_name = "FILE[=NAME]")]
    put: Vec<String>,

    /// Bring this file along, at the place that it has here or at DESTINATION; may be repeated
    #[arg(long, value_name = "FILE[=DESTINATION]")]
    file: Vec<String>,

    /// Bring along Debian's kernels and the tiny guest, where tern and its tests look for them
    #[arg(long)]
    kernels: bool,

    /// Bring along a whole system, `debian`, where tern and its tests look for it
    #[arg(long)]
    system: bool,

    /// End a command that takes longer, in seconds
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,

    /// What is run, by busybox's shell; without it, the tiny guest is started and switched off
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// AMD-V with nested paging, and Linux's KVM
    Kvm,
}

/// What is run if nothing else is asked for: the proof that a guest boots on KVM and ends in order.
const SMOKE: &str = "tern engines && echo poweroff | tiny --engine kvm --stats";

/// What a shell returns for a command that was ended because of its time, as timeout(1) does.
const TIMED_OUT: u8 = 124;

/// What is returned if the computer cannot be started or ends by itself, as timeout(1) does when it fails.
const FAILED: u8 = 125;

/// Debian's kernels and the tiny guest, as entries of the cache that the rig's user has.
fn kernels(cache: &Cache, progress: &OnStderr) -> Result<Vec<Placed>> {
    let mut files = Vec::new();
    for suite in [Suite::Host, Suite::Trixie] {
        for flavour in [Flavour::Cloud, Flavour::Generic] {
            files.push(debian::kernel(cache, suite, flavour, progress)?);
        }
    }
    let tiny = tern_image::tiny(cache, progress)?;
    files.extend(tiny.initrd);
    files.push(debian::busybox(cache, progress)?);
    let mut placed = Vec::new();
    for directory in files.iter().filter_map(|file| file.parent()) {
        placed.extend(Placed::entry(directory)?);
    }
    Ok(placed)
}

fn main() -> ExitCode {
    run(&Cli::parse()).unwrap_or_else(|error| {
        eprintln!("tern-rig: {error:#}");
        ExitCode::from(FAILED)
    })
}

fn run(cli: &Cli) -> Result<ExitCode> {
    let Kind::Kvm = cli.kind;
    let command = match (cli.shell, cli.command.is_empty()) {
        (true, _) => "exec busybox setsid -c sh".to_owned(),
        (false, true) => SMOKE.to_owned(),
        (false, false) => cli.command.join(" "),
    };
    let cache = Cache::of_user()?;
    let progress = OnStderr::new();
    let host = debian::kvm_host(&cache, &progress)?;
    let guest = tern_image::tiny(&cache, &progress)?;
    let this = env::current_exe().context("cannot find out where this program is")?;
    let mut programs = vec![Placed::program(&this.with_file_name("tern").to_string_lossy())?];
    for argument in &cli.put {
        programs.push(Placed::program(argument)?);
    }
    let mut others = Vec::new();
    for argument in &cli.file {
        others.push(Placed::file(argument)?);
    }
    if cli.kernels {
        others.extend(kernels(&cache, &progress)?);
    }
    if cli.system {
        let release = Release::ALL[0];
        let system = System::get(&cache, release, &progress)?;
        others.extend(Placed::entry(system.disk.parent().context("an entry of the cache is a directory")?)?);
    }
    let initramfs = files::initramfs(&host, &guest, &programs, &others, &command)?;
    let timeout = (!cli.shell).then(|| Duration::from_secs(cli.timeout));
    let rig =
        Rig { kernel: &host.kernel, initramfs: &initramfs, cpus: cli.cpus, memory: cli.memory, timeout };
    Ok(match rig.run()? {
        Ended::Status(status) => ExitCode::from(status),
        Ended::TimedOut => {
            eprintln!("tern-rig: ended after {} s; --timeout gives it more", cli.timeout);
            ExitCode::from(TIMED_OUT)
        }
    })
}
