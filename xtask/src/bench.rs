//! `cargo xtask bench`: gets everything ready for the measuring program, which is `bench/` in this
//! folder, and starts it.

use std::ffi::OsString;

use anyhow::Result;

use crate::{install, step};

/// Installs the peer, builds `tern` and the program that measures both, and runs it.
///
/// # Errors
/// If any of that fails, or a promise is not kept.
pub(crate) fn bench(arguments: &[OsString]) -> Result<()> {
    if !arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        install::packages(&["qemu-system-x86"])?;
        step::build_tern()?;
    }
    let mut command = step::cargo_build("run");
    command.args(["--release", "--package", "xtask", "--features", "bench", "--bin", "tern-bench", "--"]);
    step::run(command.args(arguments))
}
