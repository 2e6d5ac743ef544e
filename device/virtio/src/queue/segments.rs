//! Pieces of guest memory, one after the other, as a buffer's descriptors name them.

use tern_engine::GuestMemory;
use vm_memory::{Bytes, GuestAddress, GuestMemory as _, GuestMemoryError, Permissions};

/// A piece of guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical.
    pub address: u64,
    /// In bytes, at least 1.
    pub length: u32,
}

/// Pieces of guest memory that together are one buffer. All were in memory when the descriptors were read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Segments {
    list: Vec<Segment>,
}

impl Segments {
    pub(super) fn push(&mut self, segment: Segment) {
        self.list.push(segment);
    }

    /// The pieces, in their order.
    #[must_use]
    pub fn list(&self) -> &[Segment] {
        &self.list
    }

    /// How many bytes there are.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.list.iter().map(|segment| u64::from(segment.length)).sum()
    }

    /// Takes the first `count` bytes off; `None` if there are fewer.
    #[must_use]
    pub fn take_front(&mut self, count: u64) -> Option<Self> {
        if count > self.total() {
            return None;
        }
        let rest = self.split_off(count);
        Some(std::mem::replace(self, rest))
    }

    /// Takes the last `count` bytes off; `None` if there are fewer.
    #[must_use]
    pub fn take_back(&mut self, count: u64) -> Option<Self> {
        let kept = self.total().checked_sub(count)?;
        Some(self.split_off(kept))
    }

    /// What follows the first `count` bytes; those stay.
    fn split_off(&mut self, count: u64) -> Self {
        let mut left = count;
        let mut index = 0;
        while let Some(segment) = self.list.get_mut(index) {
            let length = u64::from(segment.length);
            if left < length {
                // Less than the segment's own length.
                let kept = left as u32;
                let after = Segment { address: segment.address + left, length: segment.length - kept };
                segment.length = kept;
                let mut rest = vec![after];
                rest.extend(self.list.drain(index + 1..));
                self.list.truncate(if kept == 0 { index } else { index + 1 });
                return Self { list: rest };
            }
            left -= length;
            index += 1;
        }
        Self::default()
    }

    /// Copies the first bytes out, as many as there are and `bytes` holds; says how many.
    ///
    /// # Errors
    /// A piece is not in memory any more.
    pub fn read(&self, memory: &GuestMemory, bytes: &mut [u8]) -> Result<usize, GuestMemoryError> {
        let mut done = 0;
        for segment in &self.list {
            let rest = &mut bytes[done..];
            let count = rest.len().min(segment.length as usize);
            memory.read_slice(&mut rest[..count], GuestAddress(segment.address))?;
            done += count;
        }
        Ok(done)
    }

    /// Copies `bytes` in, as many as there is room for; says how many.
    ///
    /// # Errors
    /// A piece is not in memory any more.
    pub fn write(&self, memory: &GuestMemory, bytes: &[u8]) -> Result<usize, GuestMemoryError> {
        let mut done = 0;
        for segment in &self.list {
            let rest = &bytes[done..];
            let count = rest.len().min(segment.length as usize);
            memory.write_slice(&rest[..count], GuestAddress(segment.address))?;
            done += count;
        }
        Ok(done)
    }

    /// Notes that somebody who does not go through `memory` has written the whole of it: see [`tern_engine::WriteWatch`].
    ///
    /// # Errors
    /// A piece is not in memory any more.
    pub fn mark_written(&self, memory: &GuestMemory) -> Result<(), GuestMemoryError> {
        use vm_memory::bitmap::Bitmap as _;
        for segment in &self.list {
            let slices = memory.get_slices(
                GuestAddress(segment.address),
                segment.length as usize,
                Permissions::Write,
            )?;
            for slice in slices {
                let slice = slice?;
                slice.bitmap().mark_dirty(0, slice.len());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(list: &[(u64, u32)]) -> Segments {
        let list = list.iter().map(|&(address, length)| Segment { address, length }).collect();
        Segments { list }
    }

    #[test]
    fn a_front_may_end_in_the_middle_of_a_piece_or_between_two() {
        let whole = segments(&[(0x100, 16), (0x200, 8)]);
        for (count, front, rest) in [
            (0, segments(&[]), whole.clone()),
            (4, segments(&[(0x100, 4)]), segments(&[(0x104, 12), (0x200, 8)])),
            (16, segments(&[(0x100, 16)]), segments(&[(0x200, 8)])),
            (20, segments(&[(0x100, 16), (0x200, 4)]), segments(&[(0x204, 4)])),
            (24, whole.clone(), segments(&[])),
        ] {
            let mut left = whole.clone();
            assert_eq!(left.take_front(count), Some(front), "{count}");
            assert_eq!(left, rest, "{count}");
        }
        assert_eq!(whole.clone().take_front(25), None);
    }

    #[test]
    fn a_back_is_what_is_left_of_a_front() {
        let mut whole = segments(&[(0x100, 16), (0x200, 8)]);
        assert_eq!(whole.take_back(25), None);
        assert_eq!(whole.take_back(9), Some(segments(&[(0x10f, 1), (0x200, 8)])));
        assert_eq!(whole, segments(&[(0x100, 15)]));
    }

    #[test]
    fn bytes_are_copied_across_pieces_and_no_further_than_there_are() {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let pieces = segments(&[(0x100, 3), (0x10, 2)]);
        assert_eq!(pieces.write(&memory, b"abcdefg").unwrap(), 5);
        let mut bytes = [0; 8];
        assert_eq!(pieces.read(&memory, &mut bytes).unwrap(), 5);
        assert_eq!(&bytes, b"abcde\0\0\0");
        assert_eq!(memory.read_obj::<[u8; 4]>(GuestAddress(0x10)).unwrap(), *b"de\0\0");
    }
}
