//! `cargo xtask run`: from a clone to a guest.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{install, step};

/// Builds `tern` and becomes `tern run`, whose terminal and exit code then are this command's.
///
/// # Errors
/// If it cannot be built or started.
pub(crate) fn run(arguments: &[OsString]) -> Result<()> {
    if arguments.iter().any(|word| word.as_encoded_bytes().starts_with(b"debian")) {
        install::packages(&install::FOR_SYSTEMS)?;
    }
    let tern = step::build_tern()?;
    step::announce("starting `tern run`");
    let error = Command::new(&tern).arg("run").args(arguments).exec();
    Err(error).with_context(|| format!("cannot start '{}'", tern.display()))
}
