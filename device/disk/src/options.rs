//! What a user says about a disk: `PATH[,ro][,format=FORMAT][,cache=CACHE][,overlay]`.

use std::path::PathBuf;

/// The image formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// The disk's bytes and nothing else.
    Raw,
    /// QEMU's.
    Qcow2,
    /// VMware's.
    Vmdk,
    /// Microsoft's Virtual PC and Azure.
    Vhd,
    /// Microsoft's Hyper-V.
    Vhdx,
}

/// What happens between a write and the host's device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Cache {
    /// Writes go to the host's page cache; a flush of the guest writes them to the device.
    #[default]
    WriteBack,
    /// Reads and writes go around the host's page cache (`O_DIRECT`); a flush is still a flush.
    None,
    /// As `WriteBack`, but the guest's flushes are not passed on: a crash of the host may destroy the disk.
    Unsafe,
}

/// A disk, as a user asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiskOptions {
    /// The image.
    pub path: PathBuf,
    /// Whether the guest may only read.
    pub is_read_only: bool,
    /// What the file is, if it is not to be recognised by its contents.
    pub format: Option<Format>,
    /// What happens between a write and the host's device.
    pub cache: Cache,
    /// Whether writes go to a temporary file that is gone with the disk, and leave the image as it is.
    pub has_overlay: bool,
}

impl DiskOptions {
    /// The image at `path`, to be read and written, with everything else as usual.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            is_read_only: false,
            format: None,
            cache: Cache::default(),
            has_overlay: false,
        }
    }
}
