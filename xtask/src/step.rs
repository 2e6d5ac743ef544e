//! Calling tools: what every command of this program does.

use std::env;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Says in one line what begins.
pub(crate) fn announce(what: &str) {
    eprintln!("xtask: {what}");
}

/// Tells an error and its causes.
pub(crate) fn report(error: &anyhow::Error) {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
}

/// Where the workspace is.
pub(crate) fn root() -> &'static Path {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().expect("this package is in a folder of the workspace")
}

/// A `cargo` subcommand in the workspace.
pub(crate) fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).arg(subcommand);
    command
}

/// As [`cargo`], for a subcommand that builds: it shows its progress to people, and to logs only what is wrong.
pub(crate) fn cargo_build(subcommand: &str) -> Command {
    let mut command = cargo(subcommand);
    if !io::stderr().is_terminal() {
        command.arg("--quiet");
    }
    command
}

/// How `tern` is linked: with the C library inside. Shared libraries are mapped in whole neighbourhoods of what is used of
/// them, and cost each machine a mebibyte, and its start the work of the dynamic linker.
const STATIC: [&str; 2] = ["--", "-Ctarget-feature=+crt-static"];

/// Builds the release `tern`, which lies beside this program, and returns its path.
pub(crate) fn build_tern() -> Result<PathBuf> {
    announce("building tern");
    run(cargo_build("rustc").args(["--release", "--package", "tern", "--bin", "tern"]).args(STATIC))?;
    let this = env::current_exe().context("cannot find out where this program is")?;
    Ok(this.with_file_name("tern"))
}

/// Runs a tool that writes to this program's own output, to its end.
///
/// # Errors
/// If it cannot be started, or fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({status})");
    }
    Ok(())
}

/// A command as it would be typed.
pub(crate) fn line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(command.get_program());
    let words: Vec<_> =
        std::iter::once(name).chain(command.get_args()).map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_tool_is_named_with_its_arguments() {
        let error = run(Command::new("/bin/sh").args(["-c", "exit 3"])).unwrap_err().to_string();
        assert!(error.contains("`sh -c exit 3`") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_tool_that_is_not_there_is_named() {
        let error = run(&mut Command::new("/nowhere/tool")).unwrap_err().to_string();
        assert_eq!(error, "cannot start `tool`");
    }

    #[test]
    fn the_root_holds_the_workspace() {
        assert!(root().join("Cargo.lock").is_file());
    }
}
