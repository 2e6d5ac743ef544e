//! What an image format is to the rest: an [`Image`], which says where bytes are and does what needs more than a transfer.
//!
//! ```text
//! raw.rs        the disk's bytes and nothing else
//! guarded.rs    a raw image that nobody said was raw
//! joined.rs     images one after the other
//! mapped/       images whose blocks are anywhere in the file
//! overlay.rs    a layer for what is written, gone with the machine
//! ```

mod guarded;
mod joined;
pub(crate) mod mapped;
#[cfg(test)]
pub(crate) mod model;
mod overlay;
mod raw;

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use crate::disk::RangeLimits;
use crate::memory::{Source, Target};
use crate::storage::Storage;

pub(crate) use guarded::{Disguise, Guarded};
pub(crate) use joined::Joined;
pub(crate) use overlay::overlay;
pub(crate) use raw::Raw;

/// What a place is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// To be read.
    Read,
    /// To be overwritten.
    Write,
}

/// Where bytes of an image are.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// In a file, at this offset, and may be read (or overwritten, if that was asked for) there.
    Stored(Arc<dyn Storage>, u64),
    /// Nowhere: they read as zeros. Never the answer for [`Access::Write`].
    Zero,
    /// It takes more than a transfer: [`Image::read`] or [`Image::write`].
    Elsewhere,
}

/// Keeps what a [`Run`] points to from being used for something else. Let go when the transfer is over.
pub(crate) type Hold = Arc<()>;

/// A stretch of an image whose bytes are at one place.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// Where.
    pub place: Place,
    /// Bytes: at least 1, at most what was asked for.
    pub length: u64,
    /// To be kept until the transfer is over.
    pub hold: Option<Hold>,
}

/// What a flush takes.
#[derive(Debug, Clone)]
pub(crate) enum FlushWay {
    /// Nothing: there is nothing to lose, or the user does not mind.
    Nothing,
    /// No more than [`Storage::sync`] on this.
    Sync(Arc<dyn Storage>),
    /// [`Image::flush`].
    Slow,
}

/// What an image holds itself, without what it stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owned {
    /// Nothing: what it stands on shows.
    No,
    /// Zeros.
    Zero,
    /// Data.
    Data,
}

/// What is told of an image to guests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// Whether it may be written.
    pub is_writable: bool,
    /// The logical block in bytes, a power of two from 512.
    pub block_size: u32,
    /// See [`crate::Disk::optimal_size`].
    pub optimal_size: u32,
    /// What discarding takes, if it does anything.
    pub discard: Option<RangeLimits>,
    /// What writing zeros takes, if it is more than writing.
    pub write_zeroes: Option<RangeLimits>,
}

/// An open image. Requests are within its size. All methods may block, and may be called from several threads.
pub(crate) trait Image: Debug + Send + Sync {
    /// Bytes.
    fn size(&self) -> u64;

    /// What can be done with it.
    fn facts(&self) -> Facts;

    /// Where the bytes from `offset` on are, at most `length` (not 0) of them.
    fn locate(&self, offset: u64, length: u64, access: Access) -> io::Result<Run>;

    /// Reads whatever [`Self::locate`] calls `Elsewhere`: all of `target`, from `offset`.
    fn read_elsewhere(&self, offset: u64, target: &Target<'_>) -> io::Result<()>;

    /// Writes all of `source` at `offset`.
    fn write(&self, offset: u64, source: &Source<'_>) -> io::Result<()>;

    /// Lets the range read as zeros.
    fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> io::Result<()>;

    /// Lets the range read as anything, to save space.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;

    /// What the image holds itself at `offset`, and for how many of at most `length` bytes.
    fn owned(&self, offset: u64, length: u64) -> io::Result<(Owned, u64)> {
        Ok((Owned::Data, length.min(self.size().saturating_sub(offset))))
    }

    /// Lets the image hold nothing itself. `false` if its format cannot.
    fn disown(&self) -> io::Result<bool> {
        Ok(false)
    }

    /// Makes all that was written survive a crash of the host.
    fn flush(&self) -> io::Result<()>;

    /// What [`Self::flush`] would take now.
    fn flush_way(&self) -> FlushWay;

    /// Fills `target` from `offset`.
    fn read(&self, offset: u64, target: &Target<'_>) -> io::Result<()> {
        let mut done = 0;
        while done < target.len() {
            let (at, left) = (offset + done as u64, target.len() - done);
            let run = self.locate(at, left as u64, Access::Read)?;
            let length = usize::try_from(run.length).unwrap_or(left).min(left);
            let part = target.slice(done, length);
            match &run.place {
                Place::Stored(storage, place) => storage.read(&part, *place)?,
                Place::Zero => part.zero(),
                Place::Elsewhere => self.read_elsewhere(at, &part)?,
            }
            done += length;
        }
        Ok(())
    }

    /// As [`Self::read`], into this program's own memory.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.read(offset, &Target::of(bytes))
    }

    /// Writes `bytes` at `offset`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write(offset, &Source::of(bytes))
    }
}
