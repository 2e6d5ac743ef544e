//! `cargo xtask test`: everything that can be checked, and one line at the end that counts it.
//!
//! ```text
//! lint ──► cargo test --workspace ──► real guests (the package in tests/guests) ──► in the rig, on KVM:
//!                                     in the release `tern`                         small kernels, real guests
//! ```
//!
//! A check that is not a test (a lint, a build) counts as one failed test if it fails, so the last
//! line says `0 failed` exactly if the exit code is 0.

mod report;
mod rig;

use std::io::{self, BufRead, BufReader};
use std::panic::resume_unwind;
use std::process::{Command, ExitCode, Stdio};
use std::thread;

use anyhow::{Context, Result};

use self::report::{Report, Section, Tally};
use crate::{install, lint, step};

/// The package whose tests run real guests.
const GUESTS: &str = "tern-guests";

/// The packages of whose tests none takes long.
const WORKSPACE: [&str; 4] = ["--workspace", "--all-features", "--exclude", GUESTS];

/// One failure does not keep the other tests from running, and what is read here has no colours.
const ALL_AND_PLAIN: [&str; 3] = ["--no-fail-fast", "--color", "never"];

/// The ways to treat hot code: as it is meant, always interpreted, and in lockstep.
pub(crate) const TRANSLATIONS: [&str; 3] = ["on", "off", "verify"];

/// As [`TRANSLATIONS`], for code that runs too seldom to become hot: it is from its first execution on.
const EAGER: &str = "eager";

/// Names one of them for the tests.
const TRANSLATION: &str = "TERN_TRANSLATION";

/// Names the `tern` that the guests' tests start.
const TERN: &str = "TERN";

/// How much is run of a part of the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// What a developer can wait for: of what runs on KVM, under five minutes on two processors that have nothing else to do.
    Short,
    /// Everything that can be run there at all.
    All,
}

/// Checks everything, or all but the real guests, and prints the count.
pub(crate) fn test(quick: bool) -> ExitCode {
    let mut tally = Tally::default();
    tally += counted(install::rust_components().map(|()| Tally::default()));
    for (name, mut check) in lint::checks() {
        step::announce(name);
        tally += counted(step::run(&mut check).map(|()| Tally::default()));
    }
    tally += counted(workspace_tests());
    for how in &TRANSLATIONS[1..] {
        tally += counted(small_machines(how, Extent::Short));
    }
    tally += counted(small_machines(EAGER, Extent::All));
    if !quick {
        tally += counted(guest_tests(TRANSLATIONS[0], Extent::Short));
        tally += counted(rig_tests(Extent::Short));
    }
    summed_up(tally)
}

/// Runs what runs on KVM, and prints the count.
pub(crate) fn on_kvm(extent: Extent) -> ExitCode {
    summed_up(counted(rig_tests(extent)))
}

/// Runs what runs on `soft` with hot code treated in one way, and prints the count.
pub(crate) fn by_translation(how: &str, extent: Extent) -> ExitCode {
    let mut tally = counted(small_machines(how, Extent::All));
    tally += counted(guest_tests(how, extent));
    summed_up(tally)
}

/// Prints the last line, and says by the exit code what it says.
fn summed_up(tally: Tally) -> ExitCode {
    println!("{tally}");
    if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What a check contributes to the count; if it could not be made, one failure, told here.
fn counted(checked: Result<Tally>) -> Tally {
    checked.unwrap_or_else(|error| {
        step::report(&error);
        Tally { failed: 1, ..Tally::default() }
    })
}

/// Unit, integration and documentation tests of every package but the guests'.
fn workspace_tests() -> Result<Tally> {
    // Disk images are compared with what QEMU makes of them.
    install::packages(&["qemu-utils"])?;
    step::announce("building the tests");
    step::run(step::cargo_build("test").args(WORKSPACE).arg("--no-run"))?;
    step::announce("running the tests");
    run_tests(step::cargo("test").args(WORKSPACE).args(ALL_AND_PLAIN), Shown::Sections)
}

/// What has its machines in the tests' own process, with hot code treated so: small kernels and single instructions; what goes from
/// engine to engine takes longer.
fn small_machines(how: &str, extent: Extent) -> Result<Tally> {
    step::announce(&format!("running small machines with translation '{how}'"));
    let mut packages = vec!["tern-test-kernels", "tern-test-boundary"];
    // Single instructions are always translated, if any code is.
    packages.extend((how != EAGER).then_some("tern-differential"));
    packages.extend((extent == Extent::All).then_some("tern-test-transfer"));
    let mut tests = step::cargo("test");
    tests.args(packages.iter().flat_map(|package| ["--package", package]));
    run_tests(tests.args(ALL_AND_PLAIN).env(TRANSLATION, how), Shown::Sections)
}

/// Real guests in the release build, with hot code treated so. They see to it themselves that no more of them run at a time than the
/// host has processors for.
fn guest_tests(how: &str, extent: Extent) -> Result<Tally> {
    // Whole systems are made, and the file systems on their disks checked.
    install::packages(&install::FOR_SYSTEMS)?;
    let tern = step::build_tern()?;
    step::announce("running real guests");
    let mut tests = step::cargo("test");
    tests.args(["--package", GUESTS]).args(ALL_AND_PLAIN).env(TERN, tern).env(TRANSLATION, how);
    if extent == Extent::All {
        tests.args(["--", "--include-ignored"]);
    }
    run_tests(&mut tests, Shown::Tests)
}

/// What runs on KVM, on computers that have it.
fn rig_tests(extent: Extent) -> Result<Tally> {
    let tests = rig::tests(&WORKSPACE, extent)?;
    step::announce("running small kernels and real guests on KVM, on emulated computers (a few minutes)");
    thread::scope(|scope| {
        let run = |mut tests| scope.spawn(move || counted(run_tests(&mut tests, Shown::Sections)));
        let running: Vec<_> = tests.into_iter().map(run).collect();
        let mut sum = Tally::default();
        for thread in running {
            sum += thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
        Ok(sum)
    })
}

/// What is told while tests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// A line for each test program.
    Sections,
    /// Also a line for each test: these take seconds each.
    Tests,
}

/// Runs `cargo test`, or what writes as it does, and counts; what failed is told in full.
fn run_tests(command: &mut Command, shown: Shown) -> Result<Tally> {
    let line = step::line(command);
    // One pipe for both, so that cargo's headings stay with the output they belong to.
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    let errors = writer.try_clone().context("cannot make a pipe")?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(errors)
        .spawn()
        .with_context(|| format!("cannot start `{line}`"))?;
    // The command holds the pipe's other end, and would keep it open.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut report = Report::default();
    for text in BufReader::new(reader).split(b'\n') {
        let text = text.context("cannot read the output of the tests")?;
        let text = String::from_utf8_lossy(&text);
        if shown == Shown::Tests && report::is_test(&text) {
            eprintln!("  {text}");
        }
        if let Some(section) = report.read(&text) {
            tell(&section);
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for `{line}`"))?;
    let (tally, rest) = report.finish(status.success());
    for section in &rest {
        tell(section);
    }
    Ok(tally)
}

fn tell(section: &Section) {
    if section.failed() {
        eprintln!("  {} FAILED:\n{}", section.title, section.failures());
    } else if section.tally != Tally::default() {
        eprintln!("  {}: {}", section.title, section.tally);
    }
}
