//! The log of a VHDX file: \[MS-VHDX\], section 2.3. It holds what its last user meant to write to the metadata, and maybe did not.

use std::collections::BTreeMap;
use std::io;

use super::guid::Guid;
use super::header::{Header, UNIT, is_intact};
use crate::bytes::{array_at, le32_at, le64_at};
use crate::error::damaged;
use crate::storage::Storage;

/// Entries, descriptors and data come in sectors of this many bytes.
const SECTOR: usize = 4096;

/// An entry.
#[derive(Debug)]
struct Entry {
    sequence: u64,
    /// Where the oldest entry is that belongs to the same sequence, in bytes from the log's beginning.
    tail: u64,
    /// Bytes.
    length: u64,
    /// The file had at least this length when it was written.
    file_length: u64,
    bytes: Vec<u8>,
}

/// What a log says: pages of the file, by their offsets, and how long the file is at least.
#[derive(Debug, Default)]
pub(super) struct Replay {
    pub pages: BTreeMap<u64, Vec<u8>>,
    /// Stretches that become zeros first.
    pub zeros: Vec<(u64, u64)>,
    pub file_length: u64,
}

/// Reads the log that `header` tells of; nothing if it tells of none, or the log has nothing.
pub(super) fn read(storage: &dyn Storage, header: &Header) -> io::Result<Option<Replay>> {
    if header.log == [0; 16] {
        return Ok(None);
    }
    // At most 64 MiB, as was checked.
    let mut log = vec![0; header.log_length as usize];
    storage.read_at(&mut log, header.log_offset)?;
    let Some(entries) = active_sequence(&log, &header.log) else { return Ok(None) };
    let mut replay = Replay::default();
    let length = storage.length()?;
    for entry in &entries {
        apply(entry, &mut replay)?;
        if entry.file_length > length.saturating_add(1 << 40) {
            return Err(damaged("its log says that the file was far longer than it is"));
        }
        replay.file_length = replay.file_length.max(entry.file_length);
    }
    Ok(Some(replay))
}

/// The entries of the sequence that ends last, oldest first.
fn active_sequence(log: &[u8], guid: &Guid) -> Option<Vec<Entry>> {
    let mut best: Option<(u64, Vec<Entry>)> = None;
    // Entries that claim to be long and are none would keep us busy.
    let mut budget = log.len().saturating_mul(4);
    let mut start = 0;
    while start < log.len() {
        let mut entries = Vec::new();
        let mut at = start;
        let mut total = 0;
        // Follows entries whose numbers follow each other, once around at most.
        while let Some(entry) = entry_at(log, at, guid, &mut budget) {
            let expected = entries.last().map(|last: &Entry| last.sequence.wrapping_add(1));
            total += entry.length as usize;
            if expected.is_some_and(|expected| expected != entry.sequence) || total > log.len() {
                break;
            }
            at = (at + entry.length as usize) % log.len();
            entries.push(entry);
        }
        let next = start + entries.iter().map(|entry| entry.length as usize).sum::<usize>().max(SECTOR);
        if let Some(head) = entries.last() {
            let is_newer = best.as_ref().is_none_or(|(sequence, _)| head.sequence > *sequence);
            // The head tells where the sequence begins: that must be one of these entries.
            let tail = usize::try_from(head.tail).unwrap_or(usize::MAX);
            let mut place = start;
            let first = entries.iter().position(|entry| {
                let is_tail = place == tail;
                place = (place + entry.length as usize) % log.len();
                is_tail
            });
            if let (true, Some(first)) = (is_newer, first) {
                let sequence = head.sequence;
                best = Some((sequence, entries.split_off(first)));
            }
        }
        start = next;
    }
    best.map(|(_, entries)| entries)
}

/// The entry at `at`, if there is a valid one, and looking at it is within the `budget` of bytes.
fn entry_at(log: &[u8], at: usize, guid: &Guid, budget: &mut usize) -> Option<Entry> {
    let start = log.get(at..at + 64)?;
    let length = le32_at(start, 8)? as usize;
    if !start.starts_with(b"loge") || length == 0 || !length.is_multiple_of(SECTOR) || length > log.len() {
        return None;
    }
    if array_at::<16>(start, 32)? != *guid {
        return None;
    }
    *budget = budget.checked_sub(length)?;
    // An entry may go over the end of the log, to its beginning.
    let first = length.min(log.len() - at);
    let mut bytes = log[at..at + first].to_vec();
    bytes.extend_from_slice(&log[..length - first]);
    if !is_intact(&bytes) {
        return None;
    }
    Some(Entry {
        sequence: le64_at(&bytes, 16)?,
        tail: u64::from(le32_at(&bytes, 12)?),
        length: length as u64,
        file_length: le64_at(&bytes, 56)?,
        bytes,
    })
}

/// Notes what an entry writes.
fn apply(entry: &Entry, replay: &mut Replay) -> io::Result<()> {
    let wrong = || damaged("its log has an entry that makes no sense");
    let bytes = &entry.bytes;
    let count = le32_at(bytes, 24).ok_or_else(wrong)? as usize;
    let mut data = count
        .checked_mul(32)
        .and_then(|size| size.checked_add(64))
        .ok_or_else(wrong)?
        .next_multiple_of(SECTOR);
    for index in 0..count {
        let at = 64 + index * 32;
        let descriptor = bytes.get(at..at + 32).ok_or_else(wrong)?;
        let offset =
            le64_at(descriptor, 16).filter(|at| at.is_multiple_of(SECTOR as u64)).ok_or_else(wrong)?;
        if le64_at(descriptor, 24) != Some(entry.sequence) || offset > 1 << 56 {
            return Err(wrong());
        }
        match &descriptor[..4] {
            b"zero" => {
                let length = le64_at(descriptor, 8).filter(|length| *length <= 1 << 56).ok_or_else(wrong)?;
                replay.pages.retain(|page, _| *page < offset || *page >= offset + length);
                replay.zeros.push((offset, length));
            }
            b"desc" => {
                let sector = bytes.get(data..data + SECTOR).ok_or_else(wrong)?;
                let sequence = u64::from(le32_at(sector, 4).ok_or_else(wrong)?) << 32
                    | u64::from(le32_at(sector, SECTOR - 4).ok_or_else(wrong)?);
                if !sector.starts_with(b"data") || sequence != entry.sequence {
                    return Err(wrong());
                }
                // The sector's signs stand where bytes belong that the descriptor has.
                let mut page = sector.to_vec();
                page[..8].copy_from_slice(&descriptor[8..16]);
                page[SECTOR - 4..].copy_from_slice(&descriptor[4..8]);
                replay.pages.insert(offset, page);
                data += SECTOR;
            }
            _ => return Err(wrong()),
        }
    }
    Ok(())
}

/// Carries the log out in the file.
pub(super) fn carry_out(storage: &dyn Storage, replay: &Replay) -> io::Result<()> {
    if storage.length()? < replay.file_length {
        storage.set_length(replay.file_length.next_multiple_of(UNIT))?;
    }
    for (offset, length) in &replay.zeros {
        storage.zero(*offset, *length, false)?;
    }
    for (offset, page) in &replay.pages {
        storage.write_at(page, *offset)?;
    }
    storage.sync()
}
