//! What loading does with a part of a kernel file, whatever format says so.

use std::ops::Range;

/// A part of a kernel file and its place in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Where its bytes lie in the file; not longer than `memory_size`. The rest of the segment is zeros.
    pub file: Range<usize>,
    /// Physical address.
    pub address: u64,
    /// The address that the kernel itself uses after it has set up paging.
    pub virtual_address: u64,
    /// Size in memory, in bytes, at least 1; `address + memory_size` does not wrap.
    pub memory_size: u64,
}

impl Segment {
    /// The physical address behind its last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.address + self.memory_size
    }
}
