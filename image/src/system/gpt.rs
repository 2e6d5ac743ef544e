//! The GUID partition table (UEFI specification, section 5.3), as far as it tells where a Linux's root file system is. It comes from a
//! disk image, and is as hostile as that.

use std::io;

/// Bytes of a block in a partition table's addresses.
const BLOCK: u64 = 512;
/// Bytes of a partition table's header that are looked at.
const HEADER: usize = 92;
/// Most entries of a table that are looked at.
const MOST_ENTRIES: u32 = 256;
/// Bytes of an entry that are looked at, which are the least that it has.
const ENTRY: usize = 128;

/// The type of a partition with an x86-64 Linux's root, 4f68bce3-e8cd-4db1-96e7-fbcaf984b709, as it is stored.
const ROOT: [u8; 16] =
    [0xe3, 0xbc, 0x68, 0x4f, 0xcd, 0xe8, 0xb1, 0x4d, 0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 0x09];
/// The type of any of Linux's partitions, 0fc63daf-8483-4772-8e79-3d69d8477de4.
const LINUX: [u8; 16] =
    [0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47, 0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4];

/// Where on the disk the root file system begins, in bytes: the partition that says so, else the largest of Linux's; the
/// disk itself if it is not divided. It has `size` bytes, which `read_at` reads.
///
/// # Errors
/// Those of `read_at`: what the table names may be beyond the disk's end.
pub(super) fn root(
    size: u64,
    mut read_at: impl FnMut(u64, &mut [u8]) -> io::Result<()>,
) -> io::Result<Option<u64>> {
    let mut header = [0; HEADER];
    if size < 2 * BLOCK {
        return Ok(None);
    }
    read_at(BLOCK, &mut header)?;
    if !header.starts_with(b"EFI PART") {
        return Ok(Some(0));
    }
    let (table, count, length) = (long(&header, 72), word(&header, 80), word(&header, 84));
    let mut linux = None;
    for index in 0..count.min(MOST_ENTRIES) {
        let place = table
            .checked_mul(BLOCK)
            .and_then(|table| table.checked_add(u64::from(index).checked_mul(u64::from(length))?));
        let Some(place) = place else { break };
        let mut entry = [0; ENTRY];
        read_at(place, &mut entry)?;
        let (first, last) = (long(&entry, 32), long(&entry, 40));
        let (Some(start), Some(blocks)) = (first.checked_mul(BLOCK), last.checked_sub(first)) else {
            continue;
        };
        if entry.starts_with(&ROOT) {
            return Ok(Some(start));
        }
        if entry.starts_with(&LINUX) && linux.is_none_or(|(most, _)| blocks > most) {
            linux = Some((blocks, start));
        }
    }
    Ok(linux.map(|(_, start)| start))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// Looks for a root file system on a disk of these bytes, for the fuzzer: whatever they are, it ends soon and without a panic.
#[doc(hidden)]
pub fn exercise(bytes: &[u8]) {
    let mut reads = 0;
    let found = root(bytes.len() as u64, |start, into| {
        reads += 1;
        read(bytes, start, into)
    });
    // What is found is an address; whether anything is there, whoever reads it finds out.
    drop(found);
    assert!(reads <= MOST_ENTRIES + 1, "a table keeps its reader busy");
}

fn read(bytes: &[u8], start: u64, into: &mut [u8]) -> io::Result<()> {
    let rest = usize::try_from(start).ok().and_then(|start| bytes.get(start..));
    let part = rest.and_then(|rest| rest.get(..into.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
    into.copy_from_slice(part);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// A disk of 64 KiB with these partitions: type, first and last block.
    fn divided(partitions: &[([u8; 16], u64, u64)]) -> Vec<u8> {
        let mut bytes = vec![0; 64 << 10];
        bytes[512..520].copy_from_slice(b"EFI PART");
        bytes[512 + 72..][..8].copy_from_slice(&2_u64.to_le_bytes());
        bytes[512 + 80..][..4].copy_from_slice(&8_u32.to_le_bytes());
        bytes[512 + 84..][..4].copy_from_slice(&128_u32.to_le_bytes());
        for (index, (kind, first, last)) in partitions.iter().enumerate() {
            let entry = &mut bytes[1024 + index * 128..][..128];
            entry[..16].copy_from_slice(kind);
            entry[32..40].copy_from_slice(&first.to_le_bytes());
            entry[40..48].copy_from_slice(&last.to_le_bytes());
        }
        bytes
    }

    fn found(bytes: &[u8]) -> Option<u64> {
        root(bytes.len() as u64, |start, into| read(bytes, start, into)).unwrap()
    }

    #[test]
    fn the_root_is_the_partition_that_says_so_or_the_largest_of_linux() {
        assert_eq!(found(&divided(&[(LINUX, 40, 90), (ROOT, 100, 101)])), Some(100 * 512));
        assert_eq!(
            found(&divided(&[(LINUX, 40, 41), ([7; 16], 50, 99), (LINUX, 100, 109)])),
            Some(100 * 512)
        );
        assert_eq!(found(&divided(&[([7; 16], 50, 99)])), None);
        assert_eq!(found(&vec![0; 64 << 10]), Some(0), "a disk that is not divided");
        assert_eq!(found(&[0; 512]), None);
    }

    #[test]
    fn hostile_tables_are_no_harm() {
        let good = divided(&[(LINUX, 40, 90)]);
        for place in (512 + 72..512 + 88).chain(1024..1024 + 48) {
            let mut bytes = good.clone();
            bytes[place] = 0xff;
            exercise(&bytes);
        }
        assert_eq!(found(&divided(&[(LINUX, u64::MAX, 0), (LINUX, 9, 3)])), None);
    }

    #[test]
    fn corpus_of_the_fuzzer_is_no_harm() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/gpt");
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let files = files.map(|file| exercise(&fs::read(file.unwrap().path()).unwrap()));
        assert!(files.count() > 0);
    }
}
