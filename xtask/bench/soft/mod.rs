//! The software engine beside QEMU's, on the same kernel, initramfs, command line and memory.
//!
//! ```text
//! contender.rs  how each is started          workload.rs  what is run in the guest
//!        └──────────► session.rs ◄────────────────┘
//!           one guest, driven through its serial port, timed on the host
//!                          └──► Sample ──► summary.rs (medians, ratios) ──► report.rs (table, JSON)
//! ```

mod contender;
mod promise;
mod report;
mod session;
mod statistics;
mod summary;
mod workload;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use tern_image::{Cache, OnStderr};

use crate::Form;
use contender::{CONTENDERS, Files};
use session::Sample;
use summary::Summary;

pub(crate) const ABOUT: &str = "\
Measures Tern beside QEMU: the time from starting the command to the guest's prompt, and shell
commands in the guest, timed on the host between two marks that the guest prints.

Both start the tiny guest: the same kernel, initramfs, kernel command line, memory and one
processor. Tern is started as users start it, with the kernel as Debian packs it, and unpacks it
itself. QEMU gets the same kernel unpacked, because it would have to emulate the unpacking, and
enters it through PVH as Tern does, in its q35 machine. (Its leaner microvm machine has no clock
that this kernel can rely on under TCG, and now and then stops there.) It emulates the most capable
processor it can (`-cpu max`).

Medians over all rounds; a ratio above 1 means that Tern is faster. The exit code tells whether
what Tern promises was kept.";

/// What the user chooses.
#[derive(Debug, Args)]
#[command(long_about = ABOUT)]
pub(crate) struct Options {
    /// How often everything is measured
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Measure only this one, by the name it has in the table; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text", value_name = "FORM")]
    output: Form,
}

/// Measures, prints, and tells whether what Tern promises was kept.
///
/// # Errors
/// If a contender does not run its guest.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut contenders = CONTENDERS.to_vec();
    if !options.only.is_empty() {
        contenders.retain(|contender| options.only.iter().any(|name| name == contender.name));
        anyhow::ensure!(!contenders.is_empty(), "there is no contender with that name");
    }
    let image = tern_image::tiny(&Cache::of_user()?, &OnStderr::new())?;
    let packed = fs::read(&image.kernel).context("cannot read the kernel")?;
    let directory = tempfile::tempdir().context("cannot make a directory for the unpacked kernel")?;
    let unpacked = directory.path().join("vmlinux");
    let elf = tern_vmm::boot::unpack(&packed).context("cannot unpack the kernel")?;
    fs::write(&unpacked, elf).context("cannot write the unpacked kernel")?;
    let files = Files { image, unpacked };

    let mut samples: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        for (contender, samples) in contenders.iter().zip(&mut samples) {
            eprintln!("bench: round {round} of {}: {}", options.rounds, contender.name);
            let sample =
                session::run(contender, &files).with_context(|| format!("{} failed", contender.name))?;
            samples.push(sample);
        }
    }
    let names: Vec<_> = contenders.iter().map(|contender| contender.name).collect();
    let summary = Summary::new(&names, &samples);
    let promises = promise::judge(&summary);
    match options.output {
        Form::Text => print!("{}", report::text(&summary, &promises)),
        Form::Json => println!("{:#}", report::json(&summary, &promises)),
    }
    let kept = promises.iter().all(|promise| promise.kept);
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
