//! What an image holds, into the one that it stands on.
//!
//! What an image holds its guest wrote, who could write what it likes, other formats' headers too. In a raw backing file or a fixed
//! VHD they would be the file's beginning. The image names the format of its backing file, but whoever opens that file alone
//! may not: only a format that the user names here is no matter for the guard (`image/guarded.rs`).

use std::io;
use std::path::Path;

use super::{Existing, Told, io_error};
use crate::chain::{Layer, OpenPlan};
use crate::error::DiskError;
use crate::image::{Disguise, Image, Owned};
use crate::options::Format;

/// How it is done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Committing {
    /// Whether the image is left as it is, instead of being emptied.
    pub is_kept: bool,
    /// What the backing file is, if the user says so. Then it may look like anything afterwards.
    pub backing_format: Option<Format>,
}

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

/// Writes what the image itself holds into its backing file, then empties it, unless it is kept.
///
/// Whatever else stands on the same backing file is useless afterwards: it cannot be known here.
///
/// # Errors
/// The image stands on nothing, one of both is in use or cannot be written, or the backing file is smaller and cannot grow, is
/// not what the user says, or would look like an image in another format, which the user does not allow.
pub fn commit(image: &Existing, how: Committing, told: Told<'_>) -> Result<Committed, DiskError> {
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
    if let Some(said) = how.backing_format.filter(|said| *said != format) {
        return Err(DiskError::Options(format!(
            "'{}' is in format {format} and not {said}, says '{}', which stands on it: leave out the format",
            path.display(),
            image.path.display()
        )));
    }
    if below_size < size {
        let target = Existing { path: path.clone(), format: Some(format), backing: None };
        super::resize(&target, size, false)?;
    }
    let is_guarded = how.backing_format.is_none();
    let plan = OpenPlan { format: Some(format), is_guarded, backing: None, ..image.plan(true) };
    let lower = Layer::open(&path, &plan)?;
    if !lower.image.facts().is_writable {
        let text = format!("'{}' cannot be written", path.display());
        return Err(DiskError::Options(text));
    }
    // The upper one is opened over nothing but itself: only what it holds is of interest, and its backing file is locked.
    let written = {
        let top = Layer::open_alone(&image.path, &OpenPlan { format: image.format, ..image.plan(false) })?;
        copy_owned(&*top, &*lower.image, told).map_err(|error| refused(image, &path, error))?
    };
    lower.image.flush().map_err(io_error("write", &path))?;
    drop(lower);
    let is_emptied = !how.is_kept && empty(image).map_err(io_error("empty", &image.path))?;
    Ok(Committed { backing: path, written, is_emptied })
}

/// Why the backing file at `path` was not written.
fn refused(image: &Existing, path: &Path, error: io::Error) -> DiskError {
    let disguise = error.get_ref().and_then(|error| error.downcast_ref::<Disguise>());
    let Some(Disguise { own, found }) = disguise else { return io_error("write", path)(error) };
    DiskError::Options(format!(
        "'{}' would let the {own} image that it stands on, '{}', look like {found} to whoever opens that without a format, and show \
         other files to a guest that wrote this to the beginning of its disk. If it should be so, allow it with --backing-format \
         {own}, and use that file with format={own} only",
        image.path.display(),
        path.display()
    ))
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
