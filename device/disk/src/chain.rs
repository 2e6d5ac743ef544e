//! An image with the images that it stands on.

mod backing;
mod extents;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use self::backing::place as backing_place;
pub(crate) use self::extents::files as extent_files;

use self::backing::Named;
use crate::error::DiskError;
use crate::image::{Guarded, Image, Raw, overlay};
use crate::options::Format;
use crate::probe;
use crate::qcow2;
use crate::storage::{HostFile, LockError, OpenMode, Purpose, Storage, temporary};
use crate::vhd;
use crate::vhdx;

/// How an image is opened.
#[derive(Debug, Clone)]
pub(crate) struct OpenPlan {
    /// Whether it will be written. Its backing files never are.
    pub is_writable: bool,
    /// What it is, if it is not to be recognised.
    pub format: Option<Format>,
    /// Whether it is kept what it is although `format` is given, because who gave it was not the user.
    pub is_guarded: bool,
    /// Whether the host's page cache is gone around.
    pub is_direct: bool,
    /// Whether flushes are passed on.
    pub is_flushed: bool,
    /// Whether others are kept away.
    pub is_locked: bool,
    /// Where its backing file is, if not where it says.
    pub backing: Option<PathBuf>,
    /// Whether what it stands on is left out.
    pub is_alone: bool,
}

impl OpenPlan {
    /// Whether a guest that owns the file's first bytes could let it be something else next time.
    fn must_be_guarded(&self) -> bool {
        (self.format.is_none() || self.is_guarded) && self.is_writable
    }
}

/// An open image, and the one below.
#[derive(Debug)]
pub(crate) struct Layer {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub format: Format,
    /// Its file.
    pub file: Arc<HostFile>,
    /// What it holds, everything below included.
    pub image: Arc<dyn Image>,
    /// What it stands on.
    pub backing: Option<Box<Layer>>,
    /// Whether it is nothing but a list of the files that it consists of.
    pub is_list: bool,
}

/// The most images in a chain: more than any has.
const LONGEST: usize = 200;

impl Layer {
    /// Opens an image and everything that it stands on.
    ///
    /// # Errors
    /// See [`crate::open()`].
    pub(crate) fn open(path: &Path, plan: &OpenPlan) -> Result<Self, DiskError> {
        Self::open_above(path, plan, &mut Vec::new())
    }

    /// Opens an image on which those in `above` stand, told apart by their identities.
    fn open_above(path: &Path, plan: &OpenPlan, above: &mut Vec<(u64, u64)>) -> Result<Self, DiskError> {
        let file = Arc::new(open_file(path, plan)?);
        let identity = file.identity().map_err(io_error("look at disk image", path))?;
        if above.contains(&identity) || above.len() >= LONGEST {
            let text =
                format!("The chain of backing files comes back to '{}': it has no end", path.display());
            return Err(DiskError::Options(text));
        }
        above.push(identity);
        let format = match plan.format {
            Some(format) => format,
            None => probe::probe(&*file, path).map_err(io_error("read disk image", path))?,
        };
        let storage: Arc<dyn Storage> = Arc::clone(&file) as _;
        let mut is_list = false;
        let (image, backing): (Arc<dyn Image>, _) = match format {
            Format::Raw => (raw(&file, path, plan)?, None),
            Format::Qcow2 => {
                let header = qcow2::read_header(&*storage).map_err(|fault| fault.of(path, format))?;
                let named = header
                    .backing
                    .as_ref()
                    .map(|name| Named { name, format: header.backing_format.as_deref() });
                let backing = backing::open(path, named, plan, above)?.map(Box::new);
                let below = backing.as_ref().map(|layer| Arc::clone(&layer.image));
                let image = qcow2::open(storage, &header, below, plan.is_writable, plan.is_flushed);
                (Arc::new(image.map_err(|fault| fault.of(path, format))?), backing)
            }
            Format::Vhd => {
                let opened = vhd::open(storage, plan.is_writable, plan.is_flushed);
                let (image, summary) = opened.map_err(|fault| fault.of(path, format))?;
                let is_guarded = summary.is_fixed && plan.must_be_guarded();
                // Its own footer is behind the disk.
                (if is_guarded { Arc::new(Guarded::new(image, format, false)) } else { image }, None)
            }
            Format::Vhdx => {
                let opened = vhdx::open(storage, plan.is_writable, plan.is_flushed);
                (opened.map_err(|fault| fault.of(path, format))?.0, None)
            }
            Format::Vmdk => {
                let opened = extents::open(path, &storage, plan, above)?;
                is_list = opened.is_list;
                (opened.image, opened.backing)
            }
        };
        Ok(Self { path: path.to_owned(), format, file, image, backing, is_list })
    }

    /// Opens an image as if it stood on nothing: for what it holds itself.
    ///
    /// # Errors
    /// See [`crate::open()`].
    pub(crate) fn open_alone(path: &Path, plan: &OpenPlan) -> Result<Arc<dyn Image>, DiskError> {
        let plan = OpenPlan { is_alone: true, ..plan.clone() };
        Ok(Self::open(path, &plan)?.image)
    }

    /// What it holds, under a layer that takes what is written and is gone with it.
    ///
    /// # Errors
    /// The host has no place for temporary files.
    pub(crate) fn with_overlay(self) -> Result<Arc<dyn Image>, DiskError> {
        let (folder, file) = temporary::unnamed();
        let action = "make a temporary file for the disk's overlay (TMPDIR names another folder) in";
        let storage = file.and_then(|file| HostFile::new(file, false)).map_err(io_error(action, &folder))?;
        let image = overlay(Arc::new(storage), self.image);
        Ok(Arc::new(image))
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    move |source| DiskError::Io { action, path: path.to_owned(), source }
}

/// Opens and locks the file of an image.
pub(crate) fn open_file(path: &Path, plan: &OpenPlan) -> Result<HostFile, DiskError> {
    let mode = OpenMode { is_writable: plan.is_writable, is_direct: plan.is_direct };
    let file = HostFile::open(path, mode).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => DiskError::Missing { path: path.to_owned() },
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::ExecutableFileBusy
            if plan.is_writable && path.metadata().is_ok() =>
        {
            DiskError::Protected { path: path.to_owned(), source }
        }
        io::ErrorKind::InvalidInput if plan.is_direct => direct_refused(path),
        _ => io_error("open disk image", path)(source),
    })?;
    if plan.is_direct && file.block() > 512 && !file.is_device() {
        return Err(direct_refused(path));
    }
    if plan.is_locked {
        let purpose = if plan.is_writable { Purpose::Write } else { Purpose::Read };
        file.lock(purpose).map_err(|error| lock_error(path, purpose, error))?;
    }
    Ok(file)
}

fn direct_refused(path: &Path) -> DiskError {
    DiskError::Options(format!(
        "Cannot open disk image '{}' with cache=none: its file system does not allow direct access in blocks of 512 bytes. Leave out \
         cache=none to go through the host's page cache",
        path.display()
    ))
}

fn lock_error(path: &Path, purpose: Purpose, error: LockError) -> DiskError {
    let path = path.to_owned();
    match error {
        LockError::Impossible(source) => DiskError::NoLocks { path, source },
        LockError::Taken { by, is_written } => {
            let by = by.map_or_else(|| "another process".to_owned(), |holder| holder.to_string());
            let who =
                format!("{by} {}", if is_written { "is using and may write it" } else { "is reading it" });
            let way_out = match (is_written, purpose) {
                (true, _) => "Wait until that has ended, or use another image",
                (false, _) => {
                    "It can be read by both: give it as read-only (,ro), or with a layer of its own for what is written (,overlay)"
                }
            };
            DiskError::Taken { path, who, way_out }
        }
    }
}

/// A raw image: the whole file, to the next whole sector.
fn raw(file: &Arc<HostFile>, path: &Path, plan: &OpenPlan) -> Result<Arc<dyn Image>, DiskError> {
    let size = size_of_raw(file).map_err(io_error("look at disk image", path))?;
    let storage: Arc<dyn Storage> = Arc::clone(file) as _;
    let raw = Raw::new(storage, 0, size, plan.is_writable, plan.is_flushed).with_block_size(file.block());
    Ok(if plan.must_be_guarded() {
        Arc::new(Guarded::new(Arc::new(raw), Format::Raw, probe::may_be_fixed_vhd(path)))
    } else {
        Arc::new(raw)
    })
}

/// The size of a raw image in bytes.
pub(crate) fn size_of_raw(file: &HostFile) -> io::Result<u64> {
    let length = file.length()?;
    Ok(length.checked_next_multiple_of(512).unwrap_or(length / 512 * 512))
}
