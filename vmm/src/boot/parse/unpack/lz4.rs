//! LZ4's legacy frame, the one that the kernel's build uses (LZ4, `doc/lz4_Frame_format.md`, "Legacy frame").
//!
//! After the magic number come blocks, each a 32-bit size and that many compressed bytes. A block unpacks to 8 MiB,
//! the last one to less; the frame ends where the input does. Frames may follow each other.

use std::io;

use lz4_flex::block::decompress_into;

use super::super::bytes::{range_within, u32_at};
use super::{invalid, reserve};

pub(super) const MAGIC: [u8; 4] = 0x184c_2102_u32.to_le_bytes();
const BLOCK: usize = 8 << 20;
/// One byte of a block can stand for at most this many.
const RATIO_LIMIT: usize = 255;

/// Unpacks frames that claim to contain `size` bytes, to at most that many.
pub(super) fn unpack(packed: &[u8], size: u32) -> io::Result<Vec<u8>> {
    let size_limit = usize::try_from(size).map_err(io::Error::other)?;
    let mut unpacked = reserve(packed, size);
    let mut rest = packed;
    while !rest.is_empty() {
        if let Some(blocks) = rest.strip_prefix(&MAGIC) {
            rest = blocks;
            continue;
        }
        let length = u32_at(rest, 0).ok_or_else(|| invalid("a block's size is truncated"))?;
        let block =
            range_within(4, length.into(), rest.len()).ok_or_else(|| invalid("a block is truncated"))?;
        let start = unpacked.len();
        let room = BLOCK.min(size_limit - start).min(block.len() * RATIO_LIMIT);
        unpacked.resize(start + room, 0);
        let written =
            decompress_into(&rest[block.clone()], &mut unpacked[start..]).map_err(io::Error::other)?;
        unpacked.truncate(start + written);
        rest = &rest[block.end..];
    }
    Ok(unpacked)
}
