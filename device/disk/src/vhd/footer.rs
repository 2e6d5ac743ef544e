//! The footer and the dynamic header: Microsoft's "Virtual Hard Disk Image Format Specification", version 1.0.

use crate::bytes::{be16_at, be32_at, be64_at};
use crate::error::Fault;

/// Bytes of the footer.
pub(crate) const FOOTER: usize = 512;
/// Bytes of the header of a dynamic disk.
pub(crate) const HEADER: usize = 1024;

const COOKIE: &[u8] = b"conectix";
const HEADER_COOKIE: &[u8] = b"cxsparse";

/// A disk's largest size in bytes: 2040 GiB.
pub(crate) const MOST_SIZE: u64 = 2040 << 30;

/// How the disk is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Byte by byte.
    Fixed,
    /// In blocks, of which those that were never written are missing.
    Dynamic,
    /// As dynamic, over another disk.
    Differencing,
}

/// What a footer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Footer {
    /// How the disk is kept.
    pub kind: Kind,
    /// Bytes of the disk.
    pub size: u64,
    /// Where the header of a dynamic disk is.
    pub header_offset: u64,
}

/// What the header of a dynamic disk says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DynamicHeader {
    /// Where the block allocation table is.
    pub table_offset: u64,
    /// How many entries it has.
    pub entries: u32,
    /// Bytes of a block, without its bitmap.
    pub block_size: u32,
}

/// The one's complement of the sum of all bytes but the checksum's, which are the four from `place` on.
fn checksum(bytes: &[u8], place: usize) -> u32 {
    let sum = |bytes: &[u8]| bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    !sum(&bytes[..place]).wrapping_add(sum(&bytes[place + 4..]))
}

/// Puts the checksum of `bytes` to `place`.
pub(super) fn seal(bytes: &mut [u8], place: usize) {
    let sum = checksum(bytes, place).to_be_bytes();
    bytes[place..place + 4].copy_from_slice(&sum);
}

impl Footer {
    /// Reads a footer, which may be the copy at the file's beginning.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        if bytes.len() != FOOTER || !bytes.starts_with(COOKIE) {
            return Err(Fault::Alien("it has no VHD footer".to_owned()));
        }
        if be32_at(bytes, 64) != Some(checksum(bytes, 64)) {
            return Err(Fault::Damaged("its footer's checksum is wrong".to_owned()));
        }
        if be16_at(bytes, 12) != Some(1) {
            return Err(Fault::Unsupported("has a version that is not known here".to_owned()));
        }
        let kind = match be32_at(bytes, 60) {
            Some(2) => Kind::Fixed,
            Some(3) => Kind::Dynamic,
            Some(4) => Kind::Differencing,
            other => {
                return Err(Fault::Damaged(format!("its kind is {}, which is none", other.unwrap_or(0))));
            }
        };
        let size = be64_at(bytes, 48).unwrap_or(0);
        if !size.is_multiple_of(512) || size > MOST_SIZE {
            return Err(Fault::Damaged(format!("its disk has {size} bytes")));
        }
        Ok(Self { kind, size, header_offset: be64_at(bytes, 16).unwrap_or(0) })
    }

    /// Whether this, at the end of a file of `length` bytes, is behind all of a fixed disk, where its guest cannot write it.
    pub(super) fn is_behind_disk(&self, length: u64) -> bool {
        length.checked_sub(FOOTER as u64).is_some_and(|room| self.size <= room)
    }

    /// The bytes of a new footer. `unique` tells the disk from others, `seconds` is when it is made, since 1970.
    pub(crate) fn encode(&self, unique: [u8; 16], seconds: u64) -> Vec<u8> {
        let mut bytes = vec![0; FOOTER];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, COOKIE);
        put(8, &2_u32.to_be_bytes());
        put(12, &0x0001_0000_u32.to_be_bytes());
        let offset = if self.kind == Kind::Fixed { u64::MAX } else { self.header_offset };
        put(16, &offset.to_be_bytes());
        // The format's time begins in 2000.
        put(24, &u32::try_from(seconds.saturating_sub(946_684_800)).unwrap_or(u32::MAX).to_be_bytes());
        // Whoever reads "win " here takes the size for the size; of other creators some readers compute it from the geometry, which is rounded.
        put(28, b"win ");
        put(32, &0x000a_0000_u32.to_be_bytes());
        put(36, b"Wi2k");
        put(40, &self.size.to_be_bytes());
        put(48, &self.size.to_be_bytes());
        let (cylinders, heads, sectors) = geometry(self.size);
        put(56, &cylinders.to_be_bytes());
        put(58, &[heads, sectors]);
        let kind: u32 = match self.kind {
            Kind::Fixed => 2,
            Kind::Dynamic => 3,
            Kind::Differencing => 4,
        };
        put(60, &kind.to_be_bytes());
        put(68, &unique);
        seal(&mut bytes, 64);
        bytes
    }
}

impl DynamicHeader {
    /// Reads the header of a dynamic disk of `size` bytes.
    pub(crate) fn parse(bytes: &[u8], size: u64) -> Result<Self, Fault> {
        if bytes.len() != HEADER || !bytes.starts_with(HEADER_COOKIE) {
            return Err(Fault::Damaged("it has no header of a dynamic disk".to_owned()));
        }
        if be32_at(bytes, 36) != Some(checksum(bytes, 36)) {
            return Err(Fault::Damaged("its header's checksum is wrong".to_owned()));
        }
        let header = Self {
            table_offset: be64_at(bytes, 16).unwrap_or(0),
            entries: be32_at(bytes, 28).unwrap_or(0),
            block_size: be32_at(bytes, 32).unwrap_or(0),
        };
        if !header.block_size.is_power_of_two() || !(4096..=256 << 20).contains(&header.block_size) {
            return Err(Fault::Damaged(format!("its blocks have {} bytes", header.block_size)));
        }
        if size.div_ceil(u64::from(header.block_size)) > u64::from(header.entries) {
            return Err(Fault::Damaged(format!("its table has only {} entries", header.entries)));
        }
        if !header.table_offset.is_multiple_of(512) || header.table_offset > 1 << 48 {
            return Err(Fault::Damaged(format!("its table is at {:#x}", header.table_offset)));
        }
        Ok(header)
    }

    /// The bytes of a new header.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, HEADER_COOKIE);
        put(8, &u64::MAX.to_be_bytes());
        put(16, &self.table_offset.to_be_bytes());
        put(24, &0x0001_0000_u32.to_be_bytes());
        put(28, &self.entries.to_be_bytes());
        put(32, &self.block_size.to_be_bytes());
        seal(&mut bytes, 36);
        bytes
    }
}

/// Cylinders, heads and sectors per track, as the specification's appendix computes them.
fn geometry(size: u64) -> (u16, u8, u8) {
    let sectors = (size / 512).min(65535 * 16 * 255);
    if sectors >= 65535 * 16 * 63 {
        return ((sectors / 255 / 16) as u16, 16, 255);
    }
    let mut per_track = 17;
    let mut tracks = sectors / per_track;
    let mut heads = tracks.div_ceil(1024).max(4);
    if tracks >= heads * 1024 || heads > 16 {
        (per_track, heads) = (31, 16);
        tracks = sectors / per_track;
    }
    if tracks >= heads * 1024 {
        (per_track, heads) = (63, 16);
        tracks = sectors / per_track;
    }
    // Each fits by the bounds above.
    ((tracks / heads) as u16, heads as u8, per_track as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_parsed() {
        let footer = Footer { kind: Kind::Dynamic, size: 1 << 30, header_offset: 512 };
        let bytes = footer.encode([7; 16], 1_700_000_000);
        assert_eq!(Footer::parse(&bytes).unwrap(), footer);
        let header = DynamicHeader { table_offset: 1536, entries: 512, block_size: 2 << 20 };
        assert_eq!(DynamicHeader::parse(&header.encode(), 1 << 30).unwrap(), header);
        assert!(DynamicHeader::parse(&header.encode(), (1 << 30) + 512).is_err());
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let footer = Footer { kind: Kind::Fixed, size: 1 << 20, header_offset: u64::MAX };
        let good = footer.encode([1; 16], 0);
        for at in 0..FOOTER {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(Footer::parse(&bad).is_err(), "{at}");
        }
    }

    #[test]
    fn geometries_are_the_specifications() {
        assert_eq!(geometry(1 << 20), (30, 4, 17));
        assert_eq!(geometry(1 << 30), (2080, 16, 63));
        assert_eq!(geometry(MOST_SIZE), (65535, 16, 255));
    }
}
