//! Installing what a command needs and does not find: Debian packages (apt-get(8), dpkg-query(1)),
//! parts of the Rust toolchain, and programs from crates.io. What is there costs nothing.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::step;

/// What `tern` calls when it makes whole systems, or fetches them.
pub(crate) const FOR_SYSTEMS: [&str; 3] = ["mmdebstrap", "e2fsprogs", "curl"];

/// Makes sure that these Debian packages are installed.
///
/// # Errors
/// If they are not and cannot be: then the message names what to do by hand.
pub(crate) fn packages(names: &[&str]) -> Result<()> {
    let missing = missing(names)?;
    if missing.is_empty() {
        return Ok(());
    }
    step::announce(&format!("installing {} with apt-get", missing.join(" ")));
    let arguments = ["install", "-qq", "--yes", "--no-install-recommends"];
    let arguments = [&arguments[..], &missing].concat();
    // The lists may be missing, or name versions that the mirror no longer has.
    apt_get(&arguments)
        .or_else(|_| apt_get(&["update", "-qq"]).and_then(|()| apt_get(&arguments)))
        .with_context(|| {
            let names = missing.join(" ");
            format!("cannot install packages; do it as root: apt-get update && apt-get install {names}")
        })
}

fn missing<'a>(names: &[&'a str]) -> Result<Vec<&'a str>> {
    let output = Command::new("dpkg-query")
        .args(["--show", "--showformat=${Package} ${db:Status-Status}\n"])
        .args(names)
        .output();
    let output = match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!(
                "this is not a Debian system; install the equivalents of these packages: {}",
                names.join(" ")
            )
        }
        output => output.context("cannot ask dpkg-query what is installed")?,
    };
    Ok(not_installed(names, &String::from_utf8_lossy(&output.stdout)))
}

/// The names for which `status` has no line `NAME installed`.
fn not_installed<'a>(names: &[&'a str], status: &str) -> Vec<&'a str> {
    let installed = |name: &str| status.lines().any(|line| line.strip_prefix(name) == Some(" installed"));
    names.iter().copied().filter(|name| !installed(name)).collect()
}

/// Whether root runs this.
///
/// # Errors
/// There is no /proc.
pub(crate) fn is_root() -> Result<bool> {
    Ok(fs::metadata("/proc/self").context("cannot find out who runs this")?.uid() == 0)
}

/// Runs apt-get as root. What it prints is part of the error if it fails, and otherwise not told.
fn apt_get(arguments: &[&str]) -> Result<()> {
    let root = is_root()?;
    // sudo does not hand on the environment.
    let words = ["sudo", "env", "DEBIAN_FRONTEND=noninteractive", "apt-get"];
    let words = &words[usize::from(root)..];
    let output = Command::new(words[0])
        .args(&words[1..])
        .args(arguments)
        .stdin(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", words[0]))?;
    if !output.status.success() {
        bail!("apt-get says: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Makes sure that the toolchain has the parts that a minimal installation leaves out.
///
/// # Errors
/// If one is missing and rustup cannot add it.
pub(crate) fn rust_components() -> Result<()> {
    for (component, subcommand) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if works(step::cargo(subcommand).arg("--version")) {
            continue;
        }
        step::announce(&format!("installing {component} with rustup"));
        step::run(Command::new("rustup").args(["component", "add", component]))?;
    }
    Ok(())
}

/// Makes sure that `cargo fuzz` exists.
///
/// # Errors
/// If it does not and cannot be built.
pub(crate) fn cargo_fuzz() -> Result<()> {
    if works(Command::new("cargo-fuzz").args(["fuzz", "--version"])) {
        return Ok(());
    }
    step::announce("installing cargo-fuzz from crates.io, with cargo");
    step::run(step::cargo_build("install").args(["cargo-fuzz", "--locked"]))
}

fn works(command: &mut Command) -> bool {
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_was_removed_or_never_known_is_missing() {
        let status = "gcc installed\nqemu-system-x86 config-files\n";
        let names = ["gcc", "qemu-system-x86", "g++"];
        assert_eq!(not_installed(&names, status), ["qemu-system-x86", "g++"]);
    }

    #[test]
    fn a_package_is_not_taken_for_another_with_a_longer_name() {
        assert_eq!(not_installed(&["gcc"], "gcc-12 installed\n"), ["gcc"]);
    }
}
