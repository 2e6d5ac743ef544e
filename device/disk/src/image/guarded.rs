//! An image that begins with the guest's own bytes, and no user said what it is: a raw one, or a fixed VHD. The guest may write
//! whatever it likes, but not what would make it be recognised as something else next time.

use std::io;
use std::sync::Arc;

use super::{Access, Facts, FlushWay, Image, Place, Run};
use crate::memory::{Source, Target};
use crate::options::Format;
use crate::probe::{self, HEAD, TAIL};

/// Why something is not written: the image would be taken for another next time.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error(
    "this would let the {own} image look like another, in {found}; give the disk with format={own} to allow it"
)]
pub(crate) struct Disguise {
    /// What the image is.
    pub own: Format,
    /// What it would look like.
    pub found: Format,
}

/// An image that stays what it is.
#[derive(Debug)]
pub(crate) struct Guarded {
    inner: Arc<dyn Image>,
    format: Format,
    /// Where the bytes begin that decide at the end of the file, if they do.
    tail: Option<u64>,
}

impl Guarded {
    /// Guards the beginning of `inner`, an image in `format` whose file begins with the disk, and the disk's end if
    /// `is_end_looked_at`.
    pub(crate) fn new(inner: Arc<dyn Image>, format: Format, is_end_looked_at: bool) -> Self {
        let tail = is_end_looked_at.then(|| inner.size().saturating_sub(TAIL as u64));
        Self { inner, format, tail }
    }

    /// How many bytes from `offset` on are not guarded; 0 if it is.
    fn unguarded(&self, offset: u64) -> u64 {
        match self.tail {
            _ if offset < HEAD as u64 => 0,
            Some(tail) => tail.saturating_sub(offset),
            None => u64::MAX,
        }
    }

    /// Writes what is within one guarded or unguarded stretch. The bytes are copied first, so that what was looked at is
    /// what is written.
    fn write_guarded(&self, offset: u64, source: &Source<'_>) -> io::Result<()> {
        let bytes = source.to_vec();
        if offset < HEAD as u64 {
            let mut head = [0; HEAD];
            self.inner.read_at(0, &mut head[..HEAD.min(usize::try_from(self.size()).unwrap_or(HEAD))])?;
            let start = usize::try_from(offset).unwrap_or(HEAD);
            for (old, new) in head[start..].iter_mut().zip(&bytes) {
                *old = *new;
            }
            self.refuse_unless_raw(probe::recognise_head(&head))?;
        }
        if self.tail == Some(offset) {
            self.refuse_unless_raw(probe::recognise_tail(&bytes))?;
        }
        self.inner.write(offset, &Source::of(&bytes))
    }

    fn refuse_unless_raw(&self, found: Format) -> io::Result<()> {
        if found == Format::Raw {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::PermissionDenied, Disguise { own: self.format, found }))
    }
}

impl Image for Guarded {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn facts(&self) -> Facts {
        self.inner.facts()
    }

    fn locate(&self, offset: u64, length: u64, access: Access) -> io::Result<Run> {
        let run = self.inner.locate(offset, length, access)?;
        match (access, self.unguarded(offset)) {
            (Access::Read, _) => Ok(run),
            (Access::Write, 0) => Ok(Run { place: Place::Elsewhere, ..run }),
            (Access::Write, free) => Ok(Run { length: run.length.min(free), ..run }),
        }
    }

    fn read_elsewhere(&self, offset: u64, target: &Target<'_>) -> io::Result<()> {
        self.inner.read_elsewhere(offset, target)
    }

    fn write(&self, offset: u64, source: &Source<'_>) -> io::Result<()> {
        let mut done = 0;
        while done < source.len() {
            let (at, left) = (offset + done as u64, source.len() - done);
            let free = self.unguarded(at);
            if free > 0 {
                let length = usize::try_from(free).unwrap_or(left).min(left);
                self.inner.write(at, &source.slice(done, length))?;
                done += length;
            } else {
                // To the end of the head, or of the disk.
                let length = if at < HEAD as u64 { left.min(HEAD) } else { left };
                let length = length.min(TAIL.max(HEAD));
                self.write_guarded(at, &source.slice(done, length))?;
                done += length;
            }
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64, may_unmap: bool) -> io::Result<()> {
        // Nothing is recognised by zeros.
        self.inner.write_zeroes(offset, length, may_unmap)
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.inner.discard(offset, length)
    }

    fn flush(&self) -> io::Result<()> {
        self.inner.flush()
    }

    fn flush_way(&self) -> FlushWay {
        self.inner.flush_way()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Raw;
    use crate::storage::memory::MemoryStorage;

    fn disk(is_end_looked_at: bool) -> Guarded {
        let raw = Raw::new(Arc::new(MemoryStorage::new(vec![0; 8192])), 0, 8192, true, true);
        Guarded::new(Arc::new(raw), Format::Raw, is_end_looked_at)
    }

    #[test]
    fn a_guest_cannot_turn_its_disk_into_another_format() {
        let disk = disk(false);
        let image: &dyn Image = &disk;
        for magic in [&b"QFI\xfb\0\0\0\x03"[..], b"KDMV", b"vhdxfile", b"# Disk DescriptorFile\n"] {
            let mut sector = vec![0; 1024];
            sector[..magic.len()].copy_from_slice(magic);
            let error = image.write_at(0, &sector).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            image.write_at(512, &sector).unwrap();
        }
    }

    #[test]
    fn everything_else_is_written_as_it_is() {
        for is_end_looked_at in [false, true] {
            let disk = disk(is_end_looked_at);
            let image: &dyn Image = &disk;
            let bytes: Vec<u8> = (0..8192_u32).map(|n| (n / 7) as u8).collect();
            image.write_at(0, &bytes).unwrap();
            let mut found = vec![0; 8192];
            image.read_at(0, &mut found).unwrap();
            assert!(found == bytes);
        }
    }

    #[test]
    fn a_file_called_vhd_cannot_become_one_by_its_end() {
        let disk = disk(true);
        let image: &dyn Image = &disk;
        let mut sector = vec![0; 1024];
        sector[512..520].copy_from_slice(b"conectix");
        assert!(image.write_at(7168, &sector).is_err());
        image.write_at(4096, &sector).unwrap();
    }
}
