//! The header of a sparse extent: VMware's "Virtual Disk Format 1.1", "Hosted Sparse Extents" and "Stream-Optimized
//! Compressed Sparse Extents".

use crate::bytes::{le16_at, le32_at, le64_at};
use crate::error::Fault;

/// Bytes of a header.
pub(crate) const HEADER: usize = 512;
/// Bytes of a sector, in which places are told.
pub(crate) const SECTOR: u64 = 512;

/// The grain directory is told of by a footer.
const AT_END: u64 = u64::MAX;

/// Header flags.
mod flag {
    pub(super) const VALID_NEWLINES: u32 = 1 << 0;
    pub(super) const REDUNDANT: u32 = 1 << 1;
    pub(super) const ZERO_GRAINS: u32 = 1 << 2;
    pub(super) const COMPRESSED: u32 = 1 << 16;
    pub(super) const MARKERS: u32 = 1 << 17;
}

/// What a header says. Places are in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SparseHeader {
    /// Bytes of the extent, as the disk sees it.
    pub size: u64,
    /// Bytes of a grain.
    pub grain: u64,
    /// Entries of a grain table.
    pub entries: u64,
    /// Where the grain directory is.
    pub directory: u64,
    /// Where its copy is, if there is one.
    pub copy: Option<u64>,
    /// Where the descriptor is, and how long; 0 if there is none.
    pub descriptor: (u64, u64),
    /// Bytes of everything before the first grain.
    pub overhead: u64,
    /// Whether an entry of 1 is a grain of zeros.
    pub has_zero_grains: bool,
    /// Whether grains are compressed.
    pub is_compressed: bool,
    /// Whether compressed grains begin with their place and length.
    pub has_markers: bool,
}

/// What a header turns out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// It is complete.
    Complete(SparseHeader),
    /// It is a stream's, whose real header is 1024 bytes before the end of the file.
    InFooter,
}

impl SparseHeader {
    /// Reads a header, or a footer.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed, Fault> {
        let damaged = |text: String| Fault::Damaged(text);
        if bytes.starts_with(b"COWD") {
            return Err(Fault::Unsupported(
                "is an ESX sparse extent (COWD): convert it with `vmkfstools -i` or `qemu-img convert`"
                    .to_owned(),
            ));
        }
        if !bytes.starts_with(b"KDMV") {
            return Err(Fault::Alien("it does not begin with 'KDMV'".to_owned()));
        }
        let (word, double) = (|at| le32_at(bytes, at).unwrap_or(0), |at| le64_at(bytes, at).unwrap_or(0));
        let version = word(4);
        if !(1..=3).contains(&version) {
            return Err(Fault::Unsupported(format!("has version {version}, of which nothing is known here")));
        }
        let flags = word(8);
        // A transfer as text, with line ends changed, would have destroyed it.
        if flags & flag::VALID_NEWLINES != 0 && bytes.get(73..77) != Some(b"\n \r\n") {
            return Err(damaged("it was transferred as text, and is destroyed".to_owned()));
        }
        if double(56) == AT_END {
            return Ok(Parsed::InFooter);
        }
        let compression = le16_at(bytes, 77).unwrap_or(0);
        let is_compressed = flags & flag::COMPRESSED != 0;
        if is_compressed && compression != 1 {
            return Err(Fault::Unsupported(format!(
                "is compressed by method {compression}, which is not known here"
            )));
        }
        let bytes_of = |sectors: u64| sectors.checked_mul(SECTOR).filter(|bytes| *bytes < 1 << 56);
        let place = |what: &str, at: usize| {
            bytes_of(double(at)).ok_or_else(|| damaged(format!("its {what} is at sector {}", double(at))))
        };
        let header = Self {
            size: bytes_of(double(12)).ok_or_else(|| damaged(format!("it has {} sectors", double(12))))?,
            grain: bytes_of(double(20)).unwrap_or(0),
            entries: u64::from(word(44)),
            directory: place("directory", 56)?,
            copy: if flags & flag::REDUNDANT != 0 && double(48) != 0 {
                Some(place("directory's copy", 48)?)
            } else {
                None
            },
            descriptor: (place("descriptor", 28)?, bytes_of(double(36)).unwrap_or(0)),
            overhead: place("first grain", 64)?,
            has_zero_grains: flags & flag::ZERO_GRAINS != 0,
            is_compressed,
            has_markers: flags & flag::MARKERS != 0,
        };
        if !header.grain.is_power_of_two() || !(SECTOR..=16 << 20).contains(&header.grain) {
            return Err(damaged(format!("its grains have {} bytes", header.grain)));
        }
        if header.entries == 0 || header.entries > 512 {
            return Err(damaged(format!("its grain tables have {} entries", header.entries)));
        }
        if header.directory == 0 {
            return Err(damaged("its directory is where its header is".to_owned()));
        }
        Ok(Parsed::Complete(header))
    }

    /// The bytes of a new header of version 1 with a copy of the directory.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, b"KDMV");
        put(4, &1_u32.to_le_bytes());
        put(8, &(flag::VALID_NEWLINES | flag::REDUNDANT).to_le_bytes());
        for (at, place) in [
            (12, self.size),
            (20, self.grain),
            (28, self.descriptor.0),
            (36, self.descriptor.1),
            (48, self.copy.unwrap_or(0)),
            (56, self.directory),
            (64, self.overhead),
        ] {
            put(at, &(place / SECTOR).to_le_bytes());
        }
        put(44, &(self.entries as u32).to_le_bytes());
        put(73, b"\n \r\n");
        bytes
    }

    /// Bytes that a grain table tells of.
    pub(crate) fn span(&self) -> u64 {
        self.grain * self.entries
    }

    /// Bytes of a grain table in the file.
    pub(crate) fn table_size(&self) -> u64 {
        (self.entries * 4).next_multiple_of(SECTOR)
    }

    /// Entries of the directory.
    pub(crate) fn tables(&self) -> u64 {
        self.size.div_ceil(self.span())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_parsed() {
        let header = SparseHeader {
            size: 1 << 30,
            grain: 65536,
            entries: 512,
            directory: 30 * 512,
            copy: Some(21 * 512),
            descriptor: (512, 10240),
            overhead: 128 * 512,
            has_zero_grains: false,
            is_compressed: false,
            has_markers: false,
        };
        let bytes = header.encode();
        assert_eq!(SparseHeader::parse(&bytes).unwrap(), Parsed::Complete(header));
        for (at, value) in [(4, 9), (20, 3), (45, 0), (63, 0xff), (73, b'\r')] {
            let mut bad = bytes.clone();
            bad[at] = value;
            assert!(SparseHeader::parse(&bad).is_err(), "{at}");
        }
    }
}
