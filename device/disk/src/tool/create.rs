//! New images.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use super::io_error;
use crate::chain::{Layer, OpenPlan};
use crate::error::DiskError;
use crate::options::Format;
use crate::qcow2::{self, NewQcow2};
use crate::storage::{HostFile, Storage};
use crate::{vhd, vhdx, vmdk};

/// What a new image is to be.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// Where.
    pub path: PathBuf,
    /// In which format.
    pub format: Format,
    /// How it is kept, where the format has a choice.
    pub subformat: Subformat,
    /// Bytes of the disk, a multiple of 512; that of the backing file if it is not given.
    pub size: Option<u64>,
    /// What it stands on.
    pub backing: Option<NewBacking>,
    /// Bytes of a cluster (qcow2), a power of two from 512 to 2 MiB; 64 KiB if it is not given.
    pub cluster_size: Option<u64>,
    /// Whether a file that is there is replaced.
    pub is_replacing: bool,
    /// Whether what is converted may make it look like another format to whoever is not told its own.
    pub may_look_different: bool,
}

impl NewImage {
    /// A disk of `size` bytes at `path`, as usual otherwise.
    pub fn new(path: impl Into<PathBuf>, format: Format, size: Option<u64>) -> Self {
        Self {
            path: path.into(),
            format,
            subformat: Subformat::Usual,
            size,
            backing: None,
            cluster_size: None,
            is_replacing: false,
            may_look_different: false,
        }
    }
}

/// How an image is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Subformat {
    /// Growing with what is written; raw files have holes.
    #[default]
    Usual,
    /// With the size of the disk from the beginning (VHD).
    Fixed,
    /// What is converted is compressed (qcow2).
    Compressed,
}

/// What a new image stands on.
#[derive(Debug, Clone)]
pub struct NewBacking {
    /// Its path, from where the command runs. It is written into the image relative to the image's folder, or absolute if it was given so.
    pub path: PathBuf,
    /// Its format, if it is not to be recognised.
    pub format: Option<Format>,
}

/// Makes a new image.
///
/// # Errors
/// There is a file already, the size is none for the format, or the host has no place.
pub fn create(new: &NewImage) -> Result<(), DiskError> {
    let size = size_of(new)?;
    let partial = Partial::begin(new)?;
    write_new(&partial.file, new, size)?;
    partial.finish()
}

/// The new disk's size in bytes.
pub(super) fn size_of(new: &NewImage) -> Result<u64, DiskError> {
    let refuse = |text: String| Err(DiskError::Options(text));
    if new.backing.is_some() && new.format != Format::Qcow2 {
        return refuse(format!("a {} image cannot stand on another: use qcow2", new.format));
    }
    if new.cluster_size.is_some() && new.format != Format::Qcow2 {
        return refuse(format!("a {} image has no clusters: leave out their size", new.format));
    }
    let is_known = match new.subformat {
        Subformat::Usual => true,
        Subformat::Fixed => new.format == Format::Vhd,
        Subformat::Compressed => new.format == Format::Qcow2,
    };
    if !is_known {
        let text = match new.subformat {
            Subformat::Fixed => "only a vhd can be of fixed size: a raw image is so by nature",
            _ => "only qcow2 can be compressed",
        };
        return refuse(text.to_owned());
    }
    let size = match (new.size, &new.backing) {
        (Some(size), _) => size,
        (None, Some(backing)) => open_backing(backing)?.image.size(),
        (None, None) => return refuse("a disk needs a size, such as 10G".to_owned()),
    };
    if !size.is_multiple_of(512) {
        return refuse(format!(
            "a disk has a whole number of sectors of 512 bytes, and {size} bytes are none"
        ));
    }
    Ok(size)
}

fn open_backing(backing: &NewBacking) -> Result<Layer, DiskError> {
    let plan = OpenPlan {
        is_writable: false,
        format: backing.format,
        is_guarded: false,
        is_direct: false,
        is_flushed: true,
        is_locked: true,
        backing: None,
        is_alone: false,
    };
    Layer::open(&backing.path, &plan)
}

/// Writes a new image of `size` bytes to an empty file.
pub(super) fn write_new(file: &HostFile, new: &NewImage, size: u64) -> Result<(), DiskError> {
    let wrong = |fault: crate::error::Fault| fault.of(&new.path, new.format);
    match new.format {
        Format::Raw => file.set_length(size).map_err(io_error("write disk image", &new.path)),
        Format::Qcow2 => {
            let mut image = NewQcow2::new(size);
            if let Some(cluster) = new.cluster_size {
                let bits = cluster.trailing_zeros();
                if !cluster.is_power_of_two() || !(9..=21).contains(&bits) {
                    let text = "clusters have a power of two of bytes, from 512 to 2M; 64K is usual";
                    return Err(DiskError::Options(text.to_owned()));
                }
                image.cluster_bits = bits;
            }
            image.backing = new.backing.as_ref().map(|backing| named(&new.path, backing)).transpose()?;
            qcow2::create(file, &image).map_err(wrong)
        }
        Format::Vmdk => {
            let name =
                new.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
            vmdk::create(file, size, &name).map_err(wrong)
        }
        Format::Vhd => vhd::create(file, size, new.subformat == Subformat::Fixed).map_err(wrong),
        Format::Vhdx => vhdx::create(file, size).map_err(wrong),
    }
}

/// A backing file as the image at `image` is to name it, with its format.
fn named(image: &Path, backing: &NewBacking) -> Result<(Vec<u8>, String), DiskError> {
    use std::os::unix::ffi::OsStrExt as _;
    // Opened, so that it is known to be one.
    let format = open_backing(backing)?.format;
    let path = if backing.path.is_absolute() {
        backing.path.clone()
    } else {
        let absolute = |path: &Path| path.canonicalize().map_err(io_error("find", path));
        let folder = image.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let (folder, file) = (absolute(folder)?, absolute(&backing.path)?);
        relative(&folder, &file)
    };
    let bytes = path.as_os_str().as_bytes();
    // Whoever reads it would take what is before a colon for a protocol.
    let has_colon = bytes.split(|byte| *byte == b'/').next().is_some_and(|first| first.contains(&b':'));
    let name = if has_colon { [b"./", bytes].concat() } else { bytes.to_vec() };
    Ok((name, format.name().to_owned()))
}

/// The way from `folder` to `file`; both are absolute.
fn relative(folder: &Path, file: &Path) -> PathBuf {
    let common = folder.components().zip(file.components()).take_while(|(a, b)| a == b).count();
    let up = folder.components().skip(common).map(|_| Path::new(".."));
    let down = file.components().skip(common).map(|part| Path::new(part.as_os_str()));
    up.chain(down).collect()
}

/// An image that is being written: beside its place, under another name, so that there is never half an image.
#[derive(Debug)]
pub(super) struct Partial {
    pub file: HostFile,
    at: PathBuf,
    path: PathBuf,
    is_replacing: bool,
    is_finished: bool,
}

impl Partial {
    pub(super) fn begin(new: &NewImage) -> Result<Self, DiskError> {
        if !new.is_replacing && new.path.symlink_metadata().is_ok() {
            return Err(exists(&new.path));
        }
        // What a symbolic link leads to is replaced, not the link; and nothing but a file.
        let path = new.path.canonicalize().unwrap_or_else(|_| new.path.clone());
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            return Err(DiskError::Options(format!(
                "'{}' is not a file, and is not replaced",
                path.display()
            )));
        }
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .ok_or_else(|| DiskError::Options(format!("'{}' names no file", path.display())))?;
        let at = path.with_file_name(format!(".{name}.{}.partial", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&at);
        let file = file.and_then(|file| HostFile::new(file, false)).map_err(io_error("create", &path))?;
        Ok(Self { file, at, path, is_replacing: new.is_replacing, is_finished: false })
    }

    /// Where it is meanwhile.
    pub(super) fn at(&self) -> &Path {
        &self.at
    }

    /// Puts it into its place, on the host's disk for sure.
    pub(super) fn finish(mut self) -> Result<(), DiskError> {
        self.file.sync().map_err(io_error("write", &self.path))?;
        if self.is_replacing {
            std::fs::rename(&self.at, &self.path).map_err(io_error("create", &self.path))?;
        } else {
            // As rename, but never over something that came meanwhile.
            match std::fs::hard_link(&self.at, &self.path) {
                Ok(()) => drop(std::fs::remove_file(&self.at)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    return Err(exists(&self.path));
                }
                // A file system without hard links.
                Err(_) => std::fs::rename(&self.at, &self.path).map_err(io_error("create", &self.path))?,
            }
        }
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_finished {
            // If it cannot be removed, it shows by its name what it is.
            let _ = std::fs::remove_file(&self.at);
        }
    }
}

fn exists(path: &Path) -> DiskError {
    DiskError::Options(format!(
        "'{}' exists already: use another name, or --force to replace it",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_between_folders_are_found() {
        for (folder, file, way) in [
            ("/a", "/a/b", "b"),
            ("/a/b", "/a/c/d", "../c/d"),
            ("/", "/x", "x"),
            ("/a/b/c", "/x", "../../../x"),
        ] {
            assert_eq!(relative(Path::new(folder), Path::new(file)), Path::new(way));
        }
    }
}
