//! The contents of one image into another: what is zeros, or a hole, is left out.

use std::io;
use std::sync::Mutex;
use std::sync::mpsc::sync_channel;
use std::thread;

use crate::image::{Access, Image, Place};
use crate::tool::Told;

/// What is read at a time, in bytes.
const PIECE: u64 = 2 << 20;
/// What may be zeros and be left out, in bytes.
const BLOCK: usize = 4096;
/// Pieces that were read and not yet written.
const AHEAD: usize = 4;

/// A stretch of an image that may hold something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub offset: u64,
    pub length: u64,
    /// Whether it reads as zeros, for sure.
    pub is_zero: bool,
}

/// What is at `offset`, at most `most` bytes of it.
pub(super) fn piece_at(image: &dyn Image, offset: u64, most: u64) -> io::Result<Piece> {
    let run = image.locate(offset, most, Access::Read)?;
    Ok(match run.place {
        Place::Zero => Piece { offset, length: run.length, is_zero: true },
        Place::Elsewhere => Piece { offset, length: run.length, is_zero: false },
        Place::Stored(storage, place) => {
            let stretch = storage.stretch(place, run.length)?;
            Piece { offset, length: stretch.length.min(run.length), is_zero: !stretch.is_data }
        }
    })
}

/// Reads `from` and gives every stretch that is not zeros to `write`, with its offset, in order. One thread reads, another writes.
pub(super) fn copy(
    from: &dyn Image,
    told: Told<'_>,
    mut write: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let size = from.size();
    let (sender, receiver) = sync_channel::<(u64, Vec<u8>)>(AHEAD);
    let failure: Mutex<io::Result<()>> = Mutex::new(Ok(()));
    let told = Mutex::new(told);
    thread::scope(|scope| {
        scope.spawn(|| {
            let sender = sender;
            let result = read_pieces(from, |offset, bytes| {
                let mut told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                told(offset, size);
                drop(told);
                // Whoever does not listen any more has failed, and tells why.
                bytes.is_none_or(|bytes| sender.send((offset, bytes)).is_ok())
            });
            *failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = result;
        });
        // Moved in, so that the reader notices when this ends early.
        let receiver = receiver;
        for (offset, bytes) in receiver.iter() {
            for (start, length) in parts_with_data(&bytes) {
                write(offset + start as u64, &bytes[start..start + length])?;
            }
        }
        Ok(())
    })
    .and(failure.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner))
}

/// Reads what is not zeros for sure; `take` gets `None` for what is, and says whether to go on.
fn read_pieces(from: &dyn Image, mut take: impl FnMut(u64, Option<Vec<u8>>) -> bool) -> io::Result<()> {
    let mut offset = 0;
    while offset < from.size() {
        let most = from.size() - offset;
        let mut piece = piece_at(from, offset, most.min(1 << 40))?;
        if !piece.is_zero {
            // As much as is data in one go, so that a fragmented image is not read in fragments; pieces end at multiples.
            piece.length = (PIECE - offset % PIECE).min(most).min(piece.length.max(PIECE - offset % PIECE));
        }
        let bytes = if piece.is_zero {
            None
        } else {
            // At most PIECE.
            let mut bytes = vec![0; piece.length as usize];
            from.read_at(offset, &mut bytes)?;
            Some(bytes)
        };
        if !take(offset, bytes) {
            return Ok(());
        }
        offset += piece.length;
    }
    Ok(())
}

/// The parts of `bytes` that are not zeros, by start and length.
fn parts_with_data(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for (index, block) in bytes.chunks(BLOCK).enumerate() {
        if is_zero(block) {
            continue;
        }
        match parts.last_mut() {
            Some((start, length)) if *start + *length == index * BLOCK => *length += block.len(),
            _ => parts.push((index * BLOCK, block.len())),
        }
    }
    parts
}

/// Whether all bytes are zeros.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    // Sixteen at a time, which the compiler makes fast.
    let (words, rest) = bytes.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::image::Raw;
    use crate::storage::memory::MemoryStorage;

    #[test]
    fn zeros_are_left_out_and_everything_else_comes() {
        let mut bytes = vec![0; 5 << 20];
        for (start, end) in [(0, 1), (4095, 8193), (2_000_000, 3_500_000), (5_242_879, 5_242_880)] {
            bytes[start..end].fill(7);
        }
        let size = bytes.len() as u64;
        let image = Raw::new(Arc::new(MemoryStorage::new(bytes.clone())), 0, size, false, false);
        let mut found = vec![0; bytes.len()];
        let mut written = 0;
        copy(&image, &mut |_, _| {}, |offset, part| {
            let start = usize::try_from(offset).unwrap();
            found[start..start + part.len()].copy_from_slice(part);
            written += part.len();
            Ok(())
        })
        .unwrap();
        assert!(found == bytes);
        assert!(written < 1_600_000, "{written}");
    }

    #[test]
    fn a_failure_to_write_ends_it() {
        let image = Raw::new(Arc::new(MemoryStorage::new(vec![1; 64 << 20])), 0, 64 << 20, false, false);
        let error = copy(&image, &mut |_, _| {}, |_, _| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
}
