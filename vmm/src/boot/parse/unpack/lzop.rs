//! LZO in lzop's container (lzop 1.04, `src/lzop.c`; Linux, `lib/decompress_unlzo.c`). Numbers are big-endian.
//!
//! Checksums are skipped, as the kernel does: a wrong payload shows by its size or in its ELF headers.

use std::io;

use super::{invalid, reserve};

pub(super) const MAGIC: &[u8] = b"\x89LZO\x00\x0d\x0a\x1a\x0a";
/// lzop's block size; the kernel refuses larger ones too.
const BLOCK: usize = 256 << 10;

/// The version from which on the header has three more fields.
const LONG_HEADER: u16 = 0x0940;
const F_ADLER32_D: u32 = 0x0001;
const F_ADLER32_C: u32 = 0x0002;
const F_EXTRA_FIELD: u32 = 0x0040;
const F_CRC32_D: u32 = 0x0100;
const F_CRC32_C: u32 = 0x0200;
const F_FILTER: u32 = 0x0800;

/// Unpacks a file that claims to contain `size` bytes, to at most that many.
pub(super) fn unpack(packed: &[u8], size: u32) -> io::Result<Vec<u8>> {
    let size_limit = usize::try_from(size).map_err(io::Error::other)?;
    let mut unpacked = reserve(packed, size);
    let mut input = Input(packed);
    let flags = header(&mut input)?;
    loop {
        let block_size = input.u32()? as usize;
        if block_size == 0 {
            return Ok(unpacked);
        }
        let packed_size = input.u32()? as usize;
        if block_size > BLOCK || block_size > size_limit - unpacked.len() || packed_size > block_size {
            return Err(invalid("a block is too large"));
        }
        let is_stored = packed_size == block_size;
        for (flag, present) in
            [(F_ADLER32_D, true), (F_CRC32_D, true), (F_ADLER32_C, !is_stored), (F_CRC32_C, !is_stored)]
        {
            if present && flags & flag != 0 {
                input.u32()?;
            }
        }
        let block = input.bytes(packed_size)?;
        if is_stored {
            unpacked.extend_from_slice(block);
            continue;
        }
        let start = unpacked.len();
        unpacked.resize(start + block_size, 0);
        let written =
            lzokay::decompress::decompress(block, &mut unpacked[start..]).map_err(io::Error::other)?;
        if written != block_size {
            return Err(invalid("a block is too short"));
        }
    }
}

/// Reads the file header and returns its flags.
fn header(input: &mut Input) -> io::Result<u32> {
    input.bytes(MAGIC.len())?;
    let version = input.u16()?;
    input.u16()?; // the library's version
    let is_long = version >= LONG_HEADER;
    if is_long {
        input.u16()?; // the version needed to extract
    }
    input.bytes(1)?; // method
    if is_long {
        input.bytes(1)?; // level
    }
    let flags = input.u32()?;
    if flags & F_FILTER != 0 {
        return Err(invalid("filters are not supported"));
    }
    input.bytes(4 + 4)?; // mode, modification time
    if is_long {
        input.bytes(4)?; // the time's upper half
    }
    let name = input.bytes(1)?[0];
    input.bytes(usize::from(name))?;
    input.u32()?; // checksum
    if flags & F_EXTRA_FIELD != 0 {
        let length = input.u32()? as usize;
        input.bytes(length)?;
        input.u32()?; // checksum
    }
    Ok(flags)
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn bytes(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or_else(|| invalid("the file is truncated"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or_else(|| invalid("the file is truncated"))?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn u16(&mut self) -> io::Result<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_be_bytes)
    }
}
