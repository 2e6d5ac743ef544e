//! What an image says that it stands on, and whether it is believed.
//!
//! An image may come from anywhere, and the path in it is its maker's: one that names `/etc/shadow` as a raw backing file would show
//! that to the guest. So a raw backing file must be in the folder of the image that names it, and a whole number of sectors
//! long; elsewhere, only files are opened that show by their contents that they are disk images. A path that the user gives is
//! believed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Layer, OpenPlan, io_error};
use crate::error::DiskError;
use crate::options::Format;
use crate::probe;
use crate::storage::{HostFile, OpenMode};

/// What an image says of its backing file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named<'a> {
    /// Its path, or something like one.
    pub name: &'a [u8],
    /// Its format.
    pub format: Option<&'a str>,
}

/// Opens what the image at `image` stands on: what `named` says, or the user.
pub(super) fn open(
    image: &Path,
    named: Option<Named<'_>>,
    plan: &OpenPlan,
    above: &mut Vec<(u64, u64)>,
) -> Result<Option<Layer>, DiskError> {
    if plan.is_alone {
        return Ok(None);
    }
    let Some(named) = named else {
        return match &plan.backing {
            Some(_) => Err(DiskError::Options(format!(
                "Disk image '{}' stands on no backing file: leave out 'backing'",
                image.display()
            ))),
            None => Ok(None),
        };
    };
    let (path, format) = place(image, named.name, named.format, plan)?;
    let below = OpenPlan { is_writable: false, format, backing: None, ..plan.clone() };
    let layer = Layer::open_above(&path, &below, above)
        .map_err(|source| DiskError::Chain { image: image.to_owned(), source: Box::new(source) })?;
    if named.format.is_none() && (layer.backing.is_some() || layer.is_list) {
        // It may have been a raw disk whose guest wrote this.
        let problem = "is of no format that the image names, and stands on a file itself or consists of others: this could be a \
                       guest's doing. Name the format: `qemu-img rebase -u -F FORMAT -b BACKING IMAGE`";
        return Err(wrong(image, &path, problem.to_owned()));
    }
    Ok(Some(layer))
}

fn wrong(image: &Path, backing: &Path, problem: String) -> DiskError {
    DiskError::Backing { image: image.to_owned(), backing: backing.to_owned(), problem }
}

/// Where the backing file is that an image names so, and its format: after a look at whether it may be opened.
pub(crate) fn place(
    image: &Path,
    name: &[u8],
    format: Option<&str>,
    plan: &OpenPlan,
) -> Result<(PathBuf, Option<Format>), DiskError> {
    let name = Path::new(OsStr::from_bytes(name)).to_owned();
    let is_trusted = plan.backing.is_some();
    let path = match &plan.backing {
        Some(path) => path.clone(),
        None => local_path(image, &name).ok_or_else(|| {
            let problem = "is not a file of this host, and nothing else is supported. Convert the image with `qemu-img convert`";
            wrong(image, &name, problem.to_owned())
        })?,
    };
    let format = format.map(|name| format_of(name).ok_or(name)).transpose();
    let unknown = |name: &str| wrong(image, &path, format!("is in format '{name}', which is not supported"));
    let format = format.map_err(unknown)?;
    if let Err(error) = path.metadata() {
        let problem = if error.kind() == std::io::ErrorKind::NotFound {
            format!("does not exist. Put it back, or tell where it is: '{},backing=PATH'", image.display())
        } else {
            format!("cannot be opened: {error}")
        };
        return Err(wrong(image, &path, problem));
    }
    let is_believed = is_trusted || is_near(image, &path);
    if is_believed && format.is_some() {
        // What it looks like does not matter: that may be two formats.
        return Ok((path, format));
    }
    let found = recognise(&path)?;
    let known = format.unwrap_or(found);
    if !is_believed && (known == Format::Raw || found != known) {
        let problem = format!(
            "shows no sign of being a disk image, and is not beside it: it could be any file of yours. If you trust the image, give the \
             path yourself: '{},backing={}'",
            image.display(),
            path.display()
        );
        return Err(wrong(image, &path, problem));
    }
    Ok((path, Some(known)))
}

/// The file that `name` means, if it means one.
fn local_path(image: &Path, name: &Path) -> Option<PathBuf> {
    let bytes = name.as_os_str().as_bytes();
    let path = match bytes.iter().position(|byte| *byte == b':' || *byte == b'/') {
        Some(colon) if bytes[colon] == b':' => {
            let rest = bytes.strip_prefix(b"file:")?;
            Path::new(OsStr::from_bytes(rest.strip_prefix(b"//").unwrap_or(rest)))
        }
        _ => name,
    };
    let folder = image.parent().unwrap_or(Path::new(""));
    Some(folder.join(path))
}

/// The format that QEMU calls so.
fn format_of(name: &str) -> Option<Format> {
    match name {
        "file" | "host_device" => Some(Format::Raw),
        name => name.parse().ok(),
    }
}

/// What is at `path`, by its contents.
fn recognise(path: &Path) -> Result<Format, DiskError> {
    let mode = OpenMode { is_writable: false, is_direct: false };
    let file = HostFile::open(path, mode).map_err(io_error("open disk image", path))?;
    probe::probe(&file, path).map_err(io_error("read disk image", path))
}

/// Whether `path` is in the folder of `image`, wherever symbolic links lead, and as long as disks are.
fn is_near(image: &Path, path: &Path) -> bool {
    let folder = |path: &Path| Some(path.canonicalize().ok()?.parent()?.to_owned());
    let is_in_sectors = path.metadata().is_ok_and(|metadata| metadata.len().is_multiple_of(512));
    is_in_sectors && folder(image).is_some_and(|image| folder(path) == Some(image))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_from_the_image_or_nothing() {
        let path = |name: &str| local_path(Path::new("/images/a.qcow2"), Path::new(name));
        for (name, expected) in [
            ("b.raw", Some("/images/b.raw")),
            ("/other/b.raw", Some("/other/b.raw")),
            ("../b.raw", Some("/images/../b.raw")),
            ("file:b.raw", Some("/images/b.raw")),
            ("file:///other/b.raw", Some("/other/b.raw")),
            ("./a:b", Some("/images/./a:b")),
            ("nbd://host/export", None),
            ("json:{\"driver\":\"raw\"}", None),
        ] {
            assert_eq!(path(name).as_deref(), expected.map(Path::new), "{name}");
        }
    }
}
