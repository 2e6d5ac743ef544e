//! `cargo xtask test`: everything that can be checked, and one line at the end that counts it.
//!
//! ```text
//! lint ──► cargo test --workspace ──► real guests (the package in tests/guests)
//!                                     in the release `tern`
//! ```
//!
//! A check that is not a test (a lint, a build) counts as one failed test if it fails, so the last
//! line says `0 failed` exactly if the exit code is 0.

mod report;

use std::io::{self, BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result};

use self::report::{Report, Section, Tally};
use crate::{install, lint, step};

/// The package whose tests run real guests.
const GUESTS: &str = "tern-guests";

/// Names the `tern` that the guests' tests start.
const TERN: &str = "TERN";

/// Checks everything, or all but the real guests, and prints the count.
pub(crate) fn test(quick: bool) -> ExitCode {
    let mut tally = Tally::default();
    let with_guests = step::root().join("tests/guests/Cargo.toml").is_file();
    tally += counted(install::rust_components().map(|()| Tally::default()));
    for (name, mut check) in lint::checks() {
        step::announce(name);
        tally += counted(step::run(&mut check).map(|()| Tally::default()));
    }
    tally += counted(workspace_tests(with_guests));
    if with_guests && !quick {
        tally += counted(guest_tests());
    }
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
fn workspace_tests(with_guests: bool) -> Result<Tally> {
    let tests = |mut command: Command| {
        command.args(["--workspace", "--all-features"]);
        if with_guests {
            command.args(["--exclude", GUESTS]);
        }
        command
    };
    step::announce("building the tests");
    step::run(tests(step::cargo_build("test")).arg("--no-run"))?;
    step::announce("running the tests");
    run_tests(&mut tests(step::cargo("test")), Shown::Sections)
}

/// Real guests in the release build. They see to it themselves that no more of them run at a time than the
/// host has processors for.
fn guest_tests() -> Result<Tally> {
    let tern = step::build_tern()?;
    step::announce("running real guests");
    run_tests(step::cargo("test").args(["--package", GUESTS]).env(TERN, tern), Shown::Tests)
}

/// What is told while tests run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// A line for each test program.
    Sections,
    /// Also a line for each test: these take seconds each.
    Tests,
}

/// Runs `cargo test` and counts; what failed is told in full.
fn run_tests(command: &mut Command, shown: Shown) -> Result<Tally> {
    command.args(["--no-fail-fast", "--color", "never"]);
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
