//! Entries of L1 and L2 tables: `qcow2.txt`, "Cluster mapping".

use crate::image::mapped::{Method, Packed};

/// The refcount of what the entry points to is exactly 1.
pub(super) const COPIED: u64 = 1 << 63;
/// The cluster is compressed.
const COMPRESSED: u64 = 1 << 62;
/// The cluster reads as zeros.
pub(super) const ZERO: u64 = 1;
/// Where a table or cluster is.
const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;

/// An entry of an L1 table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct L1Entry(pub u64);

impl L1Entry {
    /// Where the L2 table is; 0 if there is none.
    pub(super) fn offset(self) -> u64 {
        self.0 & OFFSET
    }

    /// Whether the table is nobody else's.
    pub(super) fn is_copied(self) -> bool {
        self.0 & COPIED != 0
    }
}

/// What an entry of an L2 table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum L2Entry {
    /// The cluster was never written.
    Absent,
    /// It reads as zeros, and may have a place in the file (0 if not).
    Zero { offset: u64 },
    /// It is in the file.
    Data { offset: u64, is_copied: bool },
    /// It is in the file, compressed.
    Compressed(Packed),
}

impl L2Entry {
    /// Reads an entry of an image of this version with clusters of 2^`cluster_bits` bytes.
    pub(super) fn parse(entry: u64, version: u32, cluster_bits: u32, method: Method) -> Self {
        if entry & COMPRESSED != 0 {
            let shift = 62 - (cluster_bits - 8);
            let offset = entry & ((1 << shift) - 1);
            let sectors = (entry & !(COPIED | COMPRESSED)) >> shift;
            let length = (sectors + 1) * 512 - offset % 512;
            return Self::Compressed(Packed { offset, length, unpacked: 1 << cluster_bits, method });
        }
        let offset = entry & OFFSET;
        if version >= 3 && entry & ZERO != 0 {
            return Self::Zero { offset };
        }
        if offset == 0 { Self::Absent } else { Self::Data { offset, is_copied: entry & COPIED != 0 } }
    }

    /// The entry of a compressed cluster of `length` bytes at `offset`.
    pub(super) fn compressed(offset: u64, length: u64, cluster_bits: u32) -> u64 {
        let shift = 62 - (cluster_bits - 8);
        let sectors = (offset + length - 1) / 512 - offset / 512;
        COMPRESSED | sectors << shift | offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_entries_tell_place_and_length() {
        for (offset, length) in [(0x5_0000, 1), (0x5_0123, 513), (0x1_2345_6789, 60_000)] {
            let entry = L2Entry::compressed(offset, length, 16);
            let L2Entry::Compressed(packed) = L2Entry::parse(entry, 3, 16, Method::Deflate) else { panic!() };
            assert_eq!((packed.offset, packed.unpacked), (offset, 65536));
            assert!(packed.length >= length && packed.length < length + 512, "{length}: {}", packed.length);
        }
    }

    #[test]
    fn zeros_are_known_from_version_3_on() {
        let parse = |entry, version| L2Entry::parse(entry, version, 16, Method::Deflate);
        assert_eq!(parse(ZERO, 3), L2Entry::Zero { offset: 0 });
        assert_eq!(parse(ZERO, 2), L2Entry::Absent);
        assert_eq!(parse(COPIED | 0x30000 | ZERO, 3), L2Entry::Zero { offset: 0x30000 });
        assert_eq!(parse(COPIED | 0x30000, 3), L2Entry::Data { offset: 0x30000, is_copied: true });
    }
}
