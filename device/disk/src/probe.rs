//! What a file is, by its contents.
//!
//! The contents of a raw image are the guest's: it could write another format's header into its disk, with a backing file that
//! it wants to read, and wait for the next start. So an image that was *recognised* as raw is kept raw: see `image/guarded.rs`.

use std::io;
use std::path::Path;

use crate::options::Format;
use crate::storage::Storage;

/// How much of a file's beginning decides, in bytes.
pub(crate) const HEAD: usize = 512;

/// How much of a file's end decides, in bytes: a fixed VHD has nothing but a footer.
pub(crate) const TAIL: usize = 512;

/// Looks at a file's contents. The name only matters for fixed VHDs, whose sign is at the end.
pub(crate) fn probe(storage: &dyn Storage, path: &Path) -> io::Result<Format> {
    let mut head = [0; HEAD];
    storage.read_at(&mut head, 0)?;
    let format = recognise_head(&head);
    if format == Format::Raw && may_be_fixed_vhd(path) {
        let length = storage.length()?;
        if let Some(start) = length.checked_sub(TAIL as u64) {
            let mut tail = [0; TAIL];
            storage.read_at(&mut tail, start)?;
            return Ok(recognise_tail(&tail));
        }
    }
    Ok(format)
}

/// What begins like this.
pub(crate) fn recognise_head(head: &[u8]) -> Format {
    let is = |magic: &[u8]| head.starts_with(magic);
    if is(b"QFI\xfb") {
        Format::Qcow2
    } else if is(b"KDMV") || is(b"COWD") || is(b"# Disk DescriptorFile") {
        Format::Vmdk
    } else if is(b"vhdxfile") {
        Format::Vhdx
    } else if is(b"conectix") {
        Format::Vhd
    } else {
        Format::Raw
    }
}

/// What ends like this, if its name says that it is a VHD.
pub(crate) fn recognise_tail(tail: &[u8]) -> Format {
    if tail.starts_with(b"conectix") { Format::Vhd } else { Format::Raw }
}

/// Whether the file's end is looked at.
pub(crate) fn may_be_fixed_vhd(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("vhd"))
}
