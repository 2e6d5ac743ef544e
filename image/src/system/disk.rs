//! Looking for a system on a disk: its root file system, and in it the kernel and the initramfs that would boot it.
//!
//! The disk is divided by a GUID partition table (`gpt.rs`), or is one file system. The file system is
//! ext4, as in Debian's cloud images.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use ext4_view::{Ext4, Ext4Error, Ext4Read};
use tern_disk::tool::{Contents, Existing};

use super::gpt;
use crate::Error;

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
    let start = gpt::root(disk.size(), |start, bytes| disk.read_at(start, bytes))
        .map_err(Error::io("read", image))?;
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

#[cfg(test)]
mod tests {
    use super::*;

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
