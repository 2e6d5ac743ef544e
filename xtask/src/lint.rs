//! `cargo xtask lint`: what can be said about the source without running it.

use std::process::Command;

use anyhow::Result;

use crate::{install, step};

/// Runs every check, up to the first that fails.
///
/// # Errors
/// If a check fails; it has told why.
pub(crate) fn lint() -> Result<()> {
    install::rust_components()?;
    for (name, mut check) in checks() {
        step::announce(name);
        step::run(&mut check)?;
    }
    Ok(())
}

/// The checks, quickest first.
pub(super) fn checks() -> Vec<(&'static str, Command)> {
    let formatting = |manifest: &str| {
        let mut command = step::cargo("fmt");
        command.args(["--all", "--check", "--manifest-path", manifest, "--", "--color", "never"]);
        command
    };
    let mut clippy = step::cargo_build("clippy");
    clippy.args(["--workspace", "--all-targets", "--all-features", "--", "--deny", "warnings"]);
    let mut documentation = step::cargo_build("doc");
    documentation
        .args(["--workspace", "--no-deps", "--document-private-items"])
        .env("RUSTDOCFLAGS", "--deny warnings");
    vec![
        ("checking the formatting", formatting("Cargo.toml")),
        ("checking the formatting of the fuzz targets", formatting("fuzz/Cargo.toml")),
        ("checking clippy's lints", clippy),
        ("checking the documentation", documentation),
    ]
}
