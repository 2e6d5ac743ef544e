//! Disks and whole runs, beside QEMU with the same sort of engine.
//!
//! ```text
//! image.rs  the disks ──► contender.rs  how each is started ──► soft::session  a guest's shell, driven through its terminal
//! rig.rs    the same in the rig, for KVM                            └──► soft::summary, soft::report
//! ```

mod contender;
mod image;
mod rig;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Args;
use tern_image::cpio::Archive;
use tern_image::{Cache, Image, OnStderr};

use crate::Form;
use crate::console::Console;
use crate::soft::{
    Contender, Drive, Files, Group, Outcome, Ready, Sample, Source, Summary, Workload, disk_workloads, pack,
    path, report, session, tell, unpack,
};
use image::Caching;

const ABOUT: &str = "\
Measures Tern beside QEMU with the same sort of engine: soft beside TCG here, or kvm beside KVM in the rig, a computer that
QEMU emulates. In the tiny guest, with a raw and a qcow2 disk of 128 MiB that hold data everywhere: reading and writing, one
mebibyte after the other or 4 KiB here and there, by one thread or by eight, around the guest's page cache. Both have virtio
disks, io_uring and the same cache. Then `tern run -- true`, from the command to its end, beside a QEMU whose guest's first
process runs `true` and powers off; and a whole Debian 13 on its disk, to its login.

Around the host's page cache the rows in sequence are most often as fast as the host's own disk, whoever asks: `--cache writeback`
tells what each of them adds.

Medians over all rounds, of the times and of each round's ratios; a ratio above 1 means that Tern is faster. The exit code tells
whether nothing failed.";

/// What the user chooses.
#[derive(Debug, Args)]
#[command(long_about = ABOUT)]
pub(crate) struct Options {
    /// How often everything is measured
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// How disks are used: 'none' here, and 'writeback' in the rig, whose files are in memory
    #[arg(long, value_enum, value_name = "CACHE")]
    cache: Option<Caching>,

    /// Leave out the whole Debian, which takes longer than everything else
    #[arg(long)]
    no_debian: bool,

    /// Measure the engines that use KVM, in the rig: then compare, and do not take the times for a real processor's
    #[arg(long)]
    kvm: bool,

    /// With --kvm: on this computer's own KVM
    #[arg(long, requires = "kvm")]
    here: bool,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text", value_name = "FORM")]
    output: Form,

    /// Where the rig finds the guest: its kernel, the same unpacked, the initramfs, and the kernel command line in a file
    #[arg(long, num_args = 4, requires = "here", hide = true, value_name = "FILE")]
    guest: Option<Vec<PathBuf>>,
}

/// The tiny guest's memory and Debian's, in MiB.
const MEMORY: u32 = 512;
const DEBIAN_MEMORY: u32 = 1024;

/// Tern's processor: what guests have if nothing else is said.
const MODEL: &str = "auto";

/// How long a command in a fresh guest may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Measures, prints, and tells whether nothing failed.
///
/// # Errors
/// If a contender cannot be started at all.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if options.kvm && !options.here {
        return rig::run(options);
    }
    let contenders = if options.kvm { contender::KVM } else { contender::SOFT };
    let directory = tempfile::tempdir().context("cannot make a folder for disks")?;
    let tiny = tiny(options, directory.path())?;
    let caching = options.cache.unwrap_or(Caching::None);
    let drives = image::drives(directory.path(), caching)?;
    let with_disks = Files { drives, ..tiny.clone() };
    let debian = if options.no_debian { None } else { Some(debian(directory.path())?) };
    let rows = disk_workloads(&["raw", "qcow2"])?;
    let login = login();

    let mut samples: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        let mut turns: Vec<_> = contenders.iter().zip(&mut samples).collect();
        // Whoever comes first meets another disk of the host than the others, which may still be busy or has all in its cache.
        if round.is_multiple_of(2) {
            turns.reverse();
        }
        for (contender, samples) in turns {
            eprintln!("bench: round {round} of {}: {}", options.rounds, contender.name);
            // They have their disks in common, and cannot take turns row by row.
            let alone = |files, rows: &[Workload]| session::run(&[*contender], files, rows, 0, tell);
            let mut sample = alone(&with_disks, &rows)?.remove(0);
            let outcome = once(contender, &tiny);
            tell(contender, &once_row(), &outcome);
            sample.outcomes.push(outcome);
            if let Some(files) = &debian {
                let booted = alone(files, std::slice::from_ref(&login))?.remove(0);
                sample.outcomes.extend(booted.outcomes);
            }
            // Its speed is another suite's business.
            sample.mips = None;
            samples.push(sample);
        }
    }
    let rows: Vec<_> = rows.into_iter().chain([once_row()]).chain(debian.map(|_| login)).collect();
    let names = contenders.map(|contender| contender.name);
    let summary = Summary::new(&names, &rows, &samples);
    match options.output {
        Form::Text => print!("{}", report::text(&summary, &[])),
        Form::Json => println!("{:#}", report::json(&summary, &[])),
    }
    Ok(if summary.failures().next().is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The time from the command to its end.
fn once_row() -> Workload {
    let source = Source::Anywhere(String::new());
    Workload {
        name: "a command, `true`, in a fresh guest".into(),
        unit: "s".into(),
        group: Group::Boot,
        source,
    }
}

fn login() -> Workload {
    let source = Source::Boot(Ready::Login.marks()[0]);
    Workload { name: "Debian 13 on its disk to login".into(), unit: "s".into(), group: Group::Boot, source }
}

fn once(contender: &Contender, tiny: &Files) -> Outcome {
    let measure = || -> Result<f64> {
        let command = contender::once(contender, tiny)?;
        let start = Instant::now();
        Console::start(command)?.end(LIMIT)?;
        Ok(start.elapsed().as_secs_f64())
    };
    measure().map_or_else(|error| Outcome::Failed(format!("{error:#}")), Outcome::Value)
}

/// The tiny guest, with the program that measures, and what QEMU's guest runs.
fn tiny(options: &Options, directory: &Path) -> Result<Files> {
    let program = path()?;
    if let Some([kernel, unpacked, initrd, cmdline]) = options.guest.as_deref() {
        let cmdline = fs::read_to_string(cmdline).context("cannot read the kernel command line")?;
        let image =
            Image { kernel: kernel.clone(), initrd: Some(initrd.clone()), cmdline: cmdline.trim().into() };
        return Ok(files(image, unpacked.clone(), program));
    }
    let image = tern_image::tiny(&Cache::of_user()?, &OnStderr::new())?;
    let unpacked = unpack(&image.kernel, directory.join("vmlinux"))?;
    let initrd = image.initrd.as_deref().context("the tiny guest has no initramfs")?;
    let mut more = Archive::default();
    pack(&program, &mut more)?;
    more.file(contender::ONCE.trim_start_matches('/'), 0o755, contender::ONCE_SCRIPT.as_bytes());
    let tiny = fs::read(initrd).with_context(|| format!("cannot read '{}'", initrd.display()))?;
    let initrd = directory.join("initrd");
    // Linux unpacks one archive after the other.
    fs::write(&initrd, [tiny, more.finish()].concat()).context("cannot write an initramfs")?;
    Ok(files(Image { initrd: Some(initrd), ..image }, unpacked, program))
}

fn files(image: Image, unpacked: PathBuf, program: PathBuf) -> Files {
    let (cpu, ready) = (MODEL.to_owned(), Ready::Prompt);
    Files { image, unpacked, memory: MEMORY, cpu, ready, program, drives: Vec::new() }
}

fn debian(directory: &Path) -> Result<Files> {
    let (image, drive): (Image, Drive) = image::debian(&Cache::of_user()?)?;
    let unpacked = unpack(&image.kernel, directory.join("vmlinux-debian"))?;
    let (memory, program) = (DEBIAN_MEMORY, PathBuf::new());
    let (cpu, ready) = (MODEL.to_owned(), Ready::Login);
    Ok(Files { image, unpacked, memory, cpu, ready, program, drives: vec![drive] })
}
