//! Unpacking the payload of a bzImage on the host (Linux, `lib/decompress.c` and `scripts/Makefile.lib`).
//!
//! All decoders are Rust, most of them without `unsafe`: the bytes are untrusted. What a file says about its size is
//! believed only as an upper bound that is itself bounded.

use std::io::Read;

use thiserror::Error;

use super::bzimage::{Bzimage, BzimageError};

mod lz4;
mod lzop;

/// No kernel is larger when unpacked.
const UNPACKED_LIMIT: u32 = 1 << 30;
/// What LZMA's and xz's dictionaries may occupy; the kernel's own scripts use 128 MiB at most.
const DICTIONARY_LIMIT_KIB: u32 = 160 << 10;
/// Memory is reserved for an unpacked size of at most this many times the packed one, and grows if there is more.
const USUAL_RATIO: usize = 10;

/// How a kernel is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all: the payload is the ELF file.
    None,
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// LZMA alone, the format before xz.
    Lzma,
    /// xz, with the filter for x86 code.
    Xz,
    /// LZO in lzop's container.
    Lzo,
    /// LZ4 in its legacy frame.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl Compression {
    /// Knows a format by the magic number at its start.
    #[must_use]
    pub fn detect(bytes: &[u8]) -> Option<Self> {
        const MAGICS: [(&[u8], Compression); 8] = [
            (b"\x7fELF", Compression::None),
            (b"\x1f\x8b", Compression::Gzip),
            (b"BZh", Compression::Bzip2),
            (b"\x5d\x00\x00", Compression::Lzma),
            (b"\xfd7zXZ\x00", Compression::Xz),
            (lzop::MAGIC, Compression::Lzo),
            (&lz4::MAGIC, Compression::Lz4),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
        ];
        MAGICS.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, compression)| *compression)
    }
}

/// Why a bzImage's payload cannot be unpacked.
#[derive(Debug, Error)]
pub enum UnpackError {
    /// The file is no bzImage or is truncated.
    #[error(transparent)]
    Header(#[from] BzimageError),
    /// The payload begins with no known magic number.
    #[error("its payload is compressed in an unknown way")]
    UnknownCompression,
    /// The payload is too short to say its size.
    #[error("its payload is truncated")]
    Truncated,
    /// The payload claims to be larger than any kernel.
    #[error("its payload claims to unpack to {0} bytes, more than the limit of {UNPACKED_LIMIT}")]
    TooLarge(u32),
    /// The decoder met an error.
    #[error("its {compression:?} payload is corrupt")]
    Corrupt {
        /// The format.
        compression: Compression,
        /// What the decoder says.
        source: std::io::Error,
    },
    /// The payload unpacks to another size than it says.
    #[error("its payload unpacks to another size than the {0} bytes it claims")]
    Size(u32),
}

/// Unpacks the kernel in the bzImage `file`: an ELF file for every Linux since 2.6.26.
///
/// A caller may keep the result and pass it to [`Kernel::parse`](crate::boot::Kernel::parse) in the bzImage's place:
/// unpacking xz takes about half a second.
///
/// # Errors
/// The file is no bzImage, or its payload is in an unknown format or corrupt.
pub fn unpack(file: &[u8]) -> Result<Vec<u8>, UnpackError> {
    unpack_payload(&file[Bzimage::parse(file)?.payload], UNPACKED_LIMIT)
}

/// As [`unpack`], for a payload alone and with another limit, in bytes, for what it may unpack to.
///
/// # Errors
/// As [`unpack`].
pub fn unpack_payload(payload: &[u8], limit: u32) -> Result<Vec<u8>, UnpackError> {
    let compression = Compression::detect(payload).ok_or(UnpackError::UnknownCompression)?;
    if compression == Compression::None {
        return Ok(payload.to_vec());
    }
    // gzip ends with the size by itself; the kernel's build appends it to all the others.
    let (packed, size) = payload.split_last_chunk().ok_or(UnpackError::Truncated)?;
    let size = u32::from_le_bytes(*size);
    if size > limit {
        return Err(UnpackError::TooLarge(size));
    }
    let corrupt = |source| UnpackError::Corrupt { compression, source };
    let unpacked = match compression {
        Compression::None | Compression::Gzip => read(flate2::read::GzDecoder::new(payload), payload, size),
        Compression::Bzip2 => read(bzip2::read::BzDecoder::new(packed), packed, size),
        Compression::Lzma => lzma_rust2::LzmaReader::new_mem_limit(packed, DICTIONARY_LIMIT_KIB, None)
            .and_then(|reader| read(reader, packed, size)),
        Compression::Xz => {
            read(lzma_rust2::XzReader::new_mem_limit(packed, false, DICTIONARY_LIMIT_KIB), packed, size)
        }
        Compression::Lzo => lzop::unpack(packed, size),
        Compression::Lz4 => lz4::unpack(packed, size),
        // Its window is bounded by the crate, at the 128 MiB that the kernel's own scripts ask for.
        Compression::Zstd => ruzstd::decoding::StreamingDecoder::new(packed)
            .map_err(std::io::Error::other)
            .and_then(|reader| read(reader, packed, size)),
    }
    .map_err(corrupt)?;
    if unpacked.len() as u64 == u64::from(size) { Ok(unpacked) } else { Err(UnpackError::Size(size)) }
}

/// Reads all, but stops after one byte more than `size`.
fn read(reader: impl Read, packed: &[u8], size: u32) -> std::io::Result<Vec<u8>> {
    let mut unpacked = reserve(packed, size);
    reader.take(u64::from(size) + 1).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

/// An empty buffer for `packed`'s contents, which claim to have `size` bytes.
fn reserve(packed: &[u8], size: u32) -> Vec<u8> {
    let usual = packed.len().saturating_mul(USUAL_RATIO);
    Vec::with_capacity(usize::try_from(size).map_or(usual, |size| size.min(usual)))
}

/// The error of the decoders in this module.
fn invalid(what: &'static str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests;
