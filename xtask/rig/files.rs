//! The rig's initramfs: the tiny guest's own (busybox and its applets), and behind it an archive with the rest, which Linux
//! unpacks over it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tern_image::Image;
use tern_image::cpio::Archive;
use tern_image::debian::KvmHost;
use tern_image::linked;

/// A file of this computer and where it goes in the rig.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    source: PathBuf,
    /// Without the leading slash.
    destination: String,
}

/// Where the rig's user has the cache of images and kernels.
const CACHE: &str = "root/.cache/tern";

impl Placed {
    /// `FILE` or `FILE=DESTINATION`.
    ///
    /// # Errors
    /// If there is no such file.
    pub(crate) fn file(argument: &str) -> Result<Self> {
        let (source, destination) = match argument.split_once('=') {
            Some((source, destination)) => (PathBuf::from(source), PathBuf::from(destination)),
            None => (argument.into(), std::path::absolute(argument)?),
        };
        let destination = destination.to_string_lossy().trim_start_matches('/').to_owned();
        Self { source, destination }.checked()
    }

    /// `FILE` or `FILE=NAME`, which becomes a command; or `FILE=/PATH`, for one that is called by its path.
    ///
    /// # Errors
    /// If there is no such file.
    pub(crate) fn program(argument: &str) -> Result<Self> {
        let (source, name) = match argument.split_once('=') {
            Some((source, name)) => (Path::new(source), name.into()),
            None => {
                let source = Path::new(argument);
                (source, source.file_name().unwrap_or_default().to_string_lossy())
            }
        };
        let destination = name.strip_prefix('/').map_or_else(|| format!("bin/{name}"), str::to_owned);
        Self { source: source.into(), destination }.checked()
    }

    /// The files of one entry of the cache.
    ///
    /// # Errors
    /// If it cannot be read.
    pub(crate) fn entry(directory: &Path) -> Result<Vec<Self>> {
        let cannot = || format!("cannot read '{}'", directory.display());
        let key = directory.file_name().unwrap_or_default().to_string_lossy();
        let mut files = Vec::new();
        for item in fs::read_dir(directory).with_context(cannot)? {
            let item = item.with_context(cannot)?;
            let destination = format!("{CACHE}/{key}/{}", item.file_name().to_string_lossy());
            files.push(Self { source: item.path(), destination });
        }
        Ok(files)
    }

    fn checked(self) -> Result<Self> {
        anyhow::ensure!(self.source.is_file(), "there is no file '{}' to bring along", self.source.display());
        Ok(self)
    }
}

/// The whole initramfs, with `programs` and the libraries that they are linked to, and the files in `others`.
///
/// # Errors
/// If a file cannot be read, or the libraries cannot be found out.
pub(crate) fn initramfs(
    host: &KvmHost,
    guest: &Image,
    programs: &[Placed],
    others: &[Placed],
    command: &str,
) -> Result<Vec<u8>> {
    let initrd = read(guest.initrd.as_deref().context("the tiny guest has no initramfs")?)?;
    let mut archive = Archive::default();
    for directory in ["rig", "rig/modules", "rig/guest"] {
        archive.directory(directory);
    }
    archive.file("init", 0o755, include_bytes!("init.sh"));
    archive.file("bin/tiny", 0o755, include_bytes!("tiny.sh"));
    archive.file("rig/command", 0o644, format!("{command}\n").as_bytes());
    let mut order = String::new();
    for module in &host.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("rig/modules/{name}"), 0o644, &read(module)?);
        order.extend([&*name, "\n"]);
    }
    archive.file("rig/modules/order", 0o644, order.as_bytes());
    archive.file("rig/guest/kernel", 0o644, &read(&guest.kernel)?);
    archive.file("rig/guest/initrd", 0o644, &initrd);
    archive.file("rig/guest/cmdline", 0o644, guest.cmdline.as_bytes());
    let mut libraries = BTreeSet::new();
    for Placed { source, destination } in programs {
        archive.file(destination, 0o755, &read(source)?);
        libraries.extend(linked::libraries(source)?);
    }
    let places: Vec<_> = others.iter().map(|file| PathBuf::from(&file.destination)).collect();
    for directory in linked::directories(libraries.iter().chain(&places)) {
        archive.directory(&directory);
    }
    for Placed { source, destination } in others {
        archive.file(destination, 0o644, &read(source)?);
    }
    for library in &libraries {
        archive.file(library.to_string_lossy().trim_start_matches('/'), 0o755, &read(library)?);
    }
    Ok([initrd, archive.finish()].concat())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read '{}'", path.display()))
}
