//! `cargo xtask fuzz`: libFuzzer through cargo-fuzz, without a sanitizer, so that stable Rust will do.
//!
//! New inputs go into the build directory. One that found something is minimised and added to
//! `fuzz/corpus/<target>` by hand: those are replayed by the ordinary tests.

use std::env;
use std::ffi::OsString;
use std::fs;

use anyhow::{Context, Result};

use crate::{install, step};

/// Runs a target, or lists them all.
///
/// # Errors
/// If a tool is missing and cannot be installed, or the target finds something.
pub(crate) fn fuzz(target: Option<&str>, arguments: &[OsString]) -> Result<()> {
    // libFuzzer itself is C++.
    install::packages(&["g++"])?;
    install::cargo_fuzz()?;
    let Some(target) = target else {
        return step::run(step::cargo("fuzz").arg("list"));
    };
    let this = env::current_exe().context("cannot find out where this program is")?;
    let found = this.with_file_name("fuzz-corpus").join(target);
    fs::create_dir_all(&found).with_context(|| format!("cannot create '{}'", found.display()))?;
    step::announce(&format!("fuzzing {target}; new inputs go to {}", found.display()));
    let mut command = step::cargo("fuzz");
    command.args(["run", "--sanitizer", "none", target]).arg(found);
    let known = step::root().join("fuzz/corpus").join(target);
    if known.is_dir() {
        command.arg(known);
    }
    step::run(command.arg("--").args(arguments))
}
