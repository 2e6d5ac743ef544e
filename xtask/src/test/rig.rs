//! The tests that need KVM, in rigs: each is started once and runs its test programs one after the other, and its output
//! reads like `cargo test`'s.
//!
//! There are two, side by side, of one processor each. QEMU 7.2 sets and clears what a processor is asked for without a lock,
//! so that processors of one emulated computer that interrupt each other while they enter and leave guests lose requests, and
//! in the end themselves: one boot in some ten ends with a triple fault or a panic. A lone one keeps in step.

mod left_out;

use std::collections::HashMap;
use std::env;
use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context, Result};

use self::left_out::LeftOut;
use super::{Extent, GUESTS};
use crate::{install, step};

/// A test program and how it is run there.
struct Program {
    /// What cargo names it after.
    name: &'static str,
    /// Its arguments.
    arguments: &'static str,
    /// Tests of it that cannot hold there, or take too long: see `rig/left_out.rs`.
    left_out: &'static str,
}

/// One rig.
struct Rig {
    /// Its memory, in MiB.
    memory: &'static str,
    /// What it brings along beside Debian's kernels for who can wait.
    further: &'static [&'static str],
    programs: &'static [Program],
}

/// What runs in which rig, so that both take about as long. To add a test program, add a line.
const RIGS: [Rig; 2] = [
    Rig {
        memory: "2048",
        further: &[],
        programs: &[
            // The engine's own tests that need a /dev/kvm.
            Program { name: "tern_kvm", arguments: "--ignored", left_out: "" },
            // What machines rely on from an engine.
            Program { name: "boundary", arguments: "", left_out: "" },
            // Machines that go from engine to engine.
            Program { name: "transfer", arguments: "", left_out: "" },
            // The small kernels, as on `soft`.
            Program { name: "suite", arguments: "", left_out: include_str!("rig/suite.txt") },
        ],
    },
    Rig {
        // The largest guest has 4 GiB, and takes a tenth of it.
        memory: "4096",
        further: &["--system"],
        // Of the real guests those that show what an engine does: each kernel, several processors, each device, each way to
        // end, what the host is found to have.
        programs: &[Program { name: "guests", arguments: "", left_out: include_str!("rig/guests.txt") }],
    },
];

/// Programs of this computer that the tests call and that busybox does not have, or not as they need it, and where they call them.
const TOOLS: [&str; 4] = [
    "/usr/bin/setsid=setsid",
    "/usr/sbin/mke2fs=/usr/sbin/mke2fs",
    "/usr/sbin/e2fsck=/usr/sbin/e2fsck",
    "/usr/sbin/debugfs=/usr/sbin/debugfs",
];

/// How many pages of 2 MiB are reserved there for guests that ask for some: a little more than one of 128 MiB takes.
const HUGE_PAGES: u32 = 72;

impl Extent {
    /// Within how many seconds each rig must have run: three times what it takes.
    const fn timeout(self) -> &'static str {
        match self {
            Self::Short => "900",
            Self::All => "7200",
        }
    }
}

/// The commands that run them, at the same time. Cargo has built the workspace's tests with the given arguments.
///
/// # Errors
/// If something cannot be installed or built.
pub(super) fn tests(workspace: &[&str], extent: Extent) -> Result<Vec<Command>> {
    install::packages(&["qemu-system-x86", "e2fsprogs"])?;
    step::build_tern()?;
    step::run(step::cargo_build("build").args(["--release", "--package", "xtask", "--features", "rig"]))?;
    let mut built = executables(workspace)?;
    built.extend(executables(&["--package", GUESTS])?);
    RIGS.iter().map(|rig| command(rig, &built, extent)).collect()
}

/// The command of one rig, with the programs that were built.
fn command(rig: &Rig, built: &HashMap<String, String>, extent: Extent) -> Result<Command> {
    let this = env::current_exe().context("cannot find out where this program is")?;
    let mut command = Command::new(this.with_file_name("tern-rig"));
    command.args(["kvm", "--memory", rig.memory, "--timeout", extent.timeout(), "--kernels"]);
    if extent == Extent::All {
        command.args(rig.further);
    }
    let mut script = "export TERN=/bin/tern TERN_ENGINE=kvm; cd /tmp; failed=0".to_owned();
    write!(script, "; echo {HUGE_PAGES} >/proc/sys/vm/nr_hugepages").expect("a string takes everything");
    for Program { name, arguments, left_out } in rig.programs {
        let path =
            built.get(*name).with_context(|| format!("cargo has not built the test program '{name}'"))?;
        command.arg("--put").arg(format!("{path}={name}"));
        let left_out = LeftOut::parse(left_out)
            .and_then(|list| list.check(&tests_of(path)?).map(|()| list))
            .with_context(|| format!("xtask/src/test/rig/{name}.txt is wrong"))?;
        let left_out = if extent == Extent::All { left_out.patient() } else { left_out };
        // As cargo announces it, so that whoever counts tests need not know of the rig.
        let heading = |what| format!("     Running {what} (rig/{name}-0)");
        write!(script, "; echo '{}'", heading("on kvm")).expect("a string takes everything");
        write!(script, "; {name} {arguments}{} || failed=1", left_out.arguments())
            .expect("a string takes everything");
        if let Some(section) = left_out.section() {
            write!(script, "; echo '{}\n{section}'", heading("left out on kvm"))
                .expect("a string takes everything");
        }
    }
    for tool in TOOLS {
        command.args(["--put", tool]);
    }
    command.args(["--", &script, "; exit $failed"]);
    Ok(command)
}

/// The names of a program's tests, as it lists them.
fn tests_of(path: &str) -> Result<String> {
    let mut command = Command::new(path);
    let output = command.args(["--list", "--format", "terse"]).output();
    let output = output.with_context(|| format!("cannot start `{}`", step::line(&command)))?;
    anyhow::ensure!(output.status.success(), "`{}` failed", step::line(&command));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The test programs that cargo builds with these arguments, by name.
fn executables(arguments: &[&str]) -> Result<HashMap<String, String>> {
    let mut command = step::cargo("test");
    let output = command.args(arguments).args(["--no-run", "--color", "never"]).output();
    let output = output.with_context(|| format!("cannot start `{}`", step::line(&command)))?;
    let text = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "`{}` failed:\n{text}", step::line(&command));
    Ok(text.lines().filter_map(executable).collect())
}

/// Name and path in a line like `  Executable tests/suite/main.rs (target/debug/deps/suite-0123456789abcdef)`.
fn executable(line: &str) -> Option<(String, String)> {
    let (_, path) = line.trim_start().strip_prefix("Executable ")?.strip_suffix(')')?.rsplit_once(" (")?;
    let (name, _hash) = path.rsplit('/').next()?.rsplit_once('-')?;
    // Cargo shortens paths in the workspace.
    let path = step::root().join(path);
    Some((name.to_owned(), path.to_string_lossy().into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_program_is_known_by_its_name() {
        let line = "  Executable unittests src/lib.rs (/target/debug/deps/tern_kvm-0123456789abcdef)";
        let expected = ("tern_kvm".to_owned(), "/target/debug/deps/tern_kvm-0123456789abcdef".to_owned());
        assert_eq!(executable(line), Some(expected));
        assert_eq!(executable("    Finished `test` profile in 0.1s"), None);
    }
}
