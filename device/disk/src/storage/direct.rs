//! What open(2) demands under `O_DIRECT`: offsets, lengths and addresses that are multiples of the device's block. What is not
//! goes through aligned memory of our own, and what is not even whole blocks is read before it is written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, PoisonError};

use super::file::HostFile;
use crate::memory::{Source, Target};

/// Any device's DMA is content with this, in bytes.
const MEMORY: usize = 4096;

/// The most that is copied at a time, in bytes.
const MOST: usize = 1 << 20;

/// A file's demands.
#[derive(Debug)]
pub(super) struct Direct {
    block: u32,
    /// Whoever writes less than whole blocks reads them before, and has this meanwhile.
    partial: Mutex<()>,
}

impl Direct {
    /// Finds them out by trying.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        for block in [512_u32, 4096] {
            let mut memory = Aligned::new(block as usize);
            match file.read_at(memory.bytes(), u64::from(block)) {
                Ok(_) => return Ok(Self { block, partial: Mutex::new(()) }),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::new(io::ErrorKind::Unsupported, "direct access works on no block size"))
    }

    /// Bytes.
    pub(super) fn block(&self) -> u32 {
        self.block
    }

    fn is_aligned(&self, pieces: &[crate::Buffer], offset: u64) -> bool {
        let block = self.block as usize;
        let fits = |number: usize| number.is_multiple_of(block);
        offset.is_multiple_of(u64::from(self.block))
            && pieces.iter().all(|piece| fits(piece.start().addr()) && fits(piece.length()))
    }

    pub(super) fn read(&self, file: &HostFile, target: &Target<'_>, offset: u64) -> io::Result<()> {
        if self.is_aligned(target.buffers(), offset) {
            return file.read_plainly(target, offset);
        }
        self.by_blocks(offset, target.len(), |at, skip, start, part, memory| {
            file.read_plainly(&Target::of(memory), at)?;
            target.slice(start, part).copy_from(&memory[skip..skip + part]);
            Ok(())
        })
    }

    pub(super) fn write(&self, file: &HostFile, source: &Source<'_>, offset: u64) -> io::Result<()> {
        if self.is_aligned(source.buffers(), offset) {
            return file.write_plainly(source, offset);
        }
        self.by_blocks(offset, source.len(), |at, skip, start, part, memory| {
            let is_whole = skip == 0 && part == memory.len();
            let _one_at_a_time =
                (!is_whole).then(|| self.partial.lock().unwrap_or_else(PoisonError::into_inner));
            if !is_whole {
                file.read_plainly(&Target::of(memory), at)?;
            }
            source.slice(start, part).copy_to(&mut memory[skip..skip + part]);
            file.write_plainly(&Source::of(memory), at)
        })
    }

    /// Cuts the range into parts and hands each to `transfer`: where its blocks begin in the file, where the part begins in them
    /// and in the range, its length, and aligned memory as large as its blocks.
    fn by_blocks(
        &self,
        offset: u64,
        length: usize,
        mut transfer: impl FnMut(u64, usize, usize, usize, &mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let block = self.block as usize;
        let mut memory = Aligned::new(MOST.min(length.next_multiple_of(block) + block));
        let mut start = 0;
        while start < length {
            let position = offset + start as u64;
            let at = position / block as u64 * block as u64;
            let skip = usize::try_from(position - at).unwrap_or(0);
            let part = (length - start).min(memory.length - skip);
            let blocks = (skip + part).next_multiple_of(block);
            transfer(at, skip, start, part, &mut memory.bytes()[..blocks])?;
            start += part;
        }
        Ok(())
    }
}

/// Memory that begins at a multiple of [`MEMORY`].
struct Aligned {
    bytes: Vec<u8>,
    start: usize,
    length: usize,
}

impl Aligned {
    fn new(length: usize) -> Self {
        let bytes = vec![0; length + MEMORY];
        let start = bytes.as_ptr().addr().next_multiple_of(MEMORY) - bytes.as_ptr().addr();
        Self { bytes, start, length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.length]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Storage as _;
    use super::super::file::OpenMode;
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

        #[test]
        fn any_range_is_read_and_written_around_the_cache(
            writes in proptest::collection::vec((0..10_000_u64, 1..5000_usize, any::<u8>()), 1..20)
        ) {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("file");
            std::fs::write(&path, []).unwrap();
            let Ok(file) = HostFile::open(&path, OpenMode { is_writable: true, is_direct: true }) else {
                // A file system that knows no direct access.
                return Ok(());
            };
            let mut model = vec![0; 16_384];
            for (offset, length, byte) in writes {
                file.write(&Source::of(&vec![byte; length]), offset).unwrap();
                let start = usize::try_from(offset).unwrap();
                model[start..start + length].fill(byte);
                let mut found = vec![1; length + 7];
                file.read(&Target::of(&mut found), offset).unwrap();
                prop_assert_eq!(&found, &model[start..start + length + 7]);
            }
            let mut found = vec![1; model.len()];
            file.read(&Target::of(&mut found), 0).unwrap();
            prop_assert_eq!(found, model);
        }
    }
}
