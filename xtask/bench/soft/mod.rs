//! The software engine beside QEMU's, on the same kernel, initramfs, command line and memory, and beside the host itself.
//!
//! ```text
//! contender.rs  how each is started          workload.rs, program.rs, real/  what is run there
//!        └──────────► session.rs ◄────────────────┘
//!        a shell of each, a guest's or the host's, driven through its terminal; they take turns
//!                          └──► Sample ──► summary.rs (medians, ratios) ──► report.rs (table, JSON)
//! ```

mod contender;
mod debian;
mod program;
mod promise;
mod real;
pub(crate) mod report;
pub(crate) mod session;
mod statistics;
mod summary;
mod workload;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Args;
use tern_image::cpio::Archive;
use tern_image::{Cache, Image, OnStderr};

use crate::Form;
use contender::CONTENDERS;

// Another suite's guests are driven and told of in the same way.
pub(crate) use contender::{Contender, Drive, Files, Kind, Ready, TERN, qemu, tern};
pub(crate) use program::{disk_workloads, pack, path};
pub(crate) use session::{Outcome, Sample};
pub(crate) use summary::Summary;
pub(crate) use workload::{Group, Source, Workload};

pub(crate) const ABOUT: &str = "\
Measures Tern beside QEMU and beside the host itself: the time from starting the command to the
guest's init and to its prompt; one thing after the other, from a CRC to a new process, by a program
that tells by the guest's clock what each takes; and shell commands in the guest, timed on the host
between two marks that the guest prints; and likewise real programs, this host's own C compiler and
Python.

The guests are the tiny guest with that program added: the same kernel, initramfs, kernel command
line, memory and one processor. Tern is started as users start it, with the kernel as Debian packs
it, and unpacks it itself. QEMU gets the same kernel unpacked, because it would have to emulate the
unpacking, and enters it through PVH as Tern does, in its q35 machine. (Its leaner microvm machine
has no clock that this kernel can rely on under TCG, and now and then stops there.) It emulates the
most capable processor it can (`-cpu max`). 'native' is the same programs on this host, by its own
processor and its own kernel. The real programs have a guest of their own, with a larger initramfs.

In a round all of them boot, one after the other, and then take turns with each other row, so that
what else this computer does meets all of them alike. Medians over all rounds, of the times and of each
round's ratios; a ratio above 1 means that Tern is faster. The exit code tells whether nothing failed
and what Tern promises was kept.";

/// What the user chooses.
#[derive(Debug, Args)]
#[command(long_about = ABOUT)]
pub(crate) struct Options {
    /// How often everything is measured
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Measure only this contender, by the name it has in the table; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,

    /// Measure only this row, by the name it has in the table, or only this group of them (boot, integer, wide, kernel,
    /// shell, real); may be repeated
    #[arg(long, value_name = "NAME")]
    row: Vec<String>,

    /// The processor that Tern gives its guests; `host` is the one with all that this host has, as QEMU's always is
    #[arg(long, default_value = "auto", value_name = "NAME")]
    cpu: String,

    /// Also measure how long a whole Debian 13 takes to its login; it is made once, with mmdebstrap
    #[arg(long)]
    debian: bool,

    /// How to print
    #[arg(short, long, value_enum, default_value = "text", value_name = "FORM")]
    output: Form,
}

/// Measures, prints, and tells whether nothing failed and what Tern promises was kept.
///
/// # Errors
/// If a contender cannot be started at all.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let mut contenders = CONTENDERS.to_vec();
    if !options.only.is_empty() {
        contenders.retain(|contender| options.only.iter().any(|name| name == contender.name));
        ensure!(!contenders.is_empty(), "there is no contender with that name");
    }
    let directory = tempfile::tempdir().context("cannot make a folder for what guests need")?;
    let parts = parts(directory.path(), options)?;

    let mut samples: Vec<Vec<Sample>> = contenders.iter().map(|_| Vec::new()).collect();
    for round in 1..=options.rounds {
        eprintln!("bench: round {round} of {}", options.rounds);
        for (samples, sample) in samples.iter_mut().zip(take(&contenders, &parts, round as usize)?) {
            samples.push(sample);
        }
    }
    let workloads: Vec<_> = parts.into_iter().flat_map(|part| part.workloads).collect();
    let names: Vec<_> = contenders.iter().map(|contender| contender.name).collect();
    let summary = Summary::new(&names, &workloads, &samples);
    let promises = promise::judge(&summary, options.row.is_empty());
    match options.output {
        Form::Text => print!("{}", report::text(&summary, &promises)),
        Form::Json => println!("{:#}", report::json(&summary, &promises)),
    }
    let well = summary.failures().next().is_none() && promises.iter().all(|promise| promise.kept);
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A guest, and what is measured in it.
#[derive(Debug)]
struct Part {
    files: Files,
    workloads: Vec<Workload>,
}

/// What there is to measure of what the user has chosen; the guests' files are written to `directory`.
fn parts(directory: &Path, options: &Options) -> Result<Vec<Part>> {
    let program = program::path()?;
    let real = real::find(directory)?;
    let tiny = [workload::boot(), program::workloads(&program)?, workload::shell()].concat();
    let debian = if options.debian { vec![debian::workload()] } else { Vec::new() };
    let all = [tiny.clone(), real.workloads.clone(), debian.clone()].concat();
    let chosen = chosen(all, &options.row)?;
    let of = |part: &[Workload]| -> Vec<_> {
        part.iter().filter(|workload| chosen.contains(workload)).cloned().collect()
    };

    let cache = Cache::of_user()?;
    let image = tern_image::tiny(&cache, &OnStderr::new())?;
    let unpacked = unpack(&image.kernel, directory.join("vmlinux"))?;
    let files = |name: &str, archive: Archive| -> Result<Files> {
        let initrd = image.initrd.as_deref().context("the tiny guest has no initramfs")?;
        let tiny = fs::read(initrd).with_context(|| format!("cannot read '{}'", initrd.display()))?;
        let initrd = directory.join(name);
        // Linux unpacks one archive after the other.
        fs::write(&initrd, [tiny, archive.finish()].concat()).context("cannot write an initramfs")?;
        let image = Image { initrd: Some(initrd), ..image.clone() };
        let (unpacked, program, cpu) = (unpacked.clone(), program.clone(), options.cpu.clone());
        let (memory, ready) = (contender::MEMORY, Ready::Prompt);
        Ok(Files { image, unpacked, memory, cpu, ready, program, drives: Vec::new() })
    };
    let (mut with_program, mut with_real) = (Archive::default(), Archive::default());
    program::pack(&program, &mut with_program)?;
    real.pack(&mut with_real)?;
    let mut parts = vec![
        Part { files: files("tiny", with_program)?, workloads: of(&tiny) },
        // Only these rows want such a large guest.
        Part { files: files("real", with_real)?, workloads: of(&real.workloads) },
    ];
    if options.debian {
        let image = debian::image(&cache)?;
        let unpacked = unpack(&image.kernel, directory.join("vmlinux-debian"))?;
        let memory = debian::MEMORY;
        let (ready, cpu, program) = (Ready::Login, options.cpu.clone(), program.clone());
        let files = Files { image, unpacked, memory, cpu, ready, program, drives: Vec::new() };
        parts.push(Part { files, workloads: of(&debian) });
    }
    parts.retain(|part| !part.workloads.is_empty());
    Ok(parts)
}

/// Writes a kernel as an ELF file to `unpacked`, and returns that.
pub(crate) fn unpack(kernel: &Path, unpacked: PathBuf) -> Result<PathBuf> {
    let packed = fs::read(kernel).context("cannot read the kernel")?;
    let elf = tern_vmm::boot::unpack(&packed).context("cannot unpack the kernel")?;
    fs::write(&unpacked, elf).context("cannot write the unpacked kernel")?;
    Ok(unpacked)
}

/// One round: what each contender gave.
fn take(contenders: &[Contender], parts: &[Part], round: usize) -> Result<Vec<Sample>> {
    let mut all = vec![Sample::default(); contenders.len()];
    for Part { files, workloads } in parts {
        let samples = session::run(contenders, files, workloads, round, tell)?;
        for ((contender, all), sample) in contenders.iter().zip(&mut all).zip(samples) {
            if let Err(error) = sample.clock.map_or(Ok(()), session::trust) {
                eprintln!("bench: {}: {error}", contender.name);
            }
            all.outcomes.extend(sample.outcomes);
            // The first part's guest is the one whose speed is promised.
            all.mips = all.mips.or(sample.mips);
        }
    }
    Ok(all)
}

/// The workloads that have one of these names or groups; all if there are none.
///
/// # Errors
/// If a name is neither.
fn chosen(mut workloads: Vec<Workload>, names: &[String]) -> Result<Vec<Workload>> {
    let means = |name: &str, workload: &Workload| name == workload.name || name == workload.group.name();
    for name in names {
        let known = workloads.iter().any(|workload| means(name, workload));
        ensure!(known, "there is no row and no group of rows with the name '{name}'");
    }
    workloads.retain(|workload| names.is_empty() || names.iter().any(|name| means(name, workload)));
    Ok(workloads)
}

/// Says how a workload went, as soon as it is known.
pub(crate) fn tell(contender: &Contender, workload: &Workload, outcome: &Outcome) {
    let (contender, Workload { name, unit, .. }) = (contender.name, workload);
    match outcome {
        Outcome::Value(value) => eprintln!("bench:   {name}: {contender} {value:.3} {unit}"),
        Outcome::Failed(reason) => eprintln!("bench:   {name}: {contender} failed: {reason}"),
        Outcome::Absent => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(chosen: &[&str]) -> Result<Vec<String>> {
        let names: Vec<_> = chosen.iter().map(ToString::to_string).collect();
        let workloads = self::chosen([workload::boot(), workload::shell()].concat(), &names)?;
        Ok(workloads.into_iter().map(|workload| workload.name).collect())
    }

    #[test]
    fn rows_are_chosen_by_name_or_group() {
        assert_eq!(names(&["boot"]).unwrap(), ["boot to init", "boot to prompt"]);
        assert_eq!(names(&["boot to init", "sort, 20,000 lines"]).unwrap().len(), 2);
        assert_eq!(names(&[]).unwrap().len(), 12);
        assert!(names(&["boot", "sport"]).is_err());
    }
}
