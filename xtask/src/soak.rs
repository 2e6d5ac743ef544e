//! `cargo xtask soak`: machines of four processors that work for hours on `soft`, while everything that they compute is compared
//! with what this computer's processor computes.
//!
//! The jobs are in `tests/soak/disk/`. They run on a Debian of their own, made once, with the compilers, debuggers and JIT
//! engines that they take; before it becomes a disk, this computer runs each of them there, which is the reference. Each machine
//! draws its jobs from a seed, and what came of it is noted in `tests/soak/record.txt`, to be committed.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{install, step};

/// What the jobs take, beside Debian's essential packages.
const PACKAGES: &str =
    "nodejs,openjdk-17-jdk-headless,gdb,gcc,libc6-dev,python3,perl,xz-utils,kmod,coreutils";

/// The release on which they run; guests boot the same one's kernel.
const RELEASE: &str = "bookworm";
const SYSTEM: &str = "debian:12";

/// Processors of a machine, and jobs at the same time.
const PROCESSORS: &str = "4";

/// How much longer than its jobs a machine may take, for its start and the last of them (`PATIENCE` in `tests/soak/disk/load`).
const GRACE: Duration = Duration::from_secs(7200);

/// Runs a job's Debian on this computer.
const CHROOT: &str =
    "mount -t proc proc \"$1/proc\" && mount --rbind /dev \"$1/dev\" && chroot \"$1\" /soak/load reference";

#[derive(Debug, Args)]
pub(crate) struct Soak {
    /// How long each machine works, in minutes
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
    /// How many machines work at the same time
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    machines: u64,
    /// The first machine's seed; the others have the following ones. If this is not given, the clock says
    #[arg(long)]
    seed: Option<u64>,
    /// What else `tern run` is told, such as --translation=verify
    #[arg(last = true, value_name = "ARGUMENTS")]
    arguments: Vec<String>,
}

/// One machine at work.
struct Machine {
    seed: u64,
    process: Child,
    log: PathBuf,
}

/// Starts the machines, waits for them, and notes in the record what came of each.
///
/// # Errors
/// The jobs' Debian cannot be made, or a machine computed something else than this computer, or failed.
pub(crate) fn soak(soak: &Soak) -> Result<()> {
    install::packages(&install::FOR_SYSTEMS)?;
    let tern = step::build_tern()?;
    let folder = step::root().join("target/soak");
    let disk = disk(&folder)?;
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let first = soak.seed.unwrap_or(clock % 1_000_000);
    step::run(Command::new(&tern).args(["run", SYSTEM, "--", "true"]))?;
    step::announce(&format!(
        "{} machines work for {} minutes; their logs are {}",
        soak.machines,
        soak.minutes,
        folder.join("seed-*.log").display()
    ));
    let commit = commit()?;
    let seeds = first..first + soak.machines;
    let machines: Vec<_> =
        seeds.map(|seed| start(&tern, &disk, &folder, seed, soak)).collect::<Result<_>>()?;
    let mut failed = 0;
    for mut machine in machines {
        let status = machine.process.wait().context("cannot wait for a machine")?;
        let jobs = jobs_done(&fs::read_to_string(&machine.log).unwrap_or_default());
        let came = if status.success() { "as the processor".to_owned() } else { format!("FAILED, {status}") };
        failed += u64::from(!status.success());
        let Machine { seed, .. } = machine;
        let arguments = soak.arguments.join(" ");
        let line = format!("{commit} seed {seed}: {} minutes, {jobs} jobs: {came} {arguments}", soak.minutes);
        let line = line.trim_end();
        println!("{line}");
        let record = OpenOptions::new().create(true).append(true).open(soak_folder().join("record.txt"));
        let mut record = record.context("cannot open the record")?;
        writeln!(record, "{line}").context("cannot write the record")?;
    }
    ensure!(failed == 0, "{failed} machines failed: see their logs in {}", folder.display());
    Ok(())
}

fn start(tern: &Path, disk: &Path, folder: &Path, seed: u64, soak: &Soak) -> Result<Machine> {
    let seconds = soak.minutes * 60;
    let script = fs::read_to_string(soak_folder().join("guest")).context("cannot read tests/soak/guest")?;
    let path = folder.join(format!("seed-{seed}.log"));
    let log = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let log_too = log.try_clone().context("cannot share a log")?;
    let disk = format!("{},ro,format=raw", disk.display());
    // In the foreground's group, so that who ends the soak from the keyboard ends the machines.
    let process = Command::new("timeout")
        .arg("--foreground")
        .arg((seconds + GRACE.as_secs()).to_string())
        .arg(tern)
        .args(["run", SYSTEM, "--engine", "soft", "--cpus", PROCESSORS, "--memory", "1536M", "--disk"])
        .arg(disk)
        .args(&soak.arguments)
        .args(["--", "sh", "-c", &script, "guest", &seed.to_string(), &seconds.to_string(), PROCESSORS])
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(log_too)
        .spawn()
        .context("cannot start tern")?;
    Ok(Machine { seed, process, log: path })
}

/// How many jobs a machine's log tells of: a line `worker W: N jobs` from each.
fn jobs_done(log: &str) -> u64 {
    let counts = log.lines().filter_map(|line| line.strip_prefix("worker ")?.strip_suffix(" jobs"));
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// The commit whose code works, with a `+` if that was changed since.
fn commit() -> Result<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(step::root()).output();
        let output = output.context("cannot start git")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "git cannot tell which commit this is: {}", said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short", "HEAD"])?;
    let changes = git(&["status", "--porcelain", "--", ".", ":!tests/soak/record.txt"])?;
    Ok(if changes.is_empty() { commit } else { commit + "+" })
}

fn soak_folder() -> PathBuf {
    step::root().join("tests/soak")
}

/// What becomes `/soak` on the machines' disk.
fn jobs() -> PathBuf {
    soak_folder().join("disk")
}

/// The disk with the jobs' Debian, the jobs and the reference, made if it is older than they are.
fn disk(folder: &Path) -> Result<PathBuf> {
    let disk = folder.join("disk.raw");
    if is_newer_than(&disk, &jobs())? {
        return Ok(disk);
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    ensure!(install::is_root()?, "the jobs' Debian is made by root: run this as root once");
    let root = folder.join("debian");
    if !root.join("soak").exists() {
        step::announce(&format!("making a Debian with {PACKAGES}"));
        step::run(
            Command::new("mmdebstrap")
                .args(["--quiet", "--variant", "minbase", "--include", PACKAGES])
                .args(["--customize-hook=mkdir -p \"$1/lib/modules\"", RELEASE])
                .arg(&root),
        )?;
    }
    let place = root.join("soak");
    step::run(Command::new("rm").arg("-rf").arg(&place))?;
    step::run(Command::new("cp").arg("-r").arg(jobs()).arg(&place))?;
    step::announce("running each job on this computer, for the reference");
    let mut chroot = Command::new("unshare");
    chroot.args(["--mount", "--pid", "--fork", "sh", "-c", CHROOT, "sh"]).arg(&root);
    let output = chroot.stderr(Stdio::inherit()).output().context("cannot start unshare")?;
    ensure!(output.status.success(), "the jobs failed on this computer ({})", output.status);
    fs::write(place.join("reference"), output.stdout).context("cannot write the reference")?;
    step::announce("writing them to a disk");
    let unfinished = folder.join("disk.unfinished");
    let _ = fs::remove_file(&unfinished);
    step::run(Command::new("mke2fs").args(["-q", "-t", "ext4", "-d"]).arg(&root).arg(&unfinished).arg("2G"))?;
    fs::rename(&unfinished, &disk).context("cannot name the disk")?;
    Ok(disk)
}

/// Whether `file` is there, and no older than anything in `folder`.
fn is_newer_than(file: &Path, folder: &Path) -> Result<bool> {
    let Ok(made) = file.metadata().and_then(|about| about.modified()) else { return Ok(false) };
    let unreadable = || format!("cannot read {}", folder.display());
    for entry in fs::read_dir(folder).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let about = entry.metadata().with_context(unreadable)?;
        let is_older = if about.is_dir() {
            is_newer_than(file, &entry.path())?
        } else {
            about.modified().with_context(unreadable)? <= made
        };
        if !is_older {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_jobs_of_all_workers_are_counted() {
        assert_eq!(jobs_done("worker 0: 12 jobs\nDIFFERENT: gdb 3\nworker 1: 3 jobs\nworker of jobs\n"), 15);
    }
}
