//! Looking for a system on a disk: its root file system, and in it the kernel and the initramfs that would boot it.
//!
//! The disk is divided by a GUID partition table (UEFI specification, section 5.3), or is one file system. The file system is
//! ext4, as in Debian's cloud images.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ext4_view::{Ext4, Ext4Error, Ext4Read};
use tern_disk::tool::{Contents, Existing};

use crate::Error;

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

/// What was found.
#[derive(Debug)]
pub(super) struct Found {
    /// The distribution's version.
    pub version: String,
    /// The kernel's release.
    pub kernel: String,
    /// The file system's name, as a kernel's `root=` takes it.
    pub root: String,
}

/// A file system on a disk, by its first byte.
struct Part {
    disk: Arc<Contents>,
    start: u64,
}

impl Ext4Read for Part {
    fn read(
        &mut self,
        start: u64,
        bytes: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        let start = self.start.checked_add(start).ok_or("beyond the end of every disk")?;
        Ok(self.disk.read_at(start, bytes)?)
    }
}

/// Copies the newest kernel of the system on the disk `image` to `kernel`, and its initramfs to `initrd`.
///
/// # Errors
/// There is no such system, or it cannot be read.
pub(super) fn take_out(image: &Path, kernel: &Path, initrd: &Path) -> Result<Found, Error> {
    let none = |why: String| Error::NoSystem { path: image.to_owned(), why };
    let disk = Arc::new(Contents::open(&Existing::new(image))?);
    let start = root(&disk).map_err(Error::io("read", image))?;
    let start = start.ok_or_else(|| none("it has no partition for Linux".to_owned()))?;
    let unreadable = |error: Ext4Error| none(format!("its root file system cannot be read ({error})"));
    let files = Ext4::load(Box::new(Part { disk, start })).map_err(unreadable)?;
    let release = newest(&files).map_err(unreadable)?;
    let release = release.ok_or_else(|| none("there is no kernel in /boot".to_owned()))?;
    for (name, target) in [("vmlinuz", kernel), ("initrd.img", initrd)] {
        let bytes = files.read(format!("/boot/{name}-{release}").as_str()).map_err(unreadable)?;
        fs::write(target, bytes).map_err(Error::io("write", target))?;
    }
    let version = files.read_to_string("/etc/debian_version").unwrap_or_default().trim().to_owned();
    let uuid = uuid(files.uuid().as_bytes());
    Ok(Found { version, kernel: release, root: format!("UUID={uuid}") })
}

fn uuid(bytes: &[u8; 16]) -> String {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// The release of the newest kernel in /boot that has an initramfs.
fn newest(files: &Ext4) -> Result<Option<String>, Ext4Error> {
    let mut releases = Vec::new();
    for entry in files.read_dir("/boot")? {
        let entry = entry?;
        let name = entry.file_name();
        if let Some(release) = name.as_str().ok().and_then(|name| name.strip_prefix("vmlinuz-"))
            && files.exists(format!("/boot/initrd.img-{release}").as_str())?
        {
            releases.push(release.to_owned());
        }
    }
    Ok(releases.into_iter().max_by_key(|release| numbers(release)))
}

/// The numbers in a release, by which it is newer or older.
fn numbers(release: &str) -> Vec<u64> {
    release.split(|letter: char| !letter.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

/// Where on the disk the root file system begins, in bytes: the partition that says so, else the largest of Linux's; the
/// disk itself if it is not divided.
fn root(disk: &Contents) -> std::io::Result<Option<u64>> {
    let mut header = [0; HEADER];
    if disk.size() < 2 * BLOCK {
        return Ok(None);
    }
    disk.read_at(BLOCK, &mut header[..])?;
    if !header.starts_with(b"EFI PART") {
        return Ok(Some(0));
    }
    let (table, count, size) = (long(&header, 72), word(&header, 80), word(&header, 84));
    let mut linux = None;
    for index in 0..count.min(MOST_ENTRIES) {
        let place = table
            .checked_mul(BLOCK)
            .and_then(|table| table.checked_add(u64::from(index).checked_mul(u64::from(size))?));
        let Some(place) = place else { break };
        let mut entry = [0; ENTRY];
        disk.read_at(place, &mut entry)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(bytes: &[u8]) -> (tempfile::TempDir, Contents) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.raw");
        fs::write(&path, bytes).unwrap();
        let mut image = Existing::new(&path);
        image.format = Some(tern_disk::Format::Raw);
        let contents = Contents::open(&image).unwrap();
        (directory, contents)
    }

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
        let (_directory, disk) = disk(bytes);
        root(&disk).unwrap()
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
            let (_directory, disk) = disk(&bytes);
            let _ = root(&disk);
        }
        assert_eq!(found(&divided(&[(LINUX, u64::MAX, 0), (LINUX, 9, 3)])), None);
    }

    #[test]
    fn the_newest_kernel_has_the_highest_numbers() {
        let releases = ["6.12.9-1-amd64", "6.12.10-1-amd64", "6.1.0-56-amd64"];
        assert_eq!(releases.into_iter().max_by_key(|release| numbers(release)), Some("6.12.10-1-amd64"));
    }

    #[test]
    fn a_uuid_is_written_as_the_kernel_reads_it() {
        let bytes: [u8; 16] = std::array::from_fn(|index| index as u8 * 17);
        assert_eq!(uuid(&bytes), "00112233-4455-6677-8899-aabbccddeeff");
    }
}
