//! What an image holds, into the one that it stands on.

use std::io;

use super::{Existing, Told, io_error};
use crate::chain::{Layer, OpenPlan};
use crate::error::DiskError;
use crate::image::{Image, Owned};

/// What came of it.
#[derive(Debug, Clone)]
pub struct Committed {
    /// What it stands on, which holds it now.
    pub backing: std::path::PathBuf,
    /// How many bytes were written there.
    pub written: u64,
    /// Whether the image was emptied, to take what is written next.
    pub is_emptied: bool,
}

/// Writes what the image itself holds into its backing file, then empties it, unless `is_kept`.
///
/// Whatever else stands on the same backing file is useless afterwards: it cannot be known here.
///
/// # Errors
/// The image stands on nothing, one of both is in use or cannot be written, or the backing file is smaller and cannot grow.
pub fn commit(image: &Existing, is_kept: bool, told: Told<'_>) -> Result<Committed, DiskError> {
    let below = {
        // Looked at first: both are opened to be written then, the lower one with its own chain.
        let top = Layer::open(&image.path, &image.plan(false))?;
        let Some(below) = top.backing else {
            return Err(DiskError::Options(format!(
                "'{}' stands on no other image: there is nothing to commit it to",
                image.path.display()
            )));
        };
        (below.path, below.format, top.image.size(), below.image.size())
    };
    let (path, format, size, below_size) = below;
    if below_size < size {
        let target = Existing { path: path.clone(), format: Some(format), backing: None };
        super::resize(&target, size, false)?;
    }
    let plan = OpenPlan { format: Some(format), backing: None, ..image.plan(true) };
    let lower = Layer::open(&path, &plan)?;
    if !lower.image.facts().is_writable {
        let text = format!("'{}' cannot be written", path.display());
        return Err(DiskError::Options(text));
    }
    // The upper one is opened over nothing but itself: only what it holds is of interest, and its backing file is locked.
    let written = {
        let top = Layer::open_alone(&image.path, &OpenPlan { format: image.format, ..image.plan(false) })?;
        copy_owned(&*top, &*lower.image, told).map_err(io_error("write", &path))?
    };
    lower.image.flush().map_err(io_error("write", &path))?;
    drop(lower);
    let is_emptied = !is_kept && empty(image).map_err(io_error("empty", &image.path))?;
    Ok(Committed { backing: path, written, is_emptied })
}

/// Copies what `top` itself holds.
fn copy_owned(top: &dyn Image, lower: &dyn Image, told: Told<'_>) -> io::Result<u64> {
    let mut written = 0;
    let mut at = 0;
    let mut bytes = vec![0; 2 << 20];
    while at < top.size() {
        told(at, top.size());
        let (owned, length) = top.owned(at, (top.size() - at).min(1 << 30))?;
        match owned {
            Owned::No => at += length,
            Owned::Zero => {
                lower.write_zeroes(at, length, true)?;
                written += length;
                at += length;
            }
            Owned::Data => {
                // At most the buffer.
                let length = length.min(bytes.len() as u64);
                let part = &mut bytes[..length as usize];
                top.read_at(at, part)?;
                lower.write_at(at, part)?;
                written += length;
                at += length;
            }
        }
    }
    Ok(written)
}

/// Lets the image hold nothing, if its format can.
fn empty(image: &Existing) -> Result<bool, io::Error> {
    let other = |error: DiskError| io::Error::other(error.to_string());
    let top = Layer::open_alone(&image.path, &image.plan(true)).map_err(other)?;
    let is_emptied = top.disown()?;
    top.flush()?;
    // What was freed by the first is given back by the second.
    top.flush()?;
    Ok(is_emptied)
}
