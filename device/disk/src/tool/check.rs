//! Whether an image keeps its format's rules.

use std::io;
use std::sync::Arc;

use serde::Serialize;

use super::{Existing, Told, io_error};
use crate::chain::{Layer, OpenPlan, open_file};
use crate::error::DiskError;
use crate::image::{Access, Image, Place};
use crate::options::Format;
use crate::probe;
use crate::qcow2;
use crate::storage::Storage;

/// What was found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Checked {
    /// The image's format.
    pub format: &'static str,
    /// How much is wrong that loses data, now or some day.
    pub damages: u64,
    /// The first of them, in words.
    pub problems: Vec<String>,
    /// Clusters that are counted as used and are not: space that is lost, nothing else.
    pub leaked: u64,
    /// How much was mended.
    pub mended: u64,
    /// Bytes of the disk that have data in the image itself.
    pub data: u64,
    /// Bytes of those that are compressed.
    pub compressed: u64,
}

/// The most problems that are told in words.
const MOST_TOLD: usize = 20;

/// Checks an image, without what it stands on; mends what can be mended if `is_mended`.
///
/// # Errors
/// It cannot be read, is in use by a writer, or is too damaged to be looked at.
pub fn check(image: &Existing, is_mended: bool, told: Told<'_>) -> Result<Checked, DiskError> {
    let path = &image.path;
    let plan = image.plan(is_mended);
    let file = Arc::new(open_file(path, &plan)?);
    let format = match image.format {
        Some(format) => format,
        None => probe::probe(&*file, path).map_err(io_error("read disk image", path))?,
    };
    if format == Format::Qcow2 {
        let storage: Arc<dyn Storage> = Arc::clone(&file) as _;
        return check_qcow2(&storage, is_mended, told).map_err(|fault| fault.of(path, format));
    }
    drop(file);
    let plan = OpenPlan { format: Some(format), ..image.plan(false) };
    let mut checked = match Layer::open_alone(path, &plan) {
        Ok(image) => walk(&*image, told).map_err(io_error("read disk image", path))?,
        Err(DiskError::Damaged { problem, .. }) => {
            Checked { damages: 1, problems: vec![problem], ..Checked::default() }
        }
        Err(error) => return Err(error),
    };
    checked.format = format.name();
    Ok(checked)
}

fn check_qcow2(
    storage: &Arc<dyn Storage>,
    is_mended: bool,
    told: Told<'_>,
) -> Result<Checked, crate::error::Fault> {
    let header = qcow2::read_header(&**storage)?;
    let (snapshots, length) = qcow2::read_snapshots(&**storage, &header)?;
    let findings = qcow2::check(storage, &header, &snapshots, length, is_mended, told)?;
    let cluster = header.cluster();
    Ok(Checked {
        format: "qcow2",
        damages: findings.damages.count,
        problems: findings.damages.told,
        leaked: findings.leaked,
        mended: findings.mended,
        data: findings.data * cluster,
        compressed: findings.compressed * cluster,
    })
}

/// Finds every block, and sees whether each is one's own.
fn walk(image: &dyn Image, told: Told<'_>) -> io::Result<Checked> {
    let mut checked = Checked::default();
    // Where data is, by storage and offset.
    let mut places: Vec<(usize, u64, u64)> = Vec::new();
    let add = |checked: &mut Checked, problem: String| {
        checked.damages += 1;
        if checked.problems.len() < MOST_TOLD {
            checked.problems.push(problem);
        }
    };
    let mut at = 0;
    while at < image.size() {
        told(at, image.size());
        let left = image.size() - at;
        match image.locate(at, left.min(1 << 30), Access::Read) {
            Ok(run) => {
                match run.place {
                    Place::Zero => {}
                    Place::Elsewhere => {
                        let (end, mut from) = (at + run.length, at);
                        let mut bytes = vec![0; 1 << 20];
                        while from < end {
                            let part = &mut bytes[..(end - from).min(1 << 20) as usize];
                            if let Err(error) = image.read_at(from, part) {
                                add(&mut checked, format!("what is at {from} cannot be read: {error}"));
                            }
                            from += part.len() as u64;
                        }
                        checked.data += run.length;
                        checked.compressed += run.length;
                    }
                    Place::Stored(storage, place) => {
                        places.push((Arc::as_ptr(&storage).addr(), place, run.length));
                        checked.data += run.length;
                    }
                }
                at += run.length;
            }
            Err(error) => {
                add(&mut checked, format!("at {at}: {error}"));
                // On to where the next block may begin.
                at = (at / 4096 + 1) * 4096;
                if checked.damages > 100_000 {
                    break;
                }
            }
        }
    }
    places.sort_unstable();
    for pair in places.windows(2) {
        let [(first, place, length), (second, next, _)] = pair else { continue };
        if first == second && place + length > *next {
            add(&mut checked, format!("two parts of the disk are at {next:#x} of the file"));
        }
    }
    Ok(checked)
}
