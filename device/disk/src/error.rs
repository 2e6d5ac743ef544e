//! Why a disk cannot be opened or made. Each text names the thing and the way out; the cause below it is in `source()` and
//! never repeated in the text.

use std::io;
use std::path::PathBuf;

use crate::options::Format;

/// Why a disk cannot be opened, made or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// The host's file system said no.
    #[error("Cannot {action} '{}'", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// There is no such image.
    #[error(
        "Cannot open disk image '{}': there is no such file. `tern image create` makes an empty disk, `tern image convert` one from another image",
        path.display()
    )]
    Missing {
        /// Where it should be.
        path: PathBuf,
    },

    /// The image may be read, but not written.
    #[error(
        "Cannot open disk image '{}' for writing. Give it as '{0},ro' if the guest need not write, or as '{0},overlay' to keep what it writes elsewhere until it ends",
        path.display()
    )]
    Protected {
        /// The image.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// Something in the chain of backing files is wrong.
    #[error("Cannot open disk image '{}': its backing file '{}' {problem}", image.display(), backing.display())]
    Backing {
        /// The image that names it.
        image: PathBuf,
        /// What it names.
        backing: PathBuf,
        /// What is wrong, and the way out.
        problem: String,
    },

    /// A backing file is there, but cannot be opened.
    #[error("Cannot open the backing file of disk image '{}'", image.display())]
    Chain {
        /// The image that names it.
        image: PathBuf,
        /// Why.
        source: Box<DiskError>,
    },

    /// Another process has it.
    #[error("Cannot open disk image '{}': {who}. {way_out}", path.display())]
    Taken {
        /// The image.
        path: PathBuf,
        /// Who does what with it.
        who: String,
        /// What to do.
        way_out: &'static str,
    },

    /// The file system does not do locks.
    #[error(
        "Cannot lock disk image '{}' against use by others: its file system does not know locks. If nobody else uses it, give it as '{0},lock=off'",
        path.display()
    )]
    NoLocks {
        /// The image.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },

    /// It is not in the format that it was said to be in.
    #[error("'{}' is not a {format} image: {problem}. Leave out the format to have it recognised", path.display())]
    NotThatFormat {
        /// The image.
        path: PathBuf,
        /// What it should be.
        format: Format,
        /// Why it is not.
        problem: String,
    },

    /// Its structures contradict each other or the file.
    #[error("Disk image '{}' ({format}) is damaged: {problem}", path.display())]
    Damaged {
        /// The image.
        path: PathBuf,
        /// Its format.
        format: Format,
        /// What is wrong, and the way out if there is one.
        problem: String,
    },

    /// It uses something that is not supported.
    #[error("Disk image '{}' ({format}) {problem}", path.display())]
    Unsupported {
        /// The image.
        path: PathBuf,
        /// Its format.
        format: Format,
        /// What it uses, and the way out.
        problem: String,
    },

    /// A lane could not be made.
    #[error("The host has nothing left for another disk queue; give the disk fewer queues")]
    Lane(#[source] io::Error),

    /// What was asked for makes no sense.
    #[error("{0}")]
    Options(String),
}

/// What is wrong with the contents of an image, before its path is known.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The storage said no.
    Io(io::Error),
    /// It is not an image of this format at all.
    Alien(String),
    /// Its structures contradict each other or the file.
    Damaged(String),
    /// It uses something that is not supported: a predicate, and the way out.
    Unsupported(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Fault {
    /// Says of which image.
    pub(crate) fn of(self, path: &std::path::Path, format: Format) -> DiskError {
        let path = path.to_owned();
        match self {
            Self::Io(source) => DiskError::Io { action: "read disk image", path, source },
            Self::Alien(problem) => DiskError::NotThatFormat { path, format, problem },
            Self::Damaged(problem) => DiskError::Damaged { path, format, problem },
            Self::Unsupported(problem) => DiskError::Unsupported { path, format, problem },
        }
    }

    /// For a damage found while the image is in use.
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Self::Io(error) => error,
            Self::Alien(problem) | Self::Damaged(problem) => {
                io::Error::new(io::ErrorKind::InvalidData, problem)
            }
            Self::Unsupported(problem) => io::Error::new(io::ErrorKind::Unsupported, problem),
        }
    }
}

/// A damage that is found while the image is in use.
pub(crate) fn damaged(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.into())
}
