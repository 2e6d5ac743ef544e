//! More or less room.

use std::sync::Arc;

use super::{Existing, io_error};
use crate::chain::{Layer, open_file, size_of_raw};
use crate::error::DiskError;
use crate::options::Format;
use crate::probe;
use crate::qcow2;
use crate::storage::{HostFile, Storage};

/// Gives the disk `size` bytes. What is cut off is lost; that must be allowed by `may_shrink`. Returns the size before.
///
/// # Errors
/// The image is in use, or its format or what it holds does not allow that.
pub fn resize(image: &Existing, size: u64, may_shrink: bool) -> Result<u64, DiskError> {
    let path = &image.path;
    if !size.is_multiple_of(512) {
        let text = format!("a disk has a whole number of sectors of 512 bytes, and {size} bytes are none");
        return Err(DiskError::Options(text));
    }
    let plan = image.plan(true);
    let file = Arc::new(open_file(path, &plan)?);
    let format = match image.format {
        Some(format) => format,
        None => probe::probe(&*file, path).map_err(io_error("read disk image", path))?,
    };
    let before = match format {
        Format::Raw => size_of_raw(&file).map_err(io_error("look at disk image", path))?,
        Format::Qcow2 => qcow2::read_header(&*file).map_err(|fault| fault.of(path, format))?.size,
        Format::Vmdk | Format::Vhd | Format::Vhdx => {
            return Err(DiskError::Unsupported {
                path: path.clone(),
                format,
                problem: format!(
                    "cannot be resized in place: `tern image convert --size SIZE {} NEW` makes a larger copy",
                    path.display()
                ),
            });
        }
    };
    if size < before && !may_shrink {
        return Err(DiskError::Options(format!(
            "'{}' has {before} bytes, and would lose what is beyond {size}: shrink the file systems in it first, then add --shrink",
            path.display()
        )));
    }
    if size == before {
        return Ok(before);
    }
    match format {
        Format::Raw => resize_raw(&file, size).map_err(io_error("resize", path))?,
        _ => {
            // Opened anew, with what it stands on: that may show where the disk grows.
            drop(file);
            resize_qcow2(image, size)?;
        }
    }
    Ok(before)
}

fn resize_raw(file: &HostFile, size: u64) -> std::io::Result<()> {
    if file.is_device() {
        let text = "a block device has the size that it has";
        return Err(std::io::Error::new(std::io::ErrorKind::Unsupported, text));
    }
    file.set_length(size)?;
    file.sync()
}

fn resize_qcow2(image: &Existing, size: u64) -> Result<(), DiskError> {
    let path = &image.path;
    let wrong = |fault: crate::error::Fault| fault.of(path, Format::Qcow2);
    let layer = Layer::open(path, &image.plan(true))?;
    let below = layer.backing.as_ref().map_or(0, |backing| backing.image.size());
    // Closed again: what is changed are the file's tables.
    let Layer { file, image: open, backing, .. } = layer;
    drop(open);
    let storage: Arc<dyn Storage> = Arc::clone(&file) as _;
    let header = qcow2::read_header(&*storage).map_err(wrong)?;
    let backing = backing.map(|layer| layer.image);
    if size < header.size {
        qcow2::shrink(&storage, &header, backing, size).map_err(wrong)
    } else {
        qcow2::grow(&storage, &header, backing, below, size).map_err(wrong)
    }
}
