//! `cargo xtask bench`: gets everything ready for the measuring program, which is `bench/` in this
//! folder, and starts it.

use std::ffi::OsString;

use anyhow::Result;

use crate::{install, step};

/// How the programs that measure are built.
const PROGRAMS: [&str; 5] = ["--release", "--package", "xtask", "--features", "bench,rig"];

/// Installs the peer, builds `tern` and the program that measures both, and runs it.
///
/// # Errors
/// If any of that fails, or a promise is not kept.
pub(crate) fn bench(arguments: &[OsString]) -> Result<()> {
    // Without a suite, the first one.
    let names_suite = arguments.first().is_some_and(|first| !first.to_string_lossy().starts_with('-'));
    let asks_for_help = arguments.iter().any(|argument| argument == "--help" || argument == "-h");
    if !asks_for_help {
        install::packages(&["qemu-system-x86"])?;
        step::build_tern()?;
        // Some suites run in the rig.
        step::run(step::cargo_build("build").args(PROGRAMS).args(["--bin", "tern-rig"]))?;
    }
    let mut command = step::cargo_build("run");
    command.args(PROGRAMS).args(["--bin", "tern-bench", "--"]);
    if !names_suite && !asks_for_help {
        command.arg("soft");
    }
    step::run(command.args(arguments))
}
