//! The tests that need KVM, in the rig: it is started once, runs each test program, and its output reads like
//! `cargo test`'s.

use std::collections::HashMap;
use std::env;
use std::fmt::Write as _;
use std::process::Command;

use anyhow::{Context, Result};

use super::GUESTS;
use crate::{install, step};

/// A test program and how it is run there.
struct Program {
    /// What cargo names it after.
    name: &'static str,
    /// Its arguments.
    arguments: &'static str,
}

/// What runs in the rig. To add a test program, add a line.
const PROGRAMS: [Program; 2] = [
    // The engine's own tests that need a /dev/kvm.
    Program { name: "tern_kvm", arguments: "--ignored" },
    // What machines rely on from an engine.
    Program { name: "boundary", arguments: "" },
    // To come, as soon as what they expect of a processor is told apart by host: the same small kernels (`suite`) and real
    // guests (`guests`) as on `soft`.
];

/// Programs of this computer that the tests call and that busybox does not have, or not as they need it.
const TOOLS: [&str; 1] = ["/usr/bin/setsid"];

/// Memory of the rig in MiB: the largest guest has 4 GiB, and takes a tenth of it.
const MEMORY: &str = "4096";

/// Within how many seconds all must have run.
const TIMEOUT: &str = "900";

/// The command that runs them all. Cargo has built the workspace's tests with the given arguments.
///
/// # Errors
/// If something cannot be installed or built.
pub(super) fn tests(workspace: &[&str]) -> Result<Command> {
    install::packages(&["qemu-system-x86"])?;
    step::build_tern()?;
    step::run(step::cargo_build("build").args(["--release", "--package", "xtask", "--features", "rig"]))?;
    let mut built = executables(workspace)?;
    built.extend(executables(&["--package", GUESTS])?);
    let this = env::current_exe().context("cannot find out where this program is")?;
    let mut command = Command::new(this.with_file_name("tern-rig"));
    command.args(["kvm", "--memory", MEMORY, "--timeout", TIMEOUT, "--kernels"]);
    let mut script = "export TERN=/bin/tern TERN_ENGINE=kvm; cd /tmp; failed=0".to_owned();
    for Program { name, arguments } in &PROGRAMS {
        let path =
            built.get(*name).with_context(|| format!("cargo has not built the test program '{name}'"))?;
        command.arg("--put").arg(format!("{path}={name}"));
        // As cargo announces it.
        write!(script, "; echo '     Running on kvm (rig/{name}-0)'; {name} {arguments} || failed=1")
            .expect("a string takes everything");
    }
    for tool in TOOLS {
        command.args(["--put", tool]);
    }
    command.args(["--", &script, "; exit $failed"]);
    Ok(command)
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
