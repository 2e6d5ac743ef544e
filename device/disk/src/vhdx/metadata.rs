//! What a VHDX file says of its disk: \[MS-VHDX\], section 2.6.

use super::guid::{self, Guid};
use crate::bytes::{array_at, le16_at, le32_at, le64_at};
use crate::error::Fault;

/// Bytes of the metadata table, which begins the region.
pub(super) const TABLE: usize = 64 << 10;
/// The most entries.
const MOST_ENTRIES: u16 = 2047;
/// The largest disk in bytes: 64 TiB.
pub(super) const MOST_SIZE: u64 = 64 << 40;

/// What matters of the metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Metadata {
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of a block.
    pub block_size: u32,
    /// Bytes of a logical sector: 512 or 4096.
    pub sector: u32,
    /// Bytes of a physical sector.
    pub physical_sector: u32,
    /// Whether blocks keep their space: the disk is of fixed size.
    pub is_fixed: bool,
}

impl Metadata {
    /// Reads the metadata. `region` is its region's beginning: 128 KiB, or less if there is less.
    pub(super) fn parse(region: &[u8]) -> Result<Self, Fault> {
        let damaged = |text: &str| Fault::Damaged(text.to_owned());
        if !region.starts_with(b"metadata") {
            return Err(damaged("its metadata has no beginning"));
        }
        let count = le16_at(region, 10).filter(|count| *count <= MOST_ENTRIES);
        let count = count.ok_or_else(|| damaged("its metadata has too many entries"))?;
        let mut items: [Option<&[u8]>; 4] = [None; 4];
        for index in 0..usize::from(count) {
            let at = 32 + index * 32;
            let kind: Guid = array_at(region, at).unwrap_or_default();
            let (offset, length) =
                (le32_at(region, at + 16).unwrap_or(0), le32_at(region, at + 20).unwrap_or(0));
            let is_required = le32_at(region, at + 24).unwrap_or(0) & 4 != 0;
            let known = [guid::FILE_PARAMETERS, guid::DISK_SIZE, guid::LOGICAL_SECTOR, guid::PHYSICAL_SECTOR];
            match known.iter().position(|known| *known == kind) {
                Some(place) => {
                    let start = offset as usize;
                    items[place] = start.checked_add(length as usize).and_then(|end| region.get(start..end));
                }
                None if is_required && kind != guid::DISK_ID => {
                    return Err(Fault::Unsupported(
                        "has metadata that is not known here: it is a differencing disk, or made by a newer program".to_owned(),
                    ));
                }
                None => {}
            }
        }
        let [parameters, size, sector, physical] = items;
        let number = |item: Option<&[u8]>| item.and_then(|bytes| le32_at(bytes, 0));
        let flags = parameters.and_then(|bytes| le32_at(bytes, 4)).unwrap_or(0);
        if flags & 2 != 0 {
            return Err(Fault::Unsupported(
                "is a differencing disk, which stands on another: merge them with the program that made it"
                    .to_owned(),
            ));
        }
        let metadata = Self {
            size: size.and_then(|bytes| le64_at(bytes, 0)).ok_or_else(|| damaged("its disk has no size"))?,
            block_size: number(parameters).ok_or_else(|| damaged("its blocks have no size"))?,
            sector: number(sector).ok_or_else(|| damaged("its sectors have no size"))?,
            physical_sector: number(physical).unwrap_or(4096),
            is_fixed: flags & 1 != 0,
        };
        metadata.check()?;
        Ok(metadata)
    }

    fn check(&self) -> Result<(), Fault> {
        if !self.block_size.is_power_of_two() || !(1 << 20..=256 << 20).contains(&self.block_size) {
            return Err(Fault::Damaged(format!("its blocks have {} bytes", self.block_size)));
        }
        if !matches!(self.sector, 512 | 4096) {
            return Err(Fault::Damaged(format!("its sectors have {} bytes", self.sector)));
        }
        if self.size > MOST_SIZE || !self.size.is_multiple_of(u64::from(self.sector)) {
            return Err(Fault::Damaged(format!("its disk has {} bytes", self.size)));
        }
        Ok(())
    }

    /// The bytes of a new metadata region.
    pub(super) fn encode(&self, disk: Guid) -> Vec<u8> {
        let mut parameters = self.block_size.to_le_bytes().to_vec();
        parameters.extend(u32::from(self.is_fixed).to_le_bytes());
        // Flags: 2 for what describes the disk, 4 for what must be understood.
        let items: [(Guid, Vec<u8>, u32); 5] = [
            (guid::FILE_PARAMETERS, parameters, 4),
            (guid::DISK_SIZE, self.size.to_le_bytes().to_vec(), 6),
            (guid::DISK_ID, disk.to_vec(), 6),
            (guid::LOGICAL_SECTOR, self.sector.to_le_bytes().to_vec(), 6),
            (guid::PHYSICAL_SECTOR, self.physical_sector.to_le_bytes().to_vec(), 6),
        ];
        let mut bytes = vec![0; TABLE];
        bytes[..8].copy_from_slice(b"metadata");
        bytes[10..12].copy_from_slice(&(items.len() as u16).to_le_bytes());
        for (index, (kind, value, flags)) in items.into_iter().enumerate() {
            let (at, offset) = (32 + index * 32, bytes.len());
            bytes[at..at + 16].copy_from_slice(&kind);
            bytes[at + 16..at + 20].copy_from_slice(&(offset as u32).to_le_bytes());
            bytes[at + 20..at + 24].copy_from_slice(&(value.len() as u32).to_le_bytes());
            bytes[at + 24..at + 28].copy_from_slice(&flags.to_le_bytes());
            bytes.extend(value);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_parsed() {
        let metadata = Metadata {
            size: 1 << 40,
            block_size: 32 << 20,
            sector: 512,
            physical_sector: 4096,
            is_fixed: false,
        };
        let bytes = metadata.encode([3; 16]);
        assert_eq!(Metadata::parse(&bytes).unwrap(), metadata);
        for length in [0, 10, 100, TABLE, bytes.len() - 25] {
            assert!(Metadata::parse(&bytes[..length]).is_err(), "{length}");
        }
    }
}
