//! The table of internal snapshots: `qcow2.txt`, "Snapshots".

use std::io;

use crate::bytes::{be16_at, be32_at, be64_at};
use crate::error::damaged;
use crate::storage::Storage;

/// An internal snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Snapshot {
    /// Its identifier, usually a number.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made, in seconds since 1970.
    pub seconds: u32,
    /// Bytes of the disk then; `None` if that is not told, and it is as now.
    pub size: Option<u64>,
    /// Bytes of the machine's state that it holds.
    pub machine_state: u64,
    /// Where its L1 table is.
    pub l1_offset: u64,
    /// Entries of that.
    pub l1_size: u32,
}

/// The most bytes of one entry: more than any has.
const MOST_ENTRY: usize = 1 << 18;

/// The most bytes of the whole table.
const MOST_TABLE: u64 = 16 << 20;

/// Reads the table of `count` entries at `offset`; also tells how many bytes it takes.
///
/// # Errors
/// It cannot be read, or goes beyond the end of the file.
pub(crate) fn read(storage: &dyn Storage, offset: u64, count: u32) -> io::Result<(Vec<Snapshot>, u64)> {
    let end = storage.length()?;
    let mut snapshots = Vec::new();
    let mut at = offset;
    for _ in 0..count {
        let left = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
        let mut bytes = vec![0; left.min(4096)];
        storage.read_at(&mut bytes, at)?;
        let needed =
            length(&bytes).filter(|length| *length <= left.next_multiple_of(8) && *length <= MOST_ENTRY);
        let needed = needed.ok_or_else(|| damaged("its snapshot table does not end where the file does"))?;
        if needed > bytes.len() {
            bytes = vec![0; needed];
            storage.read_at(&mut bytes, at)?;
        }
        let snapshot = parse(&bytes).ok_or_else(|| damaged("an entry of its snapshot table is cut short"))?;
        snapshots.push(snapshot);
        at += needed as u64;
        if at - offset > MOST_TABLE {
            return Err(damaged("its snapshot table is larger than any"));
        }
    }
    Ok((snapshots, at - offset))
}

/// How many bytes the entry has that begins here, with what fills it up.
fn length(bytes: &[u8]) -> Option<usize> {
    let (id, name) = (be16_at(bytes, 12)?, be16_at(bytes, 14)?);
    let extra = usize::try_from(be32_at(bytes, 36)?).ok()?;
    40_usize.checked_add(extra)?.checked_add(usize::from(id) + usize::from(name))?.checked_next_multiple_of(8)
}

fn parse(bytes: &[u8]) -> Option<Snapshot> {
    let (id, name) = (usize::from(be16_at(bytes, 12)?), usize::from(be16_at(bytes, 14)?));
    let extra = usize::try_from(be32_at(bytes, 36)?).ok()?;
    let text = |start: usize, length: usize| {
        let bytes = bytes.get(start..start.checked_add(length)?)?;
        Some(String::from_utf8_lossy(bytes).into_owned())
    };
    let strings = 40_usize.checked_add(extra)?;
    let large_state = if extra >= 8 { be64_at(bytes, 40)? } else { 0 };
    Some(Snapshot {
        id: text(strings, id)?,
        name: text(strings.checked_add(id)?, name)?,
        seconds: be32_at(bytes, 16)?,
        size: if extra >= 16 { be64_at(bytes, 48) } else { None },
        machine_state: if large_state > 0 { large_state } else { u64::from(be32_at(bytes, 32)?) },
        l1_offset: be64_at(bytes, 0)?,
        l1_size: be32_at(bytes, 8)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryStorage;

    #[test]
    fn a_table_that_lies_about_its_lengths_is_refused() {
        let mut entry = vec![0; 64];
        entry[12..16].copy_from_slice(&[0, 1, 0, 4]);
        entry[36..40].copy_from_slice(&16_u32.to_be_bytes());
        entry[56..61].copy_from_slice(b"1name");
        let storage = MemoryStorage::new(entry.clone());
        let (found, length) = read(&storage, 0, 1).unwrap();
        assert_eq!((found[0].id.as_str(), found[0].name.as_str(), length), ("1", "name", 64));
        assert!(read(&storage, 0, 2).is_err());
        entry[36..40].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(read(&MemoryStorage::new(entry), 0, 1).is_err());
    }
}
