//! `cargo xtask rig`: gets everything ready for the program that runs commands on another kind of computer, which is
//! `rig/` in this folder, and becomes it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;

use anyhow::{Context, Result};

use crate::{install, step};

/// Installs the emulator, builds `tern` and the rig, and starts it; its terminal and exit code then are this command's.
///
/// # Errors
/// If any of that fails.
pub(crate) fn rig(arguments: &[OsString]) -> Result<()> {
    if !arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        install::packages(&["qemu-system-x86"])?;
        step::build_tern()?;
    }
    let mut command = step::cargo_build("run");
    command.args(["--release", "--package", "xtask", "--features", "rig", "--bin", "tern-rig", "--"]);
    let error = command.args(arguments).exec();
    Err(error).with_context(|| format!("cannot start `{}`", step::line(&command)))
}
