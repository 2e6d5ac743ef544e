//! From any image to a new one.

use std::sync::Arc;

use super::copy::copy;
use super::create::{Partial, size_of, write_new};
use super::{Existing, NewImage, Subformat, Told, io_error};
use crate::chain::{Layer, OpenPlan};
use crate::error::DiskError;
use crate::image::Image;
use crate::options::Format;
use crate::probe;
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
/// `from` cannot be read, or the new image not be written, or it would look like one in another format, which is not allowed. Then
/// there is none.
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
    refuse_disguise(from, &*source, &new)?;
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

/// Refuses a disk whose guest wrote another format's header into its first bytes, if the new image begins with these: at its next
/// start it would be taken for that, and show other files of the host.
fn refuse_disguise(from: &Existing, source: &dyn Image, new: &NewImage) -> Result<(), DiskError> {
    let begins_with_disk = new.format == Format::Raw || new.subformat == Subformat::Fixed;
    if new.may_look_different || !begins_with_disk {
        return Ok(());
    }
    let mut head = [0; probe::HEAD];
    let length = source.size().min(head.len() as u64) as usize;
    source.read_at(0, &mut head[..length]).map_err(io_error("read disk image", &from.path))?;
    let found = probe::recognise_head(&head);
    if found == Format::Raw {
        return Ok(());
    }
    let format = new.format;
    Err(DiskError::Options(format!(
        "'{}' would look like {found} to whoever opens it without a format, and show other files to a guest that wrote this to the \
         beginning of its disk, '{}'. If it should be so, allow it with --format {format}, and use that file with format={format} \
         only. Or convert to another format, such as qcow2",
        new.path.display(),
        from.path.display()
    )))
}
