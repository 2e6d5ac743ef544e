//! How each contender is started, with the same disks and the same way from them to the host's: around its page cache or
//! through it, by io_uring.

use std::process::Command;

use anyhow::Result;

use crate::soft::{Contender, Files, Kind, TERN, qemu, tern};

/// Who takes part without hardware virtualization, and with it; Tern is the first.
pub(super) const SOFT: [Contender; 2] = [
    Contender { name: TERN, kind: Kind::Guest, command: |files| plain_tern("soft", files) },
    Contender {
        name: "qemu-tcg",
        kind: Kind::Guest,
        command: |files| Ok(qemu_anywhere("tcg", "max", files)),
    },
];
pub(super) const KVM: [Contender; 2] = [
    Contender { name: TERN, kind: Kind::Guest, command: |files| plain_tern("kvm", files) },
    Contender {
        name: "qemu-kvm",
        kind: Kind::Guest,
        command: |files| Ok(qemu_anywhere("kvm", "host", files)),
    },
];

fn plain_tern(engine: &str, files: &Files) -> Result<Command> {
    let mut command = tern(engine, files)?;
    // The peers have no source of random numbers either.
    command.args(["--rng", "off"]);
    Ok(command)
}

fn qemu_anywhere(accelerator: &str, processor: &str, files: &Files) -> Command {
    let mut command = qemu(accelerator, processor, files);
    // In the rig the program is not where it was installed, and would not find its firmware.
    command.args(["-L", "/usr/share/qemu", "-L", "/usr/share/seabios"]);
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
