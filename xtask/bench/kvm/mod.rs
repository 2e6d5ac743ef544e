//! The KVM engine beside QEMU's microvm machine on KVM: time, exits and memory from starting the command to the guest's
//! init.
//!
//! ```text
//!   rig.rs      packs this program, tern, QEMU and the guest into the rig and starts `tern-bench kvm --here` there
//!   --here:     contender.rs (how each is started) ──► sample.rs (one start, watched)
//!                                                        ├ memory.rs  what the process takes beside the guest's memory
//!                                                        └ exits.rs   how often and why the guest was left, from the
//!                                                                     kernel's trace, in rounds of their own
//!               ──► report.rs (tables, JSON, promises)
//! ```

mod contender;
mod exits;
mod memory;
mod report;
mod rig;
mod sample;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use tern_image::{Cache, Image, OnStderr};

use crate::Form;
use contender::{CONTENDERS, Files};
use exits::Trace;
use report::Measured;

const ABOUT: &str = "\
Measures Tern beside QEMU's microvm machine, both on KVM: the time from starting the command to the
first line of the guest's init, the times that the processor left the guest until then, by kind and
with what they cost, and the memory that the program takes beside the guest's own.

Both start the tiny guest: the same kernel (unpacked), initramfs, kernel command line, memory and one
processor, and the machine has no devices but its serial port and clock. QEMU's machine is as lean as it goes: without option ROMs,
8259s and interval timer. 'packed' is with the kernel as Debian packs it; Tern is to be ahead of
the better of both.

Without --here this happens in the rig, a computer that QEMU emulates, because few development
machines have KVM to give: then compare, and do not take the times for a real processor's. The exits
are counted in three rounds of their own, because counting slows them down; the one with the median
number is told.

Medians over all rounds. The exit code tells whether what Tern promises was kept.";

/// Guest memory for everybody, in MiB.
const MEMORY: u32 = 512;

/// How often exits are counted.
const COUNTED: usize = 3;

/// What the user chooses.
#[derive(Debug, Args)]
#[command(long_about = ABOUT)]
pub(crate) struct Options {
    /// How often everything is measured
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text", value_name = "FORM")]
    output: Form,

    /// Measure on this computer's own KVM, as root if exits are to be counted
    #[arg(long)]
    here: bool,

    /// Where the rig finds the guest: its kernel, the same unpacked, the initramfs, and the kernel command line in a file
    #[arg(long, num_args = 4, requires = "here", hide = true, value_name = "FILE")]
    guest: Option<Vec<PathBuf>>,
}

/// Measures, prints, and tells whether what Tern promises was kept.
///
/// # Errors
/// If the rig cannot be started, or a contender does not run its guest.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if !options.here {
        return rig::run(options);
    }
    let directory = tempfile::tempdir().context("cannot make a temporary folder")?;
    let files = match options.guest.as_deref() {
        Some([kernel, unpacked, initrd, cmdline]) => {
            let cmdline = fs::read_to_string(cmdline).context("cannot read the kernel command line")?;
            let image = Image {
                kernel: kernel.clone(),
                initrd: Some(initrd.clone()),
                cmdline: cmdline.trim().into(),
            };
            Files { image, unpacked: unpacked.clone() }
        }
        _ => guest(directory.path().join("vmlinux"))?,
    };
    let mut measured: Vec<_> = CONTENDERS.iter().map(|contender| Measured::new(contender.name)).collect();
    for round in 1..=options.rounds {
        for (contender, measured) in CONTENDERS.iter().zip(&mut measured) {
            eprintln!("bench: round {round} of {}: {}", options.rounds, contender.name);
            let sample = sample::take(contender, &files, None)
                .with_context(|| format!("{} failed", contender.name))?;
            measured.samples.push(sample);
        }
    }
    match Trace::new() {
        Ok(trace) => {
            for (contender, measured) in CONTENDERS.iter().zip(&mut measured) {
                eprintln!("bench: counting the exits of {}", contender.name);
                let mut counted = Vec::new();
                for _ in 0..COUNTED {
                    let sample = sample::take(contender, &files, Some(&trace))
                        .with_context(|| format!("{} failed", contender.name))?;
                    counted.extend(sample.exits);
                }
                counted.sort_by_key(exits::total);
                measured.exits = counted.into_iter().nth(COUNTED / 2);
            }
        }
        Err(error) => eprintln!("bench: exits are not counted: {error:#}"),
    }
    ensure!(!measured.is_empty(), "nobody took part");
    let promises = report::judge(&measured);
    match options.output {
        Form::Text => print!("{}", report::text(&measured, &promises)),
        Form::Json => println!("{:#}", report::json(&measured, &promises)),
    }
    let kept = promises.iter().all(|promise| promise.kept);
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The tiny guest, with its kernel unpacked to `unpacked`.
fn guest(unpacked: PathBuf) -> Result<Files> {
    let image = tern_image::tiny(&Cache::of_user()?, &OnStderr::new())?;
    let packed = fs::read(&image.kernel).context("cannot read the kernel")?;
    let elf = tern_vmm::boot::unpack(&packed).context("cannot unpack the kernel")?;
    fs::write(&unpacked, elf).context("cannot write the unpacked kernel")?;
    Ok(Files { image, unpacked })
}
