//! Compressed pieces of images: what comes out of them.

use std::io::{self, Read};

use flate2::{Decompress, FlushDecompress, Status};

use super::map::{Method, Packed};
use crate::error::damaged;

/// What is in `bytes`: exactly as many bytes as the piece should hold.
///
/// # Errors
/// `InvalidData` if less or nothing comes out.
pub(super) fn unpack(packed: Packed, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let length = usize::try_from(packed.unpacked).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut unpacked = vec![0; length];
    match packed.method {
        Method::Deflate | Method::Zlib => {
            inflate(bytes, &mut unpacked, packed.method == Method::Zlib)?;
        }
        Method::Zstandard => {
            let mut decoder = ruzstd::decoding::StreamingDecoder::new(bytes)
                .map_err(|error| damaged(format!("a compressed cluster is damaged: {error}")))?;
            decoder.read_exact(&mut unpacked)?;
        }
    }
    Ok(unpacked)
}

fn inflate(mut bytes: &[u8], mut target: &mut [u8], has_header: bool) -> io::Result<()> {
    let mut inflate = Decompress::new(has_header);
    while !target.is_empty() {
        let (before_in, before_out) = (inflate.total_in(), inflate.total_out());
        let status = inflate
            .decompress(bytes, target, FlushDecompress::None)
            .map_err(|error| damaged(format!("a compressed cluster is damaged: {error}")))?;
        // Both are bounded by the slices' lengths.
        let read = (inflate.total_in() - before_in) as usize;
        let written = (inflate.total_out() - before_out) as usize;
        // With a checksum there is no doubt where it ends: the last grain of a disk may be short.
        if has_header && status == Status::StreamEnd {
            return Ok(());
        }
        if read == 0 && written == 0 {
            return Err(damaged("a compressed cluster is too short"));
        }
        bytes = &bytes[read..];
        target = &mut target[written..];
    }
    Ok(())
}
