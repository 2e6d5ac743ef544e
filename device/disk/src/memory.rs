//! Where bytes come from and go to: guest memory or this program's own, in pieces, as [`Source`] and [`Target`].
//!
//! All duties of [`crate::Lane::submit`]'s caller end up here: a `Source` or `Target` is a promise that its pieces may be
//! accessed, so that everything that handles them is safe code. Guest memory changes while it is read; it is copied by
//! `vm-memory`'s volatile accesses, and nothing is ever looked at twice.

#![allow(unsafe_code)]

use std::fmt;
use std::marker::PhantomData;

use vm_memory::{Bytes as _, VolatileSlice};

use crate::request::Buffer;

/// Pieces of memory, one after the other.
#[derive(Clone, Default)]
struct Pieces {
    buffers: Vec<Buffer>,
    length: usize,
}

impl Pieces {
    fn new(buffers: Vec<Buffer>) -> Self {
        let length = length_of(&buffers).unwrap_or(usize::MAX);
        Self { buffers, length }
    }

    /// `length` bytes from `start`; less if there are less.
    fn slice(&self, start: usize, length: usize) -> Self {
        let mut buffers = Vec::with_capacity(self.buffers.len());
        let (mut skip, mut left) = (start, length);
        for buffer in &self.buffers {
            if left == 0 {
                break;
            }
            if skip >= buffer.length() {
                skip -= buffer.length();
                continue;
            }
            let part = left.min(buffer.length() - skip);
            buffers.push(Buffer::new(buffer.start().wrapping_add(skip), part));
            (skip, left) = (0, left - part);
        }
        Self::new(buffers)
    }

    /// Each piece as a slice for volatile access.
    ///
    /// # Safety
    /// The pieces may be accessed, and be written if the slices are.
    unsafe fn volatile(&self) -> impl Iterator<Item = VolatileSlice<'_>> {
        let pieces = self.buffers.iter().filter(|buffer| buffer.length() > 0);
        // SAFETY: the caller's promise.
        pieces.map(|buffer| unsafe { VolatileSlice::new(buffer.start(), buffer.length()) })
    }
}

/// How many bytes the buffers hold, or `None` if that is more than there is memory.
pub(crate) fn length_of(buffers: &[Buffer]) -> Option<usize> {
    buffers.iter().try_fold(0_usize, |sum, buffer| sum.checked_add(buffer.length()))
}

/// Memory that may be written.
#[derive(Clone)]
pub(crate) struct Target<'a> {
    pieces: Pieces,
    of: PhantomData<&'a mut [u8]>,
}

impl<'a> Target<'a> {
    /// # Safety
    /// The buffers may be written as long as this and its parts live, and nobody has Rust references into them.
    pub(crate) unsafe fn new(buffers: Vec<Buffer>) -> Self {
        Self { pieces: Pieces::new(buffers), of: PhantomData }
    }

    /// This program's own memory.
    pub(crate) fn of(bytes: &'a mut [u8]) -> Self {
        Self { pieces: Pieces::new(vec![Buffer::new(bytes.as_mut_ptr(), bytes.len())]), of: PhantomData }
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.pieces.length
    }

    /// The pieces, as readv(2) takes them.
    pub(crate) fn buffers(&self) -> &[Buffer] {
        &self.pieces.buffers
    }

    /// The pieces alone.
    pub(crate) fn into_buffers(self) -> Vec<Buffer> {
        self.pieces.buffers
    }

    /// `length` bytes from `start`; less if there are less.
    pub(crate) fn slice(&self, start: usize, length: usize) -> Target<'_> {
        Target { pieces: self.pieces.slice(start, length), of: PhantomData }
    }

    /// Puts `bytes` at the beginning, as far as they fit.
    pub(crate) fn copy_from(&self, mut bytes: &[u8]) {
        // SAFETY: what `new` was promised, or `of` borrowed.
        for piece in unsafe { self.pieces.volatile() } {
            let part = bytes.len().min(piece.len());
            // The slice is as long as what is written.
            let _ = piece.write_slice(&bytes[..part], 0);
            bytes = &bytes[part..];
        }
    }

    /// Puts zeros everywhere.
    pub(crate) fn zero(&self) {
        // SAFETY: what `new` was promised, or `of` borrowed.
        for piece in unsafe { self.pieces.volatile() } {
            const ZEROS: [u8; 4096] = [0; 4096];
            for start in (0..piece.len()).step_by(ZEROS.len()) {
                let part = ZEROS.len().min(piece.len() - start);
                let _ = piece.write_slice(&ZEROS[..part], start);
            }
        }
    }
}

impl fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({} bytes)", self.len())
    }
}

/// Memory that may be read.
#[derive(Clone)]
pub(crate) struct Source<'a> {
    pieces: Pieces,
    of: PhantomData<&'a [u8]>,
}

impl<'a> Source<'a> {
    /// # Safety
    /// The buffers may be read as long as this and its parts live, and nobody has a unique Rust reference into them.
    pub(crate) unsafe fn new(buffers: Vec<Buffer>) -> Self {
        Self { pieces: Pieces::new(buffers), of: PhantomData }
    }

    /// This program's own memory.
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Self {
            pieces: Pieces::new(vec![Buffer::new(bytes.as_ptr().cast_mut(), bytes.len())]),
            of: PhantomData,
        }
    }

    /// Bytes.
    pub(crate) fn len(&self) -> usize {
        self.pieces.length
    }

    /// The pieces, as writev(2) takes them.
    pub(crate) fn buffers(&self) -> &[Buffer] {
        &self.pieces.buffers
    }

    /// The pieces alone.
    pub(crate) fn into_buffers(self) -> Vec<Buffer> {
        self.pieces.buffers
    }

    /// `length` bytes from `start`; less if there are less.
    pub(crate) fn slice(&self, start: usize, length: usize) -> Source<'_> {
        Source { pieces: self.pieces.slice(start, length), of: PhantomData }
    }

    /// This between two others.
    pub(crate) fn between<'b>(&'b self, head: &'b [u8], tail: &'b [u8]) -> Source<'b> {
        let (head, tail) = (Source::of(head), Source::of(tail));
        let parts = [head.buffers(), self.buffers(), tail.buffers()].concat();
        let parts = parts.into_iter().filter(|buffer| buffer.length() > 0);
        Source { pieces: Pieces::new(parts.collect()), of: PhantomData }
    }

    /// Copies the beginning, as far as there is room and something to copy.
    pub(crate) fn copy_to(&self, mut bytes: &mut [u8]) {
        // SAFETY: what `new` was promised, or `of` borrowed; the slices are only read.
        for piece in unsafe { self.pieces.volatile() } {
            let part = bytes.len().min(piece.len());
            let (now, later) = bytes.split_at_mut(part);
            // The slice is as long as what is read.
            let _ = piece.read_slice(now, 0);
            bytes = later;
        }
    }

    /// A copy that stays as it is.
    pub(crate) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        self.copy_to(&mut bytes);
        bytes
    }
}

impl fmt::Debug for Source<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Source({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cut_across_pieces() {
        let bytes: Vec<u8> = (0..100).collect();
        let (one, two) = bytes.split_at(33);
        let source = Source::of(one);
        let source = source.between(&[], two);
        assert_eq!(source.len(), 100);
        for (start, length) in [(0, 100), (0, 0), (32, 2), (33, 1), (99, 1), (100, 5), (90, 50)] {
            let end = (start + length).min(100);
            assert_eq!(source.slice(start, length).to_vec(), bytes[start..end], "{start} {length}");
        }
    }

    #[test]
    fn targets_take_what_fits() {
        let mut bytes = [9; 10_000];
        let target = Target::of(&mut bytes);
        target.zero();
        target.slice(3, 4).copy_from(&[1, 2, 3, 4, 5]);
        assert_eq!(bytes[..8], [0, 0, 0, 1, 2, 3, 4, 0]);
        assert!(bytes[8..].iter().all(|byte| *byte == 0));
    }
}
