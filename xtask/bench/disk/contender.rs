//! How each contender is started, with the same disks and the same way from them to the host's: around its page cache or
//! through it, by io_uring.

use std::env;
use std::process::Command;

use anyhow::{Context, Result};

use crate::soft::{Contender, Drive, Files, Kind, TERN};

/// Who takes part without hardware virtualization, and with it; Tern is the first.
pub(super) const SOFT: [Contender; 2] = [
    Contender { name: TERN, kind: Kind::Guest, command: |files| tern("soft", files) },
    Contender { name: "qemu-tcg", kind: Kind::Guest, command: |files| Ok(qemu(&["tcg", "max"], files)) },
];
pub(super) const KVM: [Contender; 2] = [
    Contender { name: TERN, kind: Kind::Guest, command: |files| tern("kvm", files) },
    Contender { name: "qemu-kvm", kind: Kind::Guest, command: |files| Ok(qemu(&["kvm", "host"], files)) },
];

fn tern(engine: &str, files: &Files) -> Result<Command> {
    let this = env::current_exe().context("cannot find out where this program is")?;
    let mut command = Command::new(this.with_file_name("tern"));
    // The peers have no source of random numbers either.
    command.args(["run", "--engine", engine, "--quiet", "--stats", "--rng", "off"]);
    command.arg("--memory").arg(format!("{}M", files.memory));
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

fn qemu([accelerator, processor]: &[&str; 2], files: &Files) -> Command {
    let mut command = Command::new("qemu-system-x86_64");
    // In the rig the program is not where it was installed, and would not find its firmware.
    command.args(["-L", "/usr/share/qemu", "-L", "/usr/share/seabios"]);
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

/// Runs `true` in a fresh guest and ends. Tern's guest is told by its agent; QEMU's has nothing else to do: its first process is
/// that of `init`.
pub(super) fn once(contender: &Contender, files: &Files) -> Result<Command> {
    let mut command = (contender.command)(files)?;
    if contender.name == TERN {
        command.args(["--", "true"]);
    } else {
        let cmdline = format!("{} rdinit={ONCE}", files.image.cmdline);
        // The last one counts.
        command.arg("-append").arg(cmdline);
    }
    Ok(command)
}

/// What QEMU's guest runs, and where it is.
pub(super) const ONCE: &str = "/once";
pub(super) const ONCE_SCRIPT: &str = "#!/bin/busybox sh\n/bin/busybox true\nexec /bin/busybox poweroff -f\n";
