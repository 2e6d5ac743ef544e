//! VMDK, VMware's format: "Virtual Disk Format 1.1".
//!
//! ```text
//! descriptor.rs   the text that says of what the disk is made
//! sparse.rs       the header of a sparse extent
//! map.rs          which grain of it is where
//! ```
//!
//! Supported: sparse extents (`monolithicSparse`, `twoGbMaxExtentSparse`), flat ones (`monolithicFlat`, `twoGbMaxExtentFlat`, `vmfs`), and,
//! to be read, compressed ones (`streamOptimized`, as in OVA files). Not supported: ESX's own sparse extents.

mod descriptor;
mod map;
mod sparse;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;

use crate::disk::RangeLimits;
use crate::error::Fault;
use crate::image::mapped::{Mapped, Setup};
use crate::image::{Facts, Image};
use crate::random;
use crate::storage::Storage;

pub(crate) use descriptor::{Contents, Descriptor, Extent};
pub(crate) use sparse::SparseHeader;

use map::VmdkMap;
use sparse::{HEADER, Parsed, SECTOR};

/// Bytes of a new image's grains.
const GRAIN: u64 = 64 << 10;

/// What a file is.
#[derive(Debug)]
pub(crate) struct Contained {
    /// The header, if the file is a sparse extent.
    pub header: Option<SparseHeader>,
    /// The descriptor, in it or instead of it.
    pub descriptor: Option<Descriptor>,
    /// Where the content's identifier is written in the file.
    id_place: Option<u64>,
}

/// Reads what a file is.
///
/// # Errors
/// It is no VMDK, damaged, or uses something that is not supported.
pub(crate) fn read(storage: &dyn Storage) -> Result<Contained, Fault> {
    let mut start = vec![0; HEADER];
    storage.read_at(&mut start, 0)?;
    if start.starts_with(b"# Disk DescriptorFile") {
        let length = storage.length()?.min(descriptor::MOST as u64) as usize;
        let mut text = vec![0; length];
        storage.read_at(&mut text, 0)?;
        let descriptor = Descriptor::parse(&text)?;
        let id_place = descriptor.id_place.map(|place| place as u64);
        return Ok(Contained { header: None, descriptor: Some(descriptor), id_place });
    }
    let header = read_extent(storage)?;
    let (offset, length) = header.descriptor;
    if offset == 0 || length == 0 {
        return Ok(Contained { header: Some(header), descriptor: None, id_place: None });
    }
    let mut text = vec![0; length.min(descriptor::MOST as u64) as usize];
    storage.read_at(&mut text, offset)?;
    let descriptor = Descriptor::parse(&text).map_err(|fault| match fault {
        Fault::Alien(text) => Fault::Damaged(text),
        other => other,
    })?;
    let id_place = descriptor.id_place.map(|place| offset + place as u64);
    Ok(Contained { header: Some(header), descriptor: Some(descriptor), id_place })
}

/// Reads the header of a sparse extent, which may have no descriptor.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_extent(storage: &dyn Storage) -> Result<SparseHeader, Fault> {
    let mut start = vec![0; HEADER];
    storage.read_at(&mut start, 0)?;
    match SparseHeader::parse(&start)? {
        Parsed::Complete(header) => Ok(header),
        Parsed::InFooter => read_footer(storage),
    }
}

/// Reads the footer of a stream, which says what the header could not know yet.
fn read_footer(storage: &dyn Storage) -> Result<SparseHeader, Fault> {
    let missing = || Fault::Damaged("its end is missing: it was not transferred completely".to_owned());
    let place = storage.length()?.checked_sub(1024).ok_or_else(missing)?;
    let mut bytes = vec![0; HEADER];
    storage.read_at(&mut bytes, place)?;
    match SparseHeader::parse(&bytes) {
        Ok(Parsed::Complete(header)) => Ok(header),
        Ok(Parsed::InFooter) | Err(Fault::Alien(_)) => Err(missing()),
        Err(fault) => Err(fault),
    }
}

impl Contained {
    /// Says in the descriptor that the content is about to change, so that disks that stand on it notice.
    pub(crate) fn claim(&self, storage: &dyn Storage) -> io::Result<()> {
        let Some(place) = self.id_place else { return Ok(()) };
        // All ones would mean that there is no content.
        let id = u32::from_le_bytes(random::bytes()?) & 0x7fff_ffff;
        storage.write_at(format!("{id:08x}").as_bytes(), place)
    }
}

/// Opens a sparse extent of `size` bytes.
///
/// # Errors
/// It is damaged, or is to be written and cannot.
pub(crate) fn sparse(
    storage: Arc<dyn Storage>,
    header: SparseHeader,
    size: u64,
    backing: Option<Arc<dyn Image>>,
    is_writable: bool,
    is_flushed: bool,
) -> Result<Arc<dyn Image>, Fault> {
    if size > header.size {
        return Err(Fault::Damaged(format!(
            "a part of it has {} bytes, and should have {size}",
            header.size
        )));
    }
    if header.is_compressed && is_writable {
        return Err(Fault::Unsupported(
            "is compressed for transport (streamOptimized), and can only be read: give it with ',ro' or ',overlay', or convert it \
             with `tern image convert`"
                .to_owned(),
        ));
    }
    let map = VmdkMap::new(Arc::clone(&storage), header, is_writable)?;
    let limits = is_writable.then_some(RangeLimits { most: 1 << 30, alignment: 4096 });
    let facts =
        Facts { is_writable, block_size: 512, optimal_size: 4096, discard: limits, write_zeroes: limits };
    Ok(Arc::new(Mapped::new(map, Setup { storage, backing, size, facts, is_flushed })))
}

/// Writes a new image of kind `monolithicSparse` to `storage`, which is empty. `name` is the file's own name.
///
/// ```text
/// header │ descriptor │ copy of the directory │ its tables │ directory │ its tables │ grains…
/// ```
///
/// # Errors
/// The disk would be too large, or cannot be written.
pub(crate) fn create(storage: &dyn Storage, size: u64, name: &str) -> Result<(), Fault> {
    if size > 2 << 40 {
        return Err(Fault::Unsupported("cannot have more than 2 TiB: use vhdx or qcow2".to_owned()));
    }
    let (descriptor, directory) = ((SECTOR, 20 * SECTOR), SECTOR + 20 * SECTOR);
    let mut header = SparseHeader {
        size: size.next_multiple_of(SECTOR),
        grain: GRAIN,
        entries: 512,
        directory,
        copy: Some(directory),
        descriptor,
        overhead: 0,
        has_zero_grains: false,
        is_compressed: false,
        has_markers: false,
    };
    let tables = header.tables();
    let directory_size = (tables * 4).next_multiple_of(SECTOR);
    let both = directory_size + tables * header.table_size();
    header.directory = directory + both;
    header.overhead = (header.directory + both).next_multiple_of(GRAIN);
    storage.set_length(header.overhead)?;
    for place in [directory, header.directory] {
        let first = place + directory_size;
        let entry = |table: u64| ((first + table * header.table_size()) / SECTOR) as u32;
        let bytes: Vec<u8> = (0..tables).flat_map(|table| entry(table).to_le_bytes()).collect();
        storage.write_at(&bytes, place)?;
    }
    let name = name.replace(['"', '\n'], "_");
    let extent = format!("RW {} SPARSE \"{name}\"", header.size / SECTOR);
    let id = u32::from_le_bytes(random::bytes()?) & 0x7fff_ffff;
    let text = descriptor::encode("monolithicSparse", id, &extent, size);
    if text.len() as u64 > descriptor.1 {
        return Err(Fault::Unsupported("cannot have so long a name".to_owned()));
    }
    storage.write_at(text.as_bytes(), descriptor.0)?;
    storage.write_at(&header.encode(), 0)?;
    Ok(())
}
