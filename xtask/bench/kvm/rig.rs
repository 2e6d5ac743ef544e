//! The same measurement in the rig, which has KVM to give: this program starts itself there.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use super::{Options, guest};
use crate::Form;

/// What QEMU reads to start a microvm machine.
const FIRMWARE: [&str; 4] = ["bios-microvm.bin", "qboot.rom", "linuxboot_dma.bin", "pvh.bin"];

/// Where Debian keeps it.
const SHARE: &str = "/usr/share/qemu";

/// How much memory the rig has, in MiB: its files, the guest, and QEMU.
const MEMORY: &str = "3072";

/// How many processors the rig has: enough for what programs do beside their guest.
const CPUS: &str = "2";

/// Starts the rig, with everything in it, and measures there.
///
/// # Errors
/// If something cannot be brought along, or the rig cannot be started.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let directory = tempfile::tempdir().context("cannot make a temporary folder")?;
    let files = guest(directory.path().join("vmlinux"))?;
    let cmdline = directory.path().join("cmdline");
    fs::write(&cmdline, &files.image.cmdline).context("cannot write the kernel command line")?;
    let initrd = files.image.initrd.as_deref().context("the tiny guest has no initramfs")?;
    let this = env::current_exe().context("cannot find out where this program is")?;

    let mut command = Command::new(this.with_file_name("tern-rig"));
    command.args(["kvm", "--cpus", CPUS, "--memory", MEMORY, "--timeout", "1200"]);
    command.arg("--put").arg(&this).arg("--put").arg("/usr/bin/qemu-system-x86_64");
    for name in FIRMWARE {
        command.arg("--file").arg(Path::new(SHARE).join(name));
    }
    let guest = [&files.image.kernel, &files.unpacked, initrd, &cmdline];
    let places = ["/bench/kernel", "/bench/vmlinux", "/bench/initrd", "/bench/cmdline"];
    for (file, place) in guest.into_iter().zip(places) {
        command.arg("--file").arg(format!("{}={place}", file.display()));
    }
    let output = match options.output {
        Form::Text => "text",
        Form::Json => "json",
    };
    let rounds = options.rounds.to_string();
    command.args(["--", "tern-bench", "kvm", "--here", "--rounds", &rounds, "--output", output]);
    command.arg("--guest").args(places);
    let status = command.status().context("cannot start the rig")?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}
