//! The same measurement in the rig.

use std::process::ExitCode;

use anyhow::{Context, Result};

use super::image::Caching;
use super::{Options, tiny};
use crate::rig::Trip;

/// What QEMU reads to start a q35 machine with a kernel.
const FIRMWARE: [&str; 4] = [
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/kvmvapic.bin",
    "/usr/share/qemu/linuxboot_dma.bin",
    "/usr/share/qemu/pvh.bin",
];

/// How much memory the rig has, in MiB: all files, a Debian's disk among them, the guest, and QEMU.
const MEMORY: &str = "8192";

/// Starts the rig, with everything in it, and measures there.
///
/// # Errors
/// If something cannot be brought along, or the rig cannot be started.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    let directory = tempfile::tempdir().context("cannot make a temporary folder")?;
    let files = tiny(options, directory.path())?;
    // Files in memory have no cache to go around.
    let cache = options.cache.unwrap_or(Caching::Writeback).name();
    let mut words = vec!["disk", "--kvm", "--cache", cache];
    let mut more = vec!["--put".to_owned(), files.program.display().to_string()];
    if options.no_debian {
        words.push("--no-debian");
    } else {
        more.push("--system".to_owned());
    }
    Trip {
        words: &words,
        rounds: options.rounds,
        output: options.output,
        image: &files.image,
        unpacked: &files.unpacked,
        firmware: &FIRMWARE,
        more: &more,
        memory: MEMORY,
        timeout: "1800",
    }
    .run()
}
