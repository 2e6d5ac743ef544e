//! Whole systems: a disk with an unmodified distribution on it, and beside it the kernel and the initramfs that boot it.
//!
//! ```text
//! release.rs    the names by which they are asked for: debian, debian:13, debian:12
//! build.rs      made here from Debian's packages: mmdebstrap(1), mke2fs(8)
//!   customize.sh  what mmdebstrap runs last
//! pull.rs       the distribution's own cloud image, fetched and checked
//!   disk.rs       the kernel in its root file system
//!   gpt.rs        where on the disk that is
//! kept.rs       a machine's own disk over a system's, for --keep
//! tools.rs      programs of the host, and which package brings one that is missing
//! ```
//!
//! A system is an entry of the cache, so it is whole or not there. Machines never write to its disk.

mod build;
mod disk;
#[doc(hidden)]
pub mod gpt;
mod kept;
mod pull;
mod release;
mod tools;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::{Cache, Error, Progress};

pub use kept::{InUse, Kept, KeptSystem, state_directory};
pub use release::Release;

/// The files of an entry.
const DISK: &str = "disk.qcow2";
const KERNEL: &str = "vmlinuz";
const INITRD: &str = "initrd.img";
const ABOUT: &str = "system.json";

/// What an entry looks like; entries of another form are made anew.
const FORM: u32 = 1;

/// Told to the kernel of every system: its console is the first serial port. The self-tests of ciphers take an interpreter as long as
/// the rest of the kernel's start.
const CONSOLE: &str = "console=ttyS0 quiet cryptomgr.notests";

/// What is known of a system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    form: u32,
    /// The name by which it is asked for, such as `debian:13`.
    pub name: String,
    /// The distribution's own version, such as `13.3`.
    pub version: String,
    /// What `uname -r` says on it.
    pub kernel: String,
    /// Where it comes from: `mmdebstrap`, or the address that it was fetched from.
    pub origin: String,
    /// When it was made, in seconds since 1970.
    pub made: u64,
    /// Where the kernel finds its root file system.
    root: String,
}

impl About {
    fn new(release: Release, version: String, kernel: String, origin: String, root: String) -> Self {
        let made = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { form: FORM, name: release.name(), version, kernel, origin, made, root }
    }

    fn read(entry: &Path) -> Option<Self> {
        let about: Self = serde_json::from_slice(&fs::read(entry.join(ABOUT)).ok()?).ok()?;
        (about.form == FORM).then_some(about)
    }

    fn write(&self, entry: &Path) -> Result<(), Error> {
        let path = entry.join(ABOUT);
        let text = serde_json::to_vec_pretty(self).expect("texts and numbers serialize");
        fs::write(&path, text).map_err(Error::io("write", &path))
    }
}

/// A system that is ready to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    /// What it is.
    pub about: About,
    /// Its disk, which is not to be written.
    pub disk: PathBuf,
    /// The kernel, a bzImage.
    pub kernel: PathBuf,
    /// Its initramfs.
    pub initrd: PathBuf,
}

impl System {
    /// The system in a directory, if there is one.
    fn in_directory(directory: &Path) -> Option<Self> {
        Some(Self {
            about: About::read(directory)?,
            disk: directory.join(DISK),
            kernel: directory.join(KERNEL),
            initrd: directory.join(INITRD),
        })
    }

    /// What its kernel is told.
    #[must_use]
    pub fn cmdline(&self) -> String {
        format!("{CONSOLE} root={} ro", self.about.root)
    }

    /// The system of this name, from the cache; else made here if this host can, else fetched.
    ///
    /// # Errors
    /// It is not there and can neither be made nor be fetched.
    pub fn get(cache: &Cache, release: Release, progress: &dyn Progress) -> Result<Self, Error> {
        if let Some(system) = Self::cached(cache, release) {
            return Ok(system);
        }
        match build::obstacle() {
            None => match Self::build(cache, release, false, progress) {
                // Packages of another distribution, as on Ubuntu.
                Err(Error::NoMirror) => Self::pull(cache, release, None, false, progress),
                done => done,
            },
            Some(obstacle) => {
                progress.note(&format!("{obstacle}; so its cloud image is fetched instead"));
                Self::pull(cache, release, None, false, progress)
            }
        }
    }

    /// The system of this name if it is in the cache, whole.
    #[must_use]
    pub fn cached(cache: &Cache, release: Release) -> Option<Self> {
        Self::in_directory(&cache.whole(&release.key())?)
    }

    /// Makes the system here; `anew` also if it is in the cache.
    ///
    /// # Errors
    /// A tool is missing, packages cannot be fetched, or the host has no room.
    pub fn build(
        cache: &Cache,
        release: Release,
        anew: bool,
        progress: &dyn Progress,
    ) -> Result<Self, Error> {
        if let Some(obstacle) = build::obstacle() {
            return Err(obstacle);
        }
        Self::make(cache, release, anew, progress, |directory| build::build(release, directory, progress))
    }

    /// Fetches the distribution's cloud image from `base`, a folder of a web server, or from the distribution's own; `anew` also if
    /// the system is in the cache.
    ///
    /// # Errors
    /// It cannot be fetched, is not what its checksum says, or the host has no room.
    pub fn pull(
        cache: &Cache,
        release: Release,
        base: Option<&str>,
        anew: bool,
        progress: &dyn Progress,
    ) -> Result<Self, Error> {
        Self::make(cache, release, anew, progress, |directory| pull::pull(release, base, directory, progress))
    }

    fn make(
        cache: &Cache,
        release: Release,
        anew: bool,
        progress: &dyn Progress,
        make: impl FnOnce(&Path) -> Result<(), Error>,
    ) -> Result<Self, Error> {
        let key = release.key();
        let is_waiting = cache.is_busy(&key);
        if is_waiting {
            progress.begin(&format!("waiting for another `tern` that makes {release}"), None);
        }
        let anew = anew || Self::cached(cache, release).is_none();
        let make = |directory: &Path| {
            if is_waiting {
                progress.end();
            }
            make(directory)
        };
        let entry =
            if anew && !is_waiting { cache.rebuild(&key, make) } else { cache.get_or_build(&key, make) };
        if is_waiting {
            progress.end();
        }
        Self::in_directory(&entry?).ok_or_else(|| Error::Damaged {
            key,
            file: ABOUT.to_owned(),
            why: "another version of tern made it".to_owned(),
        })
    }
}
