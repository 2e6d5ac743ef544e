//! The disks of the guests, and the whole Debian.

use std::env;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use tern_image::system::{Release, System};
use tern_image::{Cache, Image, OnStderr};

use crate::soft::Drive;

/// Bytes of a disk, in blocks of 4 KiB: more than a host's device keeps in its own memory would be better, and take long.
const BLOCKS: u64 = 32 << 10;

/// How the disks are used; [`Cache::None`] where the host's file system can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Caching {
    /// Around the host's page cache
    None,
    /// Through it
    Writeback,
}

impl Caching {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Writeback => "writeback",
        }
    }
}

/// Makes the raw disk and the qcow2 disk in `directory`. Each block begins with its number, as the program wants it.
///
/// # Errors
/// They cannot be written.
pub(super) fn drives(directory: &Path, caching: Caching) -> Result<Vec<Drive>> {
    let raw = directory.join("disk.raw");
    let mut file = BufWriter::new(File::create(&raw).context("cannot make a disk")?);
    let mut block = [0x5a; 4096];
    for number in 0..BLOCKS {
        block[..8].copy_from_slice(&number.to_le_bytes());
        file.write_all(&block).context("cannot write a disk")?;
    }
    file.into_inner().context("cannot write a disk")?.sync_all().context("cannot write a disk")?;
    let qcow2 = directory.join("disk.qcow2");
    let tern = env::current_exe().context("cannot find out where this program is")?.with_file_name("tern");
    let mut convert = Command::new(tern);
    convert.args(["image", "convert", "--force"]).arg(&raw).arg(&qcow2);
    let output = convert.output().context("cannot start tern")?;
    ensure!(
        output.status.success(),
        "tern cannot make a qcow2 disk: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let drive = |path: PathBuf, format| Drive { path, format, cache: caching.name(), is_kept: true };
    Ok(vec![drive(raw, "raw"), drive(qcow2, "qcow2")])
}

/// A whole Debian 13 as `tern run debian` starts it, and its disk, to which nothing is written.
///
/// # Errors
/// It cannot be made.
pub(super) fn debian(cache: &Cache) -> Result<(Image, Drive)> {
    let system = System::get(cache, Release::ALL[0], &OnStderr::new())?;
    let cmdline = system.cmdline();
    let image = Image { kernel: system.kernel, initrd: Some(system.initrd), cmdline };
    Ok((image, Drive { path: system.disk, format: "qcow2", cache: "writeback", is_kept: false }))
}
