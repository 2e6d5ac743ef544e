//! What can go wrong on the way to an image. Each text names the thing and the way out; the cause
//! below it is in `source()` and never repeated in the text.

use std::io;
use std::path::{Path, PathBuf};

/// Why an image could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// None of the variables that lead to a cache directory is set.
    #[error(
        "no place for the image cache: HOME is not set; set TERN_CACHE_DIR to a directory that may be written"
    )]
    NoCacheDir,

    /// A cache key that could not be a file name.
    #[error(
        "'{0}' cannot name a cache entry: use letters, digits, '-', '+', '.' and '_', not starting with '.'"
    )]
    BadKey(String),

    /// There is no such entry in the cache.
    #[error("there is no '{key}' in the image cache {}; `tern image list` shows what there is", root.display())]
    NoEntry {
        /// The entry that was asked for.
        key: String,
        /// Where the cache is.
        root: PathBuf,
    },

    /// A cached file is not what was once written.
    #[error(
        "cache entry '{key}' is damaged: {file}: {why}; `tern image rm {key}` removes it, and the next start builds it again"
    )]
    Damaged {
        /// The cache entry.
        key: String,
        /// The file in it.
        file: String,
        /// What is wrong with it.
        why: String,
    },

    /// The host's file system said no.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// A tool of the host's package system is missing.
    #[error(
        "this host has no `{tool}`: images are built from Debian packages. Start a kernel of your own with `tern run --kernel FILE [--initrd FILE]`, or copy a filled cache from a Debian host"
    )]
    NotDebian {
        /// The program that was not found.
        tool: &'static str,
    },

    /// The package system does not know a package, even with fresh lists.
    #[error(
        "no package source of this host offers '{package}'{}. Check its apt sources and its network (`apt-get update` must work), or start a kernel of your own with `tern run --kernel FILE [--initrd FILE]`",
        said(apt)
    )]
    NoPackage {
        /// The package's name.
        package: String,
        /// What `apt-get update` reported.
        apt: String,
    },

    /// A package could not be fetched.
    #[error(
        "cannot fetch package '{package}'{}. Check the network; once fetched, it is kept in the cache",
        said(apt)
    )]
    Fetch {
        /// The package's name and version.
        package: String,
        /// What `apt-get` reported.
        apt: String,
    },

    /// A fetched package is not the one the signed package list promises.
    #[error(
        "package '{package}' arrived damaged: its SHA-256 is {found}, the signed package list says {expected}. Try again; if it stays, a proxy or mirror alters files"
    )]
    Digest {
        /// The package's name and version.
        package: String,
        /// The digest in the package list.
        expected: String,
        /// The digest of the file that came.
        found: String,
    },

    /// A package list or package does not look as expected.
    #[error("package '{package}': {why}")]
    Package {
        /// The package's name.
        package: String,
        /// What is unexpected.
        why: String,
    },

    /// A program that is needed is not installed.
    #[error("this host has no `{tool}`: install the package '{package}' (`apt-get install {package}`)")]
    NoTool {
        /// The program.
        tool: &'static str,
        /// What brings it.
        package: &'static str,
    },

    /// Somebody else than root has no numbers for the users of a namespace.
    #[error(
        "this user has no subordinate users, which making a system without being root takes: as root, run `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`"
    )]
    NoSubordinates,

    /// The host's package sources are another distribution's.
    #[error(
        "no package source of this host is Debian's archive, from which systems are made; `tern image pull` fetches a cloud image"
    )]
    NoMirror,

    /// A system could not be made.
    #[error(
        "`{tool}` could not make the system; check the network and the room on the disk. It says:\n    {last}"
    )]
    Build {
        /// The program that failed.
        tool: &'static str,
        /// Its last lines.
        last: String,
    },

    /// A file could not be fetched.
    #[error(
        "cannot fetch {url}: {why}. Check the network, or name another server with `tern image pull --from`"
    )]
    Download {
        /// Its address.
        url: String,
        /// What the program that fetches says.
        why: String,
    },

    /// A list of checksums does not name a file.
    #[error(
        "{url} names no checksum of '{file}', so that it cannot be checked; name another server with `tern image pull --from`"
    )]
    Unlisted {
        /// The list's address.
        url: String,
        /// The file.
        file: String,
    },

    /// A fetched file is another one than the list of checksums promises.
    #[error(
        "{url} arrived damaged: its SHA-512 begins with {found}, and SHA512SUMS says {expected}. Try again; if it stays, a proxy or mirror alters files"
    )]
    Checksum {
        /// Its address.
        url: String,
        /// How its digest begins.
        found: String,
        /// How it is to begin.
        expected: String,
    },

    /// A disk holds no system that can be started.
    #[error("the disk '{}' holds no system that can be started: {why}", path.display())]
    NoSystem {
        /// The disk image.
        path: PathBuf,
        /// What is missing.
        why: String,
    },

    /// None of the variables that lead to a place for kept machines is set.
    #[error(
        "no place for kept machines: HOME is not set; set TERN_STATE_DIR to a directory that may be written"
    )]
    NoStateDir,

    /// A name that no kept machine can have.
    #[error(
        "'{0}' cannot name a kept machine: use letters, digits, '-', '.' and '_', beginning with a letter or digit, 64 at most"
    )]
    BadName(String),

    /// There is no such kept machine.
    #[error("there is no kept machine '{0}'; `tern image list` shows those that there are")]
    NotKept(String),

    /// A kept machine is of another image.
    #[error(
        "the kept machine '{name}' is of {kept}, not of {asked}: run it without naming an image, or keep the new one under another name"
    )]
    OtherSystem {
        /// Its name.
        name: String,
        /// What it is of.
        kept: String,
        /// What was asked for.
        asked: String,
    },

    /// A kept machine runs.
    #[error("the kept machine '{0}' is running; `tern stop` ends it")]
    Running(String),

    /// A disk image cannot be read or written.
    #[error(transparent)]
    Disk(#[from] tern_disk::DiskError),

    /// busybox, just unpacked, could not be asked for its applets.
    #[error("cannot run {} to learn its applets; if its file system is mounted noexec, set TERN_CACHE_DIR to another", path.display())]
    Busybox {
        /// The program in the cache.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    /// Makes an [`Error::Io`] out of what the system said: `map_err(Error::io("read", path))`.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// The report of `apt` as an inset, or nothing if it said nothing.
fn said(apt: &str) -> String {
    match apt.trim() {
        "" => String::new(),
        text => format!(" (apt says: {})", text.replace('\n', "; ")),
    }
}
