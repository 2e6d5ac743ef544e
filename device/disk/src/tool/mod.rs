//! What `tern image` does with disk images.
//!
//! ```text
//! info.rs      what an image is, without opening what it stands on
//! create.rs    new images
//! convert.rs   from any image to a new one
//! copy.rs      the contents of one image into another, without what is zeros
//! resize.rs    more or less room
//! commit.rs    what an image holds, into the one that it stands on
//! contents.rs  what a disk holds, to be read
//! check.rs     whether an image keeps its format's rules
//! ```

mod check;
mod commit;
mod contents;
mod convert;
mod copy;
mod create;
mod info;
mod resize;

use std::path::{Path, PathBuf};

use crate::chain::OpenPlan;
use crate::error::DiskError;
use crate::options::Format;

pub use check::{Checked, check};
pub use commit::{Committed, Committing, commit};
pub use contents::Contents;
pub use convert::{Converted, convert};
pub use create::{NewBacking, NewImage, Subformat, create};
pub use info::{Info, SnapshotInfo, info};
pub use resize::resize;

/// Told how many bytes of how many are done.
pub type Told<'a> = &'a mut (dyn FnMut(u64, u64) + Send);

/// An image that there is.
#[derive(Debug, Clone)]
pub struct Existing {
    /// Where.
    pub path: PathBuf,
    /// What it is, if it is not to be recognised by its contents.
    pub format: Option<Format>,
    /// Where its backing file is, if not where the image says.
    pub backing: Option<PathBuf>,
}

impl Existing {
    /// The image at `path`, as it shows.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), format: None, backing: None }
    }

    fn plan(&self, is_writable: bool) -> OpenPlan {
        OpenPlan {
            is_writable,
            format: self.format,
            is_guarded: false,
            is_direct: false,
            is_flushed: true,
            is_locked: true,
            backing: self.backing.clone(),
            is_alone: false,
        }
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> DiskError {
    move |source| DiskError::Io { action, path: path.to_owned(), source }
}
