//! Headers and regions of a VHDX file: Microsoft's \[MS-VHDX\], sections 2.2.2 and 2.2.3.

use super::crc::crc32c;
use super::guid::{self, Guid};
use crate::bytes::{array_at, le16_at, le32_at, le64_at};
use crate::error::Fault;

/// What the file begins with.
pub(super) const FILE_SIGNATURE: &[u8] = b"vhdxfile";
/// Where the two headers are.
pub(super) const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
/// Bytes of a header.
pub(super) const HEADER: usize = 4096;
/// Where the two region tables are.
pub(super) const REGION_TABLES: [u64; 2] = [192 << 10, 256 << 10];
/// Bytes of a region table.
pub(super) const REGION_TABLE: usize = 64 << 10;
/// Regions and blocks begin at multiples of this many bytes.
pub(super) const UNIT: u64 = 1 << 20;

/// The largest log that is looked at, in bytes; usual ones have 1 MiB.
const MOST_LOG: u32 = 64 << 20;
/// The most entries of a region table.
const MOST_REGIONS: u32 = 2047;

/// A header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    /// The higher one counts.
    pub sequence: u64,
    /// Changed whenever the file is opened to be written.
    pub file_write: Guid,
    /// Changed whenever the disk is about to be.
    pub data_write: Guid,
    /// Which log entries are of interest; zeros if none is.
    pub log: Guid,
    pub log_length: u32,
    pub log_offset: u64,
}

impl Header {
    /// Reads one; `None` if it is not valid.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        if !bytes.starts_with(b"head") || !is_intact(bytes) || le16_at(bytes, 66)? != 1 {
            return None;
        }
        Some(Self {
            sequence: le64_at(bytes, 8)?,
            file_write: array_at(bytes, 16)?,
            data_write: array_at(bytes, 32)?,
            log: array_at(bytes, 48)?,
            log_length: le32_at(bytes, 68)?,
            log_offset: le64_at(bytes, 72)?,
        })
    }

    /// The bytes of a header.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"head");
        put(8, &self.sequence.to_le_bytes());
        put(16, &self.file_write);
        put(32, &self.data_write);
        put(48, &self.log);
        put(66, &1_u16.to_le_bytes());
        put(68, &self.log_length.to_le_bytes());
        put(72, &self.log_offset.to_le_bytes());
        seal(&mut bytes);
        bytes
    }

    /// Whether the log is where one can be, in a file of `length` bytes.
    pub(super) fn check(&self, length: u64) -> Result<(), Fault> {
        let is_aligned =
            self.log_offset.is_multiple_of(UNIT) && u64::from(self.log_length).is_multiple_of(UNIT);
        let is_inside =
            self.log_offset.checked_add(u64::from(self.log_length)).is_some_and(|end| end <= length);
        if !is_aligned || !is_inside || self.log_offset < UNIT || self.log_length > MOST_LOG {
            return Err(Fault::Damaged(format!(
                "its log has {} bytes at {:#x}",
                self.log_length, self.log_offset
            )));
        }
        Ok(())
    }
}

/// Whether the checksum in bytes 4 to 7 is right.
pub(super) fn is_intact(bytes: &[u8]) -> bool {
    let sum = le32_at(bytes, 4);
    sum == bytes.get(8..).map(|rest| crc32c(&[&bytes[..4], &[0; 4], rest]))
}

/// Puts the checksum there.
pub(super) fn seal(bytes: &mut [u8]) {
    bytes[4..8].fill(0);
    let sum = crc32c(&[bytes]);
    bytes[4..8].copy_from_slice(&sum.to_le_bytes());
}

/// Where the regions are that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Regions {
    /// The block allocation table: where, and how many bytes.
    pub table: (u64, u64),
    /// The metadata.
    pub metadata: (u64, u64),
}

impl Regions {
    /// Reads a region table.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let wrong = |text: &str| Fault::Damaged(text.to_owned());
        if !bytes.starts_with(b"regi") || !is_intact(bytes) {
            return Err(wrong("its region tables' checksums are wrong"));
        }
        let count = le32_at(bytes, 8).filter(|count| *count <= MOST_REGIONS);
        let count = count.ok_or_else(|| wrong("its region table has too many entries"))?;
        let (mut table, mut metadata) = (None, None);
        for index in 0..count as usize {
            let at = 16 + index * 32;
            let kind: Guid = array_at(bytes, at).unwrap_or_default();
            let (offset, length) =
                (le64_at(bytes, at + 16).unwrap_or(0), le32_at(bytes, at + 24).unwrap_or(0));
            let is_required = le32_at(bytes, at + 28).unwrap_or(0) & 1 != 0;
            let place = (offset, u64::from(length));
            if !(UNIT..=1 << 56).contains(&offset) || !offset.is_multiple_of(UNIT) {
                return Err(Fault::Damaged(format!("one of its regions is at {offset:#x}")));
            }
            match kind {
                guid::TABLE => table = Some(place),
                guid::METADATA => metadata = Some(place),
                _ if is_required => {
                    let text =
                        "has a region that is not known here: convert it with a current `qemu-img convert`";
                    return Err(Fault::Unsupported(text.to_owned()));
                }
                _ => {}
            }
        }
        match (table, metadata) {
            (Some(table), Some(metadata)) => Ok(Self { table, metadata }),
            _ => Err(wrong("its region table lacks a region")),
        }
    }

    /// The bytes of a region table.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; REGION_TABLE];
        bytes[..4].copy_from_slice(b"regi");
        bytes[8..12].copy_from_slice(&2_u32.to_le_bytes());
        for (index, (kind, (offset, length))) in
            [(guid::TABLE, self.table), (guid::METADATA, self.metadata)].into_iter().enumerate()
        {
            let at = 16 + index * 32;
            bytes[at..at + 16].copy_from_slice(&kind);
            bytes[at + 16..at + 24].copy_from_slice(&offset.to_le_bytes());
            // Both are made here, and fit.
            bytes[at + 24..at + 28].copy_from_slice(&(length as u32).to_le_bytes());
            bytes[at + 28] = 1;
        }
        seal(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_parsed() {
        let header = Header {
            sequence: 9,
            file_write: [1; 16],
            data_write: [2; 16],
            log: [0; 16],
            log_length: 1 << 20,
            log_offset: 1 << 20,
        };
        assert_eq!(Header::parse(&header.encode()), Some(header.clone()));
        assert!(header.check(2 << 20).is_ok());
        let regions = Regions { table: (3 << 20, 1 << 20), metadata: (2 << 20, 1 << 20) };
        assert_eq!(Regions::parse(&regions.encode()).unwrap(), regions);
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let regions = Regions { table: (3 << 20, 1 << 20), metadata: (2 << 20, 1 << 20) };
        let mut bytes = regions.encode();
        bytes[20] ^= 1;
        assert!(Regions::parse(&bytes).is_err());
    }
}
