//! VHDX, the format of Hyper-V: Microsoft's \[MS-VHDX\].
//!
//! ```text
//! header.rs     headers and regions
//! metadata.rs   what the file says of its disk
//! log.rs        what its last user did not finish
//! map.rs        which block is where
//! crc.rs        checksums
//! guid.rs       identifiers
//! ```
//!
//! Fixed and dynamic disks are supported, differencing disks are not. A log that was left is carried out when the file is opened to
//! be written, and looked through when it is only read. A new one is not kept: `map.rs` says why none is needed.

mod crc;
mod guid;
mod header;
mod log;
mod map;
mod metadata;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::disk::RangeLimits;
use crate::error::Fault;
use crate::image::mapped::{Mapped, Setup};
use crate::image::{Facts, Image};
use crate::random;
use crate::storage::{Patched, Storage};

use header::{FILE_SIGNATURE, HEADER, HEADERS, Header, REGION_TABLE, REGION_TABLES, Regions, UNIT};
use map::VhdxMap;
use metadata::Metadata;

/// Bytes of a new disk's blocks.
const BLOCK: u32 = 32 << 20;

/// What is told of an image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Summary {
    /// Whether it has the size of its disk.
    pub is_fixed: bool,
    /// Bytes of a block.
    pub block_size: u32,
    /// Bytes of a logical sector.
    pub sector: u32,
    /// Whether its last user left something to be done.
    pub has_log: bool,
}

/// Opens an image.
///
/// # Errors
/// It is no VHDX, damaged, or uses something that is not supported.
pub(crate) fn open(
    storage: Arc<dyn Storage>,
    is_writable: bool,
    is_flushed: bool,
) -> Result<(Arc<dyn Image>, Summary), Fault> {
    let mut signature = [0; 8];
    storage.read_at(&mut signature, 0)?;
    if signature != FILE_SIGNATURE {
        return Err(Fault::Alien("it does not begin with 'vhdxfile'".to_owned()));
    }
    let (header, place) = read_header(&*storage)?;
    header.check(storage.length()?)?;
    let replay = log::read(&*storage, &header)?;
    let has_log = replay.is_some();
    let storage: Arc<dyn Storage> = match replay {
        Some(replay) if is_writable => {
            log::carry_out(&*storage, &replay)?;
            storage
        }
        Some(replay) => Arc::new(Patched::new(storage, replay.zeros, replay.pages, replay.file_length)?),
        None => storage,
    };
    if is_writable {
        claim(&*storage, &header, place)?;
    }
    let regions = read_regions(&*storage)?;
    let mut bytes = vec![0; (regions.metadata.1 as usize).min(128 << 10)];
    storage.read_at(&mut bytes, regions.metadata.0)?;
    let metadata = Metadata::parse(&bytes)?;
    if map::table_length(&metadata) > regions.table.1 {
        let text = format!("its table of blocks has {} bytes, and needs more", regions.table.1);
        return Err(Fault::Damaged(text));
    }
    let end = |(offset, length): (u64, u64)| (offset, offset + length);
    let log = (header.log_offset, u64::from(header.log_length));
    let taken = vec![(0, UNIT), end(log), end(regions.table), end(regions.metadata)];
    let map = VhdxMap::new(Arc::clone(&storage), metadata, regions.table.0, taken, is_writable)?;
    let limits = is_writable.then_some(RangeLimits { most: 1 << 30, alignment: 4096 });
    let facts = Facts {
        is_writable,
        block_size: metadata.sector,
        optimal_size: 4096,
        discard: limits,
        write_zeroes: limits,
    };
    let summary = Summary {
        is_fixed: metadata.is_fixed,
        block_size: metadata.block_size,
        sector: metadata.sector,
        has_log,
    };
    let setup = Setup { storage, backing: None, size: metadata.size, facts, is_flushed };
    Ok((Arc::new(Mapped::new(map, setup)), summary))
}

/// Reads the header that counts: the one with the higher number. Also tells where it is.
fn read_header(storage: &dyn Storage) -> Result<(Header, u64), Fault> {
    let mut best: Option<(Header, u64)> = None;
    for place in HEADERS {
        let mut bytes = vec![0; HEADER];
        storage.read_at(&mut bytes, place)?;
        if let Some(header) = Header::parse(&bytes)
            && best.as_ref().is_none_or(|(other, _)| header.sequence > other.sequence)
        {
            best = Some((header, place));
        }
    }
    best.ok_or_else(|| Fault::Damaged("neither of its headers is valid".to_owned()))
}

fn read_regions(storage: &dyn Storage) -> Result<Regions, Fault> {
    let mut result = Err(Fault::Damaged("it has no regions".to_owned()));
    for place in REGION_TABLES {
        let mut bytes = vec![0; REGION_TABLE];
        storage.read_at(&mut bytes, place)?;
        result = Regions::parse(&bytes);
        if !matches!(result, Err(Fault::Damaged(_))) {
            break;
        }
    }
    result
}

/// Says in the headers that the file is about to be written, and that its log is done with. One is valid at any moment.
fn claim(storage: &dyn Storage, header: &Header, place: u64) -> Result<(), Fault> {
    let mut next = header.clone();
    (next.file_write, next.data_write) = (random::bytes()?, random::bytes()?);
    next.log = [0; 16];
    let [first, second] = HEADERS;
    let other = if place == first { second } else { first };
    for place in [other, place] {
        next.sequence = next.sequence.wrapping_add(1);
        storage.write_at(&next.encode(), place)?;
        storage.sync()?;
    }
    Ok(())
}

/// Writes a new image to `storage`, which is empty.
///
/// # Errors
/// The disk would be too large, or cannot be written.
pub(crate) fn create(storage: &dyn Storage, size: u64) -> Result<(), Fault> {
    if size > metadata::MOST_SIZE {
        return Err(Fault::Unsupported("cannot have more than 64 TiB".to_owned()));
    }
    let metadata = Metadata { size, block_size: BLOCK, sector: 512, physical_sector: 4096, is_fixed: false };
    let table = map::table_length(&metadata).next_multiple_of(UNIT).max(UNIT);
    let regions = Regions { table: (3 * UNIT, table), metadata: (2 * UNIT, UNIT) };
    let header = Header {
        sequence: 1,
        file_write: random::bytes()?,
        data_write: random::bytes()?,
        log: [0; 16],
        log_length: UNIT as u32,
        log_offset: UNIT,
    };
    storage.set_length(3 * UNIT + table)?;
    storage.write_at(&metadata.encode(random::bytes()?), regions.metadata.0)?;
    for place in REGION_TABLES {
        storage.write_at(&regions.encode(), place)?;
    }
    for place in HEADERS {
        storage.write_at(&header.encode(), place)?;
    }
    let mut signature = FILE_SIGNATURE.to_vec();
    signature.extend("Tern".encode_utf16().flat_map(u16::to_le_bytes));
    storage.write_at(&signature, 0)?;
    Ok(())
}

/// Puts right the checksums of everything that has one, in a file that was made up.
pub(crate) fn seal(file: &mut [u8]) {
    let places = HEADERS
        .map(|place| (place, HEADER))
        .into_iter()
        .chain(REGION_TABLES.map(|place| (place, REGION_TABLE)));
    for (place, length) in places {
        if let Some(bytes) = file.get_mut(place as usize..place as usize + length) {
            header::seal(bytes);
        }
    }
    // Entries of a log in its usual place.
    for place in (UNIT as usize..2 * UNIT as usize).step_by(4096) {
        let Some(start) = file.get(place..place + 12).filter(|start| start.starts_with(b"loge")) else {
            continue;
        };
        let length = u32::from_le_bytes([start[8], start[9], start[10], start[11]]) as usize;
        if let Some(bytes) = file.get_mut(place..place.saturating_add(length)).filter(|bytes| bytes.len() > 8)
        {
            header::seal(bytes);
        }
    }
}
