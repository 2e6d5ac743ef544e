//! What an image is. It may be in use by others: nothing is locked, nothing is changed, and what it stands on is told if it is there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::{Existing, io_error};
use crate::chain::{OpenPlan, backing_place};
use crate::error::DiskError;
use crate::options::Format;
use crate::probe;
use crate::storage::{HostFile, OpenMode, Storage};
use crate::{qcow2, vhd, vhdx, vmdk};

/// What is told of an image. Sizes are in bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Info {
    /// Where it is.
    pub path: PathBuf,
    /// What it is: `raw`, `qcow2`, `vmdk`, `vhd` or `vhdx`.
    pub format: &'static str,
    /// How it is kept, in the format's own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The disk's size.
    pub size: u64,
    /// The length of its file, or files.
    pub file_length: u64,
    /// What they take on the host.
    pub allocated: u64,
    /// What it is made of: clusters, grains or blocks of this size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_size: Option<u64>,
    /// Whether its last user did not close it.
    pub is_dirty: bool,
    /// Whether it is marked as damaged.
    pub is_damaged: bool,
    /// Internal snapshots.
    pub snapshots: Vec<SnapshotInfo>,
    /// The path of what it stands on, as the image has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<String>,
    /// The format of that, as the image has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_format: Option<String>,
    /// What it stands on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing: Option<Box<Info>>,
    /// Why nothing is told of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_problem: Option<String>,
}

/// An internal snapshot.
#[derive(Debug, Clone, Serialize)]
pub struct SnapshotInfo {
    /// Its identifier.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made, in seconds since 1970.
    pub seconds: u32,
    /// The disk's size then, if it is told.
    pub size: Option<u64>,
    /// Bytes of the machine's state that it holds.
    pub machine_state: u64,
}

/// Looks at an image.
///
/// # Errors
/// It cannot be read, or is damaged from the beginning.
pub fn info(image: &Existing) -> Result<Info, DiskError> {
    look(&image.path, &image.plan(false), 0)
}

/// The most images of a chain that are looked at.
const DEEPEST: usize = 200;

fn look(path: &Path, plan: &OpenPlan, depth: usize) -> Result<Info, DiskError> {
    let mode = OpenMode { is_writable: false, is_direct: false };
    let file = HostFile::open(path, mode).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => DiskError::Missing { path: path.to_owned() },
        _ => io_error("open disk image", path)(source),
    })?;
    let file: Arc<HostFile> = Arc::new(file);
    let format = match plan.format {
        Some(format) => format,
        None => probe::probe(&*file, path).map_err(io_error("read disk image", path))?,
    };
    let at = |error| io_error("look at disk image", path)(error);
    let mut info = Info {
        path: path.to_owned(),
        format: format.name(),
        kind: None,
        size: 0,
        file_length: file.length().map_err(at)?,
        allocated: file.allocated().map_err(io_error("look at disk image", path))?,
        cluster_size: None,
        is_dirty: false,
        is_damaged: false,
        snapshots: Vec::new(),
        backing_file: None,
        backing_format: None,
        backing: None,
        backing_problem: None,
    };
    let storage: Arc<dyn Storage> = Arc::clone(&file) as _;
    describe(&mut info, &storage, format, path, plan)?;
    if let Some(name) = info.backing_file.clone() {
        if depth == DEEPEST {
            info.backing_problem = Some("the chain of backing files has no end".to_owned());
            return Ok(info);
        }
        let below = backing_place(path, name.as_bytes(), info.backing_format.as_deref(), plan).and_then(
            |(path, format)| {
                let plan = OpenPlan { format, backing: None, ..plan.clone() };
                look(&path, &plan, depth + 1)
            },
        );
        match below {
            Ok(below) => info.backing = Some(Box::new(below)),
            Err(error) => info.backing_problem = Some(error.to_string()),
        }
    }
    Ok(info)
}

/// Adds what the format says.
fn describe(
    info: &mut Info,
    storage: &Arc<dyn Storage>,
    format: Format,
    path: &Path,
    plan: &OpenPlan,
) -> Result<(), DiskError> {
    let wrong = |fault: crate::error::Fault| fault.of(path, format);
    match format {
        Format::Raw => info.size = info.file_length.next_multiple_of(512),
        Format::Qcow2 => {
            let header = qcow2::read_header(&**storage).map_err(wrong)?;
            let (snapshots, _) = qcow2::read_snapshots(&**storage, &header).map_err(wrong)?;
            info.kind = Some(format!(
                "version {}, {} compression",
                header.version,
                if header.is_zstandard { "zstd" } else { "deflate" }
            ));
            info.size = header.size;
            info.cluster_size = Some(header.cluster());
            (info.is_dirty, info.is_damaged) = (header.is_dirty(), header.is_corrupt());
            info.backing_file = header.backing.map(|name| String::from_utf8_lossy(&name).into_owned());
            info.backing_format = header.backing_format;
            info.snapshots = snapshots.into_iter().map(snapshot_info).collect();
        }
        Format::Vmdk => describe_vmdk(info, storage, path, plan)?,
        Format::Vhd => {
            let (image, summary) = vhd::open(Arc::clone(storage), false, false).map_err(wrong)?;
            info.size = image.size();
            info.kind = Some(if summary.is_fixed { "fixed" } else { "dynamic" }.to_owned());
            info.cluster_size = (!summary.is_fixed).then_some(u64::from(summary.block_size));
        }
        Format::Vhdx => {
            let (image, summary) = vhdx::open(Arc::clone(storage), false, false).map_err(wrong)?;
            info.size = image.size();
            let kind = if summary.is_fixed { "fixed" } else { "dynamic" };
            info.kind = Some(format!("{kind}, sectors of {} bytes", summary.sector));
            info.cluster_size = Some(u64::from(summary.block_size));
            info.is_dirty = summary.has_log;
        }
    }
    Ok(())
}

fn describe_vmdk(
    info: &mut Info,
    storage: &Arc<dyn Storage>,
    path: &Path,
    plan: &OpenPlan,
) -> Result<(), DiskError> {
    let contained = vmdk::read(&**storage).map_err(|fault| fault.of(path, Format::Vmdk))?;
    info.cluster_size = contained.header.map(|header| header.grain);
    if let Some(descriptor) = &contained.descriptor {
        info.kind = Some(descriptor.kind.clone());
        info.backing_file.clone_from(&descriptor.parent);
        info.backing_format = descriptor.parent.as_ref().map(|_| "vmdk".to_owned());
        info.size = descriptor.extents.iter().fold(0, |sum, extent| sum.saturating_add(extent.sectors * 512));
    }
    if let Some(header) = contained.header {
        info.size = header.size;
    } else {
        // The sum over its files, as far as they are there.
        let unlocked = OpenPlan { is_locked: false, ..plan.clone() };
        for file in crate::chain::extent_files(path, &contained, &unlocked) {
            info.file_length += file.length().unwrap_or(0);
            info.allocated += file.allocated().unwrap_or(0);
        }
    }
    Ok(())
}

fn snapshot_info(snapshot: qcow2::Snapshot) -> SnapshotInfo {
    let qcow2::Snapshot { id, name, seconds, size, machine_state, .. } = snapshot;
    SnapshotInfo { id, name, seconds, size, machine_state }
}
