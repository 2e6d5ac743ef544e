//! `cargo xtask bench`: gets everything ready for the measuring program, which is `bench/` in this
//! folder, and starts it.

use std::ffi::OsString;

use anyhow::Result;

use crate::{install, step};

/// How the programs that measure are built.
const PROGRAMS: [&str; 5] = ["--release", "--package", "xtask", "--features", "bench,rig"];

/// How the program that runs in the guests and here is built: guests have no libraries for it. The flags reach this one
/// program and none of its parts, so that everything else stays as it was built.
const WORKLOAD: [&str; 10] = [
    "--release",
    "--package",
    "tern-workload",
    "--bin",
    "tern-workload",
    "--",
    "-Ctarget-feature=+crt-static",
    "-Crelocation-model=static",
    "-Cstrip=symbols",
    "-Cdebuginfo=0",
];

/// Installs the peer and the real programs that are measured, builds `tern`, what runs in it and the program that measures, and runs that.
///
/// # Errors
/// If any of that fails, or a promise is not kept.
pub(crate) fn bench(arguments: &[OsString]) -> Result<()> {
    // Without a suite, the first one.
    let names_suite = arguments.first().is_some_and(|first| !first.to_string_lossy().starts_with('-'));
    let asks_for_help = arguments.iter().any(|argument| argument == "--help" || argument == "-h");
    if !asks_for_help {
        install::packages(&["qemu-system-x86", "gcc", "python3-minimal"])?;
        let is_disk = arguments.first().is_some_and(|suite| suite == "disk");
        let has_debian = arguments.iter().any(|argument| argument == "--debian");
        if has_debian || is_disk && !arguments.iter().any(|argument| argument == "--no-debian") {
            install::packages(&["mmdebstrap", "cpio", "debian-archive-keyring"])?;
        }
        step::build_tern()?;
        step::run(step::cargo_build("rustc").args(WORKLOAD))?;
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
