//! Looking into a disk.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::Existing;
use crate::chain::Layer;
use crate::error::DiskError;
use crate::image::Image;

/// What an image holds, with everything that it stands on, to be read.
pub struct Contents(Arc<dyn Image>);

impl Contents {
    /// Opens an image.
    ///
    /// # Errors
    /// It is missing, in use, damaged, or not what it is said to be.
    pub fn open(image: &Existing) -> Result<Self, DiskError> {
        Ok(Self(Layer::open(&image.path, &image.plan(false))?.image))
    }

    /// Bytes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.0.size()
    }

    /// Fills `bytes` with what is at `offset`.
    ///
    /// # Errors
    /// That is beyond the disk's end, or cannot be read.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.size()) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.0.read_at(offset, bytes)
    }
}

impl fmt::Debug for Contents {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("Contents").field(&self.0.size()).finish()
    }
}
