//! How each contender is started.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tern_image::Image;

use super::MEMORY;

/// A program that runs the guest, with its serial port as standard input and output.
#[derive(Debug)]
pub(crate) struct Contender {
    pub name: &'static str,
    pub command: fn(&Files) -> Result<Command>,
}

/// The name of Tern itself, and of the peers that it is compared to: QEMU reads an unpacked kernel through a slow device, and
/// a packed one unpacks itself in the guest; which is better depends on the host.
pub(crate) const TERN: &str = "tern";
pub(crate) const PEERS: [&str; 2] = ["qemu-microvm", "qemu-packed"];

/// Who takes part.
pub(crate) const CONTENDERS: [Contender; 4] = [
    Contender { name: TERN, command: |files| tern(files, &files.unpacked) },
    Contender { name: "tern-packed", command: |files| tern(files, &files.image.kernel) },
    Contender { name: PEERS[0], command: |files| Ok(qemu(files, &files.unpacked)) },
    Contender { name: PEERS[1], command: |files| Ok(qemu(files, &files.image.kernel)) },
];

/// The guest that all of them run.
#[derive(Debug)]
pub(crate) struct Files {
    pub image: Image,
    /// Its kernel as an ELF file.
    pub unpacked: PathBuf,
}

fn tern(files: &Files, kernel: &Path) -> Result<Command> {
    let this = env::current_exe().context("cannot find out where this program is")?;
    let mut command = Command::new(this.with_file_name("tern"));
    // The peers have no source of random numbers either.
    command.args(["run", "--engine", "kvm", "--quiet", "--rng", "off"]);
    command.arg("--memory").arg(format!("{MEMORY}M"));
    command.arg("--kernel").arg(kernel);
    command.arg("--cmdline").arg(&files.image.cmdline);
    if let Some(initrd) = &files.image.initrd {
        command.arg("--initrd").arg(initrd);
    }
    Ok(command)
}

fn qemu(files: &Files, kernel: &Path) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    // In the rig the program is not where it was installed, and would not find its firmware.
    command.args(["-L", "/usr/share/qemu", "-L", "/usr/share/seabios"]);
    // A clock there must be: Linux waits long for one that is not, by ten thousand exits.
    command.args(["-machine", "microvm,x-option-roms=off,pic=off,pit=off,rtc=on,isa-serial=on"]);
    command.args(["-accel", "kvm", "-cpu", "host", "-m", &MEMORY.to_string()]);
    command.args(["-no-user-config", "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    command.arg("-kernel").arg(kernel);
    command.arg("-append").arg(&files.image.cmdline);
    if let Some(initrd) = &files.image.initrd {
        command.arg("-initrd").arg(initrd);
    }
    command
}
