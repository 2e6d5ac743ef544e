//! What is measured beside what, and how each is started.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use tern_image::Image;

/// The name of Tern itself: all others are compared to it.
pub(crate) const TERN: &str = "tern";

/// Guest memory for everybody, in MiB.
const MEMORY: &str = "512";

/// Who takes part; Tern is the first.
pub(crate) const CONTENDERS: [Contender; 2] =
    [Contender { name: TERN, command: tern_soft }, Contender { name: "qemu-tcg", command: qemu_tcg }];

/// A program that runs the guest, with its serial port as standard input and output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contender {
    pub name: &'static str,
    pub command: fn(&Files) -> Result<Command>,
}

/// The guest that all of them run.
#[derive(Debug)]
pub(crate) struct Files {
    pub image: Image,
    /// Its kernel as an ELF file.
    pub unpacked: PathBuf,
}

fn tern_soft(files: &Files) -> Result<Command> {
    let this = env::current_exe().context("cannot find out where this program is")?;
    let mut command = Command::new(this.with_file_name("tern"));
    command.args(["run", "--engine", "soft", "--quiet", "--stats"]);
    command.arg("--memory").arg(format!("{MEMORY}M"));
    command.arg("--kernel").arg(&files.image.kernel);
    command.arg("--cmdline").arg(&files.image.cmdline);
    if let Some(initrd) = &files.image.initrd {
        command.arg("--initrd").arg(initrd);
    }
    Ok(command)
}

fn qemu_tcg(files: &Files) -> Result<Command> {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", MEMORY]);
    command.args(["-no-user-config", "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    command.arg("-kernel").arg(&files.unpacked);
    command.arg("-append").arg(&files.image.cmdline);
    if let Some(initrd) = &files.image.initrd {
        command.arg("-initrd").arg(initrd);
    }
    Ok(command)
}
