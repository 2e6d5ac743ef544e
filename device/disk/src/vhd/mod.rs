//! VHD, the format of Virtual PC and Azure: Microsoft's "Virtual Hard Disk Image Format Specification", version 1.0.
//!
//! ```text
//! footer.rs   the footer, and the header of dynamic disks
//! map.rs      which block of a dynamic disk is where
//! ```
//!
//! Fixed disks are raw with a footer behind. Differencing disks are not supported.

mod footer;
mod map;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::disk::RangeLimits;
use crate::error::Fault;
use crate::image::mapped::{Mapped, Setup};
use crate::image::{Facts, Image, Raw};
use crate::random;
use crate::storage::Storage;

use footer::{DynamicHeader, FOOTER, Footer, HEADER, Kind, MOST_SIZE};
use map::VhdMap;

/// Bytes of a new disk's blocks.
const BLOCK: u32 = 2 << 20;

/// What is told of an image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summary {
    /// Whether it has the size of its disk.
    pub is_fixed: bool,
    /// Bytes of a block of one that has not.
    pub block_size: u32,
}

/// Opens an image.
///
/// # Errors
/// It is no VHD, damaged, or uses something that is not supported.
pub(crate) fn open(
    storage: Arc<dyn Storage>,
    is_writable: bool,
    is_flushed: bool,
) -> Result<(Arc<dyn Image>, Summary), Fault> {
    let (footer, bytes) = read_footer(&*storage)?;
    match footer.kind {
        Kind::Fixed => {
            if !footer.is_behind_disk(storage.length()?) {
                let text = format!("its disk has {} bytes, for which the file has no room", footer.size);
                return Err(Fault::Damaged(text));
            }
            let raw = Raw::new(storage, 0, footer.size, is_writable, is_flushed);
            Ok((Arc::new(raw), Summary { is_fixed: true, block_size: 0 }))
        }
        Kind::Dynamic => {
            let mut header = vec![0; HEADER];
            storage.read_at(&mut header, footer.header_offset)?;
            let header = DynamicHeader::parse(&header, footer.size)?;
            let summary = Summary { is_fixed: false, block_size: header.block_size };
            let map = VhdMap::new(Arc::clone(&storage), header, bytes, is_writable)?;
            let limits = is_writable.then_some(RangeLimits { most: 1 << 30, alignment: 4096 });
            let facts = Facts {
                is_writable,
                block_size: 512,
                optimal_size: 4096,
                discard: limits,
                write_zeroes: limits,
            };
            let setup = Setup { storage, backing: None, size: footer.size, facts, is_flushed };
            Ok((Arc::new(Mapped::new(map, setup)), summary))
        }
        Kind::Differencing => Err(Fault::Unsupported(
            "is a differencing disk, which stands on another: merge them with the program that made it"
                .to_owned(),
        )),
    }
}

/// Reads the footer: its copy at the beginning of dynamic disks, else the one at the end. The beginning of a fixed disk is the
/// guest's, who may have written such a copy: it is not looked at.
fn read_footer(storage: &dyn Storage) -> Result<(Footer, Vec<u8>), Fault> {
    let mut bytes = vec![0; FOOTER];
    let length = storage.length()?;
    let end = length.checked_sub(FOOTER as u64);
    let end = end.ok_or_else(|| Fault::Alien("it is too short for a VHD".to_owned()))?;
    storage.read_at(&mut bytes, end)?;
    let at_end = Footer::parse(&bytes);
    if let Ok(footer) = &at_end
        && footer.kind == Kind::Fixed
        && footer.is_behind_disk(length)
    {
        return at_end.map(|footer| (footer, bytes));
    }
    let mut copy = vec![0; FOOTER];
    storage.read_at(&mut copy, 0)?;
    let at_start = Footer::parse(&copy);
    if matches!(&at_start, Ok(footer) if footer.kind != Kind::Fixed) {
        return at_start.map(|footer| (footer, copy));
    }
    match at_end {
        Ok(footer) => Ok((footer, bytes)),
        // What is wrong at the beginning is the better hint if there is something.
        Err(at_end) => Err(match at_start {
            Err(Fault::Damaged(text)) => Fault::Damaged(text),
            _ => at_end,
        }),
    }
}

/// Writes a new image to `storage`, which is empty.
///
/// # Errors
/// The disk would be too large, or cannot be written.
pub(crate) fn create(storage: &dyn Storage, size: u64, is_fixed: bool) -> Result<(), Fault> {
    if size > MOST_SIZE {
        let text = "cannot have more than 2040 GiB: use vhdx".to_owned();
        return Err(Fault::Unsupported(text));
    }
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let unique = random::bytes()?;
    if is_fixed {
        let footer = Footer { kind: Kind::Fixed, size, header_offset: u64::MAX };
        storage.write_at(&footer.encode(unique, seconds), size)?;
        return Ok(());
    }
    let footer = Footer { kind: Kind::Dynamic, size, header_offset: FOOTER as u64 };
    let footer = footer.encode(unique, seconds);
    let entries = u32::try_from(size.div_ceil(u64::from(BLOCK))).unwrap_or(u32::MAX);
    let header = DynamicHeader { table_offset: (FOOTER + HEADER) as u64, entries, block_size: BLOCK };
    let table = vec![0xff; (entries as usize * 4).next_multiple_of(512)];
    storage.write_at(&footer, header.table_offset + table.len() as u64)?;
    storage.write_at(&table, header.table_offset)?;
    storage.write_at(&header.encode(), FOOTER as u64)?;
    storage.write_at(&footer, 0)?;
    Ok(())
}

/// Puts right the checksums of footers and header, in a file that was made up.
pub(crate) fn seal(file: &mut [u8]) {
    let end = file.len().saturating_sub(FOOTER);
    for (place, length, sum) in [(0, FOOTER, 64), (FOOTER, HEADER, 36), (end, FOOTER, 64)] {
        if let Some(bytes) = file.get_mut(place..place + length) {
            footer::seal(bytes, sum);
        }
    }
}
