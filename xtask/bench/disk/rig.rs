//! The same measurement in the rig, which has KVM to give: this program starts itself there.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use super::image::Caching;
use super::{Options, tiny};
use crate::Form;

/// What QEMU reads to start a q35 machine with a kernel.
const FIRMWARE: [&str; 4] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/kvmvapic.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/pvh.bin",
];

/// How much memory the rig has, in MiB: all files, a Debian's disk among them, the guest, and QEMU.
const MEMORY: &str = "8192";

/// How many processors the rig has: enough for what programs do beside their guest.
const CPUS: &str = "2";

/// Starts the rig, with everything in it, and measures there.
///
/// # Errors
/// If something cannot be brought along, or the rig cannot be started.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    let directory = tempfile::tempdir().context("cannot make a temporary folder")?;
    let files = tiny(options, directory.path())?;
    let cmdline = directory.path().join("cmdline");
    fs::write(&cmdline, &files.image.cmdline).context("cannot write the kernel command line")?;
    let initrd = files.image.initrd.as_deref().context("the tiny guest has no initramfs")?;
    let this = env::current_exe().context("cannot find out where this program is")?;

    let mut command = Command::new(this.with_file_name("tern-rig"));
    command.args(["kvm", "--cpus", CPUS, "--memory", MEMORY, "--timeout", "1800"]);
    command.arg("--put").arg(&this).arg("--put").arg("/usr/bin/qemu-system-x86_64");
    command.arg("--put").arg(&files.program);
    for file in FIRMWARE {
        command.arg("--file").arg(file);
    }
    if !options.no_debian {
        command.arg("--system");
    }
    let guest: [&Path; 4] = [&files.image.kernel, &files.unpacked, initrd, &cmdline];
    let places = ["kernel", "vmlinux", "initrd", "cmdline"].map(|name| format!("/bench/{name}"));
    for (file, place) in guest.into_iter().zip(&places) {
        command.arg("--file").arg(format!("{}={place}", file.display()));
    }
    let output = match options.output {
        Form::Text => "text",
        Form::Json => "json",
    };
    // Files in memory have no cache to go around.
    let cache = options.cache.unwrap_or(Caching::Writeback).name();
    let rounds = options.rounds.to_string();
    command.args(["--", "tern-bench", "disk", "--kvm", "--here", "--rounds", &rounds]);
    command.args(["--output", output, "--cache", cache]);
    if options.no_debian {
        command.arg("--no-debian");
    }
    command.arg("--guest").args(places);
    let status = command.status().context("cannot start the rig")?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}
