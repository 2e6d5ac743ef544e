//! Why a disk cannot be opened or made. Each text names the thing and the way out; the cause below it is in `source()` and
//! never repeated in the text.

use std::io;
use std::path::PathBuf;

/// Why a disk cannot be opened.
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

    /// A lane could not be made.
    #[error("The host has nothing left for another disk queue; give the disk fewer queues")]
    Lane(#[source] io::Error),

    /// `--disk` makes no sense.
    #[error("{0}")]
    Options(String),
}
