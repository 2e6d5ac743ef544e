//! The receiver's FIFO: sixteen bytes in a ring.

/// How many bytes the 16550A's FIFO holds.
pub const FIFO_SIZE: usize = 16;

/// A ring of at most [`FIFO_SIZE`] bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Fifo {
    bytes: [u8; FIFO_SIZE],
    first: usize,
    len: usize,
}

impl Fifo {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Appends a byte; false if there is no room for it.
    pub(super) fn push(&mut self, byte: u8) -> bool {
        if self.len == FIFO_SIZE {
            return false;
        }
        self.bytes[(self.first + self.len) % FIFO_SIZE] = byte;
        self.len += 1;
        true
    }

    pub(super) fn pop(&mut self) -> Option<u8> {
        let byte = self.iter().next()?;
        self.first = (self.first + 1) % FIFO_SIZE;
        self.len -= 1;
        Some(byte)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The bytes, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = u8> + '_ {
        (0..self.len).map(|index| self.bytes[(self.first + index) % FIFO_SIZE])
    }
}

impl PartialEq for Fifo {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Fifo {}
