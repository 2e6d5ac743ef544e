//! What a state-saving instruction writes to memory: a few pieces of one area.

use core::ops::Range;

use super::XSAVE_AREA_SIZE;

/// The most pieces that any instruction writes: x87 control, MXCSR, x87 registers, XMM registers, XSAVE header, YMM.
const PIECES: usize = 6;

/// Bytes to be written at offsets of an area; what lies between the pieces must keep its contents.
#[derive(Debug, Clone)]
pub struct StoreImage {
    bytes: [u8; XSAVE_AREA_SIZE],
    pieces: [(usize, usize); PIECES],
    count: usize,
}

impl StoreImage {
    pub(super) const fn new() -> Self {
        Self { bytes: [0; XSAVE_AREA_SIZE], pieces: [(0, 0); PIECES], count: 0 }
    }

    /// Adds a piece and gives it to be filled. `range` is a constant of this module within the area.
    pub(super) fn piece(&mut self, range: Range<usize>) -> &mut [u8] {
        self.pieces[self.count] = (range.start, range.end);
        self.count += 1;
        &mut self.bytes[range]
    }

    /// Where the last piece ends.
    #[must_use]
    pub fn end(&self) -> usize {
        self.pieces[..self.count].last().map_or(0, |&(_, end)| end)
    }

    /// The pieces in ascending order: offset in the area and bytes. No two of them overlap.
    pub fn pieces(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.pieces[..self.count].iter().map(|&(start, end)| (start as u64, &self.bytes[start..end]))
    }
}
