//! Storage as it would be if a log were carried out, for those who may not write it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::{Storage, Stretch};
use crate::memory::{Source, Target};

/// Storage with some of its bytes replaced.
#[derive(Debug)]
pub(crate) struct Patched {
    below: Arc<dyn Storage>,
    /// Stretches that are zeros, by offset and length.
    zeros: Vec<(u64, u64)>,
    /// Pieces, which do not overlap, over all that.
    pieces: BTreeMap<u64, Vec<u8>>,
    length: u64,
}

impl Patched {
    /// `below` with zeros, and pieces over them, at least `length` bytes long. Pieces do not overlap.
    pub(crate) fn new(
        below: Arc<dyn Storage>,
        zeros: Vec<(u64, u64)>,
        pieces: BTreeMap<u64, Vec<u8>>,
        length: u64,
    ) -> io::Result<Self> {
        let length = below.length()?.max(length);
        Ok(Self { below, zeros, pieces, length })
    }
}

/// The part of `from..from + length` that is within `offset..offset + size`: where it begins in the latter, and its length.
fn overlap(from: u64, length: u64, offset: u64, size: u64) -> Option<(u64, u64)> {
    let start = from.max(offset);
    let end = from.saturating_add(length).min(offset + size);
    (start < end).then(|| (start - offset, end - start))
}

impl Storage for Patched {
    fn length(&self) -> io::Result<u64> {
        Ok(self.length)
    }

    fn read(&self, target: &Target<'_>, offset: u64) -> io::Result<()> {
        self.below.read(target, offset)?;
        let size = target.len() as u64;
        // All parts are within the target, whose length is a usize.
        for (from, length) in &self.zeros {
            if let Some((start, length)) = overlap(*from, *length, offset, size) {
                target.slice(start as usize, length as usize).zero();
            }
        }
        for (from, piece) in self.pieces.range(..offset + size) {
            if let Some((start, length)) = overlap(*from, piece.len() as u64, offset, size) {
                let skip = (offset + start - from) as usize;
                target.slice(start as usize, length as usize).copy_from(&piece[skip..]);
            }
        }
        Ok(())
    }

    fn write(&self, _source: &Source<'_>, _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_length(&self, _length: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn zero(&self, _offset: u64, _length: u64, _may_unmap: bool) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn discard(&self, _offset: u64, _length: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn stretch(&self, _offset: u64, length: u64) -> io::Result<Stretch> {
        Ok(Stretch { is_data: true, length })
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryStorage;
    use super::*;

    #[test]
    fn pieces_cover_zeros_and_zeros_what_is_below() {
        let below = Arc::new(MemoryStorage::new(vec![1; 100]));
        let pieces = BTreeMap::from([(20, vec![2; 10]), (95, vec![3; 10])]);
        let patched = Patched::new(below, vec![(10, 30)], pieces, 110).unwrap();
        let mut bytes = [9; 110];
        patched.read_at(&mut bytes, 0).unwrap();
        let expected: Vec<u8> = [(1, 10), (0, 10), (2, 10), (0, 10), (1, 55), (3, 10), (0, 5)]
            .into_iter()
            .flat_map(|(byte, count)| vec![byte; count])
            .collect();
        assert_eq!(bytes.to_vec(), expected);
        let mut part = [9; 7];
        patched.read_at(&mut part, 26).unwrap();
        assert_eq!(part, [2, 2, 2, 2, 0, 0, 0]);
        assert!(patched.write_at(&[0], 0).is_err());
    }
}
