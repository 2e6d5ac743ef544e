//! Hostile images: what the fuzz targets do with bytes, and the tests with the bytes that the targets found.

use std::sync::Arc;

use crate::error::Fault;
use crate::image::{Access, Image, Place};
use crate::options::Format;
use crate::storage::Storage;
use crate::storage::memory::MemoryStorage;
use crate::{qcow2, vhd, vhdx, vmdk};

/// The longest file that is made of an input, in bytes: no longer than it must be, so that a fuzzer gets far.
fn longest(format: Format) -> u64 {
    match format {
        Format::Raw | Format::Qcow2 | Format::Vmdk => 1 << 20,
        Format::Vhd => 4 << 20,
        Format::Vhdx => 10 << 20,
    }
}

/// Makes a file of pieces: each is an offset (four bytes, little-endian), a length (two bytes), and its bytes. So a short input
/// reaches structures that are far apart.
#[must_use]
pub fn assemble(format: Format, input: &[u8]) -> Vec<u8> {
    let mut file = Vec::new();
    let mut rest = input;
    while let Some((head, behind)) = rest.split_at_checked(6) {
        let offset = u64::from(u32::from_le_bytes([head[0], head[1], head[2], head[3]])) % longest(format);
        let length = usize::from(u16::from_le_bytes([head[4], head[5]])).min(behind.len());
        // Below 16 MiB.
        let (start, end) = (offset as usize, offset as usize + length);
        if file.len() < end {
            file.resize(end, 0);
        }
        file[start..end].copy_from_slice(&behind[..length]);
        rest = &behind[length..];
    }
    // Zeros at the end are in no piece; a VHD has none.
    if format != Format::Vhd {
        file.resize(file.len().next_multiple_of(64 << 10), 0);
    }
    file
}

/// The pieces of a file, as [`assemble`] takes them: what is not zeros.
#[must_use]
pub fn disassemble(file: &[u8]) -> Vec<u8> {
    let mut input = Vec::new();
    let mut at = 0;
    while at < file.len() {
        let Some(skip) = file[at..].iter().position(|byte| *byte != 0) else { break };
        let start = at + skip;
        let rest = &file[start..];
        // Up to the next sixteen zeros.
        let zeros = rest.windows(16).position(|window| window.iter().all(|byte| *byte == 0));
        let length = zeros.unwrap_or(rest.len()).min(4096);
        input.extend((start as u32).to_le_bytes());
        input.extend((length as u16).to_le_bytes());
        input.extend(&rest[..length]);
        at = start + length.max(1);
    }
    input
}

/// Opens the pieces in `input` as an image of a format, reads it, writes it, checks it. Nothing must come of it but errors.
pub fn exercise(format: Format, input: &[u8]) {
    let mut file = assemble(format, input);
    seal(format, &mut file);
    for is_writable in [false, true] {
        let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(file.clone()));
        if let Ok(image) = open(format, &storage, is_writable) {
            use_image(&*image, input);
            drop(image);
            // What was written, by whatever rules, can be opened again or not.
            let _ = open(format, &storage, false);
        }
        check(format, &storage, is_writable);
    }
}

/// Puts right the checksums of what is there: a fuzzer would hardly find them.
fn seal(format: Format, file: &mut [u8]) {
    match format {
        Format::Vhd => vhd::seal(file),
        Format::Vhdx => vhdx::seal(file),
        _ => {}
    }
}

fn open(format: Format, storage: &Arc<dyn Storage>, is_writable: bool) -> Result<Arc<dyn Image>, Fault> {
    let storage = Arc::clone(storage);
    match format {
        Format::Raw => Err(Fault::Alien("nothing can be wrong with a raw image".to_owned())),
        Format::Qcow2 => {
            let header = qcow2::read_header(&*storage)?;
            Ok(Arc::new(qcow2::open(storage, &header, None, is_writable, true)?))
        }
        Format::Vmdk => {
            let contained = vmdk::read(&*storage)?;
            let header = contained.header.ok_or_else(|| Fault::Alien("it is a descriptor".to_owned()))?;
            vmdk::sparse(storage, header, header.size, None, is_writable, true)
        }
        Format::Vhd => vhd::open(storage, is_writable, true).map(|(image, _)| image),
        Format::Vhdx => vhdx::open(storage, is_writable, true).map(|(image, _)| image),
    }
}

/// Requests all over the disk.
fn use_image(image: &dyn Image, input: &[u8]) {
    let size = image.size();
    if size == 0 {
        return;
    }
    let mut places: Vec<u64> = vec![0, size / 2, size.saturating_sub(1536)];
    places.extend(input.rchunks(8).take(8).map(|bytes| {
        let number = bytes.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        number % size
    }));
    let mut bytes = vec![0x5a; 4096];
    let is_writable = image.facts().is_writable;
    for (turn, place) in places.into_iter().enumerate() {
        let offset = place / 512 * 512;
        let length = (size - offset).min(4096) as usize / 512 * 512;
        if length == 0 {
            continue;
        }
        let part = &mut bytes[..length];
        let _ = image.read_at(offset, part);
        let _ = image.owned(offset, length as u64);
        for access in [Access::Read, Access::Write] {
            if let Ok(run) = image.locate(offset, length as u64, access) {
                assert!(run.length > 0 && run.length <= length as u64, "a run of {} bytes", run.length);
                assert!(
                    access == Access::Read || !matches!(run.place, Place::Zero),
                    "zeros cannot be overwritten"
                );
            }
        }
        if is_writable {
            let _ = match turn % 4 {
                0 | 1 => image.write_at(offset, part),
                2 => image.write_zeroes(offset, length as u64, true),
                _ => image.discard(offset, length as u64),
            };
        }
    }
    let _ = image.flush();
}

fn check(format: Format, storage: &Arc<dyn Storage>, is_mended: bool) {
    if format != Format::Qcow2 {
        return;
    }
    let Ok(header) = qcow2::read_header(&**storage) else { return };
    let Ok((snapshots, length)) = qcow2::read_snapshots(&**storage, &header) else { return };
    let first = qcow2::check(storage, &header, &snapshots, length, is_mended, &mut |_, _| {});
    if is_mended && first.is_ok_and(|findings| findings.damages.count == 0) {
        // What was mended is mended.
        let Ok(header) = qcow2::read_header(&**storage) else { return };
        if let Ok(again) = qcow2::check(storage, &header, &snapshots, length, false, &mut |_, _| {}) {
            assert_eq!(again.damages.told, Vec::<String>::new());
        }
    }
}

/// Sound images of a format, for a fuzzer to begin with.
#[must_use]
pub fn seeds(format: Format) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for is_written in [false, true] {
        let storage = Arc::new(MemoryStorage::default());
        let made = match format {
            Format::Raw => return seeds,
            Format::Qcow2 => {
                let mut new = qcow2::NewQcow2::new(1 << 20);
                new.cluster_bits = 9;
                qcow2::create(&*storage, &new)
            }
            Format::Vmdk => vmdk::create(&*storage, 1 << 20, "disk.vmdk"),
            Format::Vhd => vhd::create(&*storage, 5 << 20, false),
            Format::Vhdx => vhdx::create(&*storage, 4 << 20),
        };
        let dynamic: Arc<dyn Storage> = Arc::clone(&storage) as _;
        if made.is_ok()
            && is_written
            && let Ok(image) = open(format, &dynamic, true)
        {
            let _ = image.write_at(512, b"what is written");
            let _ = image.write_at(70_000 / 512 * 512, &[7; 1024]);
            let _ = image.flush();
        }
        seeds.push(disassemble(&storage.bytes()));
    }
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_sound_images() {
        for format in [Format::Qcow2, Format::Vmdk, Format::Vhd, Format::Vhdx] {
            for seed in seeds(format) {
                let file = assemble(format, &seed);
                let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(file));
                assert!(open(format, &storage, true).is_ok(), "{format}");
                exercise(format, &seed);
            }
        }
    }
}
