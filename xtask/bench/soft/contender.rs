//! What is measured beside what, and how each is started.

use std::env;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};
use tern_image::Image;

use crate::console::{INIT, PROMPT};

/// The name of Tern itself: all others are compared to it.
pub(crate) const TERN: &str = "tern";

/// QEMU without virtualization hardware, by the name it has in the table.
pub(crate) const TCG: &str = "qemu-tcg";

/// The host itself, by the name it has in the table.
pub(crate) const NATIVE: &str = "native";

/// The tiny guest's memory, in MiB.
pub(crate) const MEMORY: u32 = 512;

/// Who takes part; Tern is the first.
pub(crate) const CONTENDERS: [Contender; 3] = [
    Contender { name: TERN, kind: Kind::Guest, command: |files| tern("soft", files) },
    Contender { name: TCG, kind: Kind::Guest, command: |files| Ok(qemu("tcg", "max", files)) },
    Contender { name: NATIVE, kind: Kind::Host, command: native },
];

/// A program whose standard input and output are a shell's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contender {
    pub name: &'static str,
    pub kind: Kind,
    pub command: fn(&Files) -> Result<Command>,
}

/// Whose shell it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// That of a guest, which has to boot; it is on the guest's serial port.
    Guest,
    /// This host's own.
    Host,
}

/// The guest that all of them run, and the program that the host runs too.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pub image: Image,
    /// Its kernel as an ELF file.
    pub unpacked: PathBuf,
    /// Its memory, in MiB.
    pub memory: u32,
    /// The processor that Tern gives it, by the name that users type.
    pub cpu: String,
    /// What tells that it has booted.
    pub ready: Ready,
    pub program: PathBuf,
    /// Its disks.
    pub drives: Vec<Drive>,
}

/// A disk of a guest.
#[derive(Debug, Clone)]
pub(crate) struct Drive {
    pub path: PathBuf,
    /// As Tern and QEMU both call it.
    pub format: &'static str,
    /// Likewise.
    pub cache: &'static str,
    /// Whether what is written stays.
    pub is_kept: bool,
}

/// What a guest is waited for to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ready {
    /// To be at the tiny guest's prompt; commands can be typed then.
    Prompt,
    /// To ask who wants to log in; nobody does.
    Login,
}

impl Ready {
    /// What the guest prints while it boots, in order.
    pub fn marks(self) -> &'static [&'static str] {
        match self {
            Self::Prompt => &[INIT, PROMPT],
            Self::Login => &["login: "],
        }
    }
}

/// Tern on `engine`, with the guest's disks.
///
/// # Errors
/// This program does not know where it is; `tern` is beside it.
pub(crate) fn tern(engine: &str, files: &Files) -> Result<Command> {
    let this = env::current_exe().context("cannot find out where this program is")?;
    let mut command = Command::new(this.with_file_name("tern"));
    command.args(["run", "--engine", engine, "--quiet", "--stats=free"]);
    command.arg("--memory").arg(format!("{}M", files.memory));
    command.arg("--cpu").arg(&files.cpu);
    command.arg("--kernel").arg(&files.image.kernel);
    command.arg("--cmdline").arg(&files.image.cmdline);
    if let Some(initrd) = &files.image.initrd {
        command.arg("--initrd").arg(initrd);
    }
    for Drive { path, format, cache, is_kept } in &files.drives {
        let overlay = if *is_kept { "" } else { ",overlay" };
        command.arg("--disk").arg(format!("{},format={format},cache={cache}{overlay}", path.display()));
    }
    Ok(command)
}

/// The same program, but by this host's own processor and kernel.
fn native(files: &Files) -> Result<Command> {
    let directory = files.program.parent().context("the program is in no folder")?;
    let path = env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(directory.to_owned()).chain(env::split_paths(&path));
    let mut command = Command::new("sh");
    command.env("PATH", env::join_paths(path).context("cannot add a folder to PATH")?);
    Ok(command)
}

/// QEMU with this accelerator and processor, and the same guest and disks.
pub(crate) fn qemu(accelerator: &str, processor: &str, files: &Files) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    command.args(["-machine", "q35", "-accel", accelerator, "-cpu", processor]);
    command.args(["-m", &files.memory.to_string()]);
    command.args(["-no-user-config", "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]);
    command.arg("-kernel").arg(&files.unpacked);
    command.arg("-append").arg(&files.image.cmdline);
    if let Some(initrd) = &files.image.initrd {
        command.arg("-initrd").arg(initrd);
    }
    for (index, Drive { path, format, cache, is_kept }) in files.drives.iter().enumerate() {
        let snapshot = if *is_kept { "off" } else { "on" };
        let path = path.display();
        command.arg("-drive").arg(format!(
            "if=none,id=drive{index},file={path},format={format},cache={cache},aio=io_uring,discard=unmap,snapshot={snapshot}"
        ));
        command.arg("-device").arg(format!("virtio-blk-pci,disable-legacy=on,drive=drive{index}"));
    }
    command
}
