//! What a file is, by its contents.
//!
//! The contents of a raw image are the guest's: it could write another format's header into its disk, with a backing file that
//! it wants to read, and wait for the next start. So an image that was *recognised* as raw is kept raw: see `image/guarded.rs`.
//! A fixed VHD begins with the guest's bytes too, and other programs do not guard them: if its beginning says something else
//! than its end, neither is believed.

use std::io;
use std::path::Path;

use crate::options::Format;
use crate::storage::Storage;

/// How much of a file's beginning decides, in bytes.
pub(crate) const HEAD: usize = 512;

/// How much of a file's end decides, in bytes: a fixed VHD has nothing but a footer.
pub(crate) const TAIL: usize = 512;

/// Looks at a file's contents. The name only matters for fixed VHDs, whose sign is at the end.
///
/// # Errors
/// It cannot be read, or looks like two things, one of which must be a guest's doing.
pub(crate) fn probe(storage: &dyn Storage, path: &Path) -> io::Result<Format> {
    let mut head = [0; HEAD];
    storage.read_at(&mut head, 0)?;
    let format = recognise_head(&head);
    if format == Format::Vhd || !may_be_fixed_vhd(path) {
        return Ok(format);
    }
    let Some(start) = storage.length()?.checked_sub(TAIL as u64) else { return Ok(format) };
    let mut tail = [0; TAIL];
    storage.read_at(&mut tail, start)?;
    match (format, recognise_tail(&tail)) {
        (format, Format::Raw) => Ok(format),
        (Format::Raw, at_end) => Ok(at_end),
        // The end of another format's file can be the guest's as well.
        (format, at_end) => {
            let text = format!(
                "it begins as {format} and ends as {at_end}, one of which its guest may have written: say what it is, with \
                 format={at_end} or format={format}"
            );
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryStorage;

    #[test]
    fn a_file_called_vhd_that_looks_like_two_things_is_neither() {
        for magic in [&b"QFI\xfb"[..], b"KDMV", b"# Disk DescriptorFile\n", b"vhdxfile"] {
            let mut bytes = vec![0; 8192];
            bytes[..magic.len()].copy_from_slice(magic);
            let probe =
                |bytes: &[u8], name: &str| probe(&MemoryStorage::new(bytes.to_vec()), Path::new(name));
            let format = recognise_head(&bytes);
            assert_eq!(probe(&bytes, "disk.vhd").unwrap(), format);
            bytes[7680..7688].copy_from_slice(b"conectix");
            assert_eq!(probe(&bytes, "disk.vhd").unwrap_err().kind(), io::ErrorKind::InvalidData, "{format}");
            // What is at the end of other files is data.
            assert_eq!(probe(&bytes, "disk.img").unwrap(), format);
        }
    }
}
