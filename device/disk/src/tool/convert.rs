//! From any image to a new one.

use std::sync::Arc;

use super::copy::copy;
use super::create::{Partial, size_of, write_new};
use super::{Existing, NewImage, Subformat, Told, io_error};
use crate::chain::{Layer, OpenPlan};
use crate::error::DiskError;
use crate::options::Format;
use crate::qcow2;
use crate::storage::{HostFile, OpenMode, Storage};

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Converted {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes that the new image takes on the host.
    pub allocated: u64,
}

/// Copies what `from` holds, with everything that it stands on, to a new image. Without a size in `new`, it is that of `from`.
///
/// # Errors
/// `from` cannot be read, or the new image not be written. Then there is none.
pub fn convert(from: &Existing, new: &NewImage, told: Told<'_>) -> Result<Converted, DiskError> {
    let source = Layer::open(&from.path, &from.plan(false))?.image;
    let mut new = new.clone();
    let size = *new.size.get_or_insert(source.size());
    if size < source.size() {
        return Err(DiskError::Options(format!(
            "the new disk would have {size} bytes, and '{}' has {}",
            from.path.display(),
            source.size()
        )));
    }
    if new.backing.is_some() {
        return Err(DiskError::Options(
            "a converted image holds everything: it stands on no other".to_owned(),
        ));
    }
    size_of(&new)?;
    let partial = Partial::begin(&new)?;
    write_new(&partial.file, &new, size)?;
    let written = io_error("write", &new.path);
    if new.subformat == Subformat::Compressed {
        let mode = OpenMode { is_writable: true, is_direct: false };
        let file: Arc<dyn Storage> =
            Arc::new(HostFile::open(partial.at(), mode).map_err(io_error("open", &new.path))?);
        qcow2::write_compressed(&file, &*source, told).map_err(written)?;
    } else {
        let plan = OpenPlan {
            is_writable: true,
            // Said, so that whatever is copied does not change how it is taken.
            format: Some(new.format),
            is_guarded: false,
            is_direct: false,
            is_flushed: false,
            is_locked: false,
            backing: None,
            is_alone: false,
        };
        let target = Layer::open(partial.at(), &plan)?.image;
        copy(&*source, told, |offset, bytes| target.write_at(offset, bytes)).map_err(written)?;
        target.flush().map_err(io_error("write", &new.path))?;
        if new.format == Format::Raw {
            // Whatever was left out at the end belongs to the disk.
            partial.file.set_length(size).map_err(io_error("write", &new.path))?;
        }
    }
    let allocated = partial.file.allocated().map_err(io_error("look at", &new.path))?;
    partial.finish()?;
    Ok(Converted { size, allocated })
}
