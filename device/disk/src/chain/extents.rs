//! The files that a VMDK consists of: its descriptor names them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::backing::{self, Named};
use super::{Layer, OpenPlan, io_error, open_file};
use crate::error::DiskError;
use crate::image::{Image, Joined, Raw};
use crate::options::Format;
use crate::storage::{HostFile, Storage};
use crate::vmdk::{self, Contents};

/// An open VMDK.
pub(super) struct Opened {
    /// What it holds.
    pub image: Arc<dyn Image>,
    /// What it stands on.
    pub backing: Option<Box<Layer>>,
    /// Whether its file is nothing but a list of others.
    pub is_list: bool,
}

/// Opens the VMDK in `storage`, and the other files that it consists of.
pub(super) fn open(
    path: &Path,
    storage: &Arc<dyn Storage>,
    plan: &OpenPlan,
    above: &mut Vec<(u64, u64)>,
) -> Result<Opened, DiskError> {
    let wrong = |fault: crate::error::Fault| fault.of(path, Format::Vmdk);
    let contained = vmdk::read(&**storage).map_err(wrong)?;
    let parent = contained.descriptor.as_ref().and_then(|descriptor| descriptor.parent.as_deref());
    let named = parent.map(|name| Named { name: name.as_bytes(), format: Some("vmdk") });
    let backing = backing::open(path, named, plan, above)?.map(Box::new);
    let below = backing.as_ref().map(|layer| Arc::clone(&layer.image));
    let image: Arc<dyn Image> = match (contained.header, &contained.descriptor) {
        (Some(header), _) => {
            let storage = Arc::clone(storage);
            vmdk::sparse(storage, header, header.size, below, plan.is_writable, plan.is_flushed)
                .map_err(wrong)?
        }
        (None, Some(descriptor)) => {
            let parts = &descriptor.extents;
            let total = parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.sectors * 512));
            if total > 1 << 56 {
                return Err(wrong(crate::error::Fault::Damaged(format!("its disk has {total} bytes"))));
            }
            if parts.is_empty() || below.is_some() && parts.len() > 1 {
                let problem = if parts.is_empty() {
                    "consists of nothing: its descriptor names no extent"
                } else {
                    "has several extents over another disk, which is not supported: merge them with VMware's tools"
                };
                return Err(DiskError::Unsupported {
                    path: path.to_owned(),
                    format: Format::Vmdk,
                    problem: problem.to_owned(),
                });
            }
            let mut images = Vec::new();
            for part in parts {
                let plan = OpenPlan { is_writable: plan.is_writable && part.is_writable, ..plan.clone() };
                images.push(open_extent(path, part, &plan, below.clone(), &mut Vec::new())?);
            }
            Arc::new(Joined::new(images))
        }
        (None, None) => return Err(wrong(crate::error::Fault::Damaged("it has no descriptor".to_owned()))),
    };
    if image.facts().is_writable {
        contained.claim(&**storage).map_err(io_error("write disk image", path))?;
    }
    Ok(Opened { image, backing, is_list: contained.header.is_none() })
}

/// Opens one of them; its file is added to `files`.
fn open_extent(
    path: &Path,
    part: &crate::vmdk::Extent,
    plan: &OpenPlan,
    below: Option<Arc<dyn Image>>,
    files: &mut Vec<Arc<HostFile>>,
) -> Result<Arc<dyn Image>, DiskError> {
    let size = part.sectors * 512;
    let wrong = |place: &Path, problem: String| DiskError::Backing {
        image: path.to_owned(),
        backing: place.to_owned(),
        problem,
    };
    let mut open = |name: &str| -> Result<(Arc<HostFile>, PathBuf), DiskError> {
        let place = path.parent().unwrap_or(Path::new("")).join(name);
        if Path::new(name).file_name() != Some(name.as_ref()) {
            let problem = "is an extent that is not in its folder: put it there, and its name alone into the descriptor";
            return Err(wrong(&place, problem.to_owned()));
        }
        if !place.exists() {
            return Err(wrong(&place, "is missing: a VMDK needs all of its extents beside it".to_owned()));
        }
        let file = Arc::new(open_file(&place, plan)?);
        files.push(Arc::clone(&file));
        Ok((file, place))
    };
    match &part.contents {
        Contents::Zero => {
            let nothing = Arc::new(crate::storage::memory::MemoryStorage::default());
            Ok(Arc::new(Raw::new(nothing, 0, size, false, false)))
        }
        Contents::Flat { file, start } => {
            let (file, place) = open(file)?;
            let length = file.length().map_err(io_error("look at disk image", &place))?;
            let end = start.checked_mul(512).and_then(|start| start.checked_add(size));
            // A file that is no disk is not shown as one, whatever an image says.
            if end.is_none_or(|end| end > length) || !length.is_multiple_of(512) {
                let problem = format!("has {length} bytes, which is not what the image says");
                return Err(wrong(&place, problem));
            }
            Ok(Arc::new(Raw::new(file, start * 512, size, plan.is_writable, plan.is_flushed)))
        }
        Contents::Sparse { file } => {
            let (file, place) = open(file)?;
            let wrong = |fault: crate::error::Fault| fault.of(&place, Format::Vmdk);
            let header = vmdk::read_extent(&*file).map_err(wrong)?;
            vmdk::sparse(file, header, size, below, plan.is_writable, plan.is_flushed).map_err(wrong)
        }
    }
}

/// The files that a VMDK consists of besides the one at `path`, as far as they can be opened.
pub(crate) fn files(path: &Path, contained: &vmdk::Contained, plan: &OpenPlan) -> Vec<Arc<HostFile>> {
    let extents = contained.descriptor.iter().flat_map(|descriptor| &descriptor.extents);
    let mut files = Vec::new();
    for extent in extents {
        // What is not there is not counted.
        let _ = open_extent(path, extent, plan, None, &mut files);
    }
    files
}
