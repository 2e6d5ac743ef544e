//! The same measurement in the rig.

use std::process::ExitCode;

use anyhow::{Context, Result};

use super::{Options, guest};
use crate::rig::Trip;

/// What QEMU reads to start a microvm machine, where Debian keeps it.
const FIRMWARE: [&str; 4] = [
    "/usr/share/qemu/bios-microvm.bin",
    "/usr/share/qemu/qboot.rom",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/pvh.bin",
];

/// How much memory the rig has, in MiB: its files, the guest, and QEMU.
const MEMORY: &str = "3072";

/// Starts the rig, with everything in it, and measures there.
///
/// # Errors
/// If something cannot be brought along, or the rig cannot be started.
pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let directory = tempfile::tempdir().context("cannot make a temporary folder")?;
    let files = guest(directory.path().join("vmlinux"))?;
    Trip {
        words: &["kvm"],
        rounds: options.rounds,
        output: options.output,
        image: &files.image,
        unpacked: &files.unpacked,
        firmware: &FIRMWARE,
        more: &[],
        memory: MEMORY,
        timeout: "1200",
    }
    .run()
}
