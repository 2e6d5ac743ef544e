//! A disk in memory, which does every request at once.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use tern_disk::{Buffer, Completion, Disk, DiskError, Lane, Operation, RangeLimits};

/// Bytes of it.
const SIZE: u64 = 16 << 10;
/// Its blocks, in bytes.
const BLOCK: u32 = 512;

/// The disk. Each lane has its own contents: nobody compares them.
#[derive(Debug)]
pub struct RamDisk {
    is_read_only: bool,
}

impl RamDisk {
    /// A disk of zeros.
    pub const fn new(is_read_only: bool) -> Self {
        Self { is_read_only }
    }
}

impl Disk for RamDisk {
    fn size(&self) -> u64 {
        SIZE
    }

    fn is_read_only(&self) -> bool {
        self.is_read_only
    }

    fn block_size(&self) -> u32 {
        BLOCK
    }

    fn optimal_size(&self) -> u32 {
        4096
    }

    fn discard(&self) -> Option<RangeLimits> {
        Some(RangeLimits { most: SIZE, alignment: BLOCK })
    }

    fn write_zeroes(&self) -> Option<RangeLimits> {
        Some(RangeLimits { most: SIZE, alignment: BLOCK })
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }

    fn open_lane(&self) -> Result<Box<dyn Lane>, DiskError> {
        let (ready, _other) = UnixStream::pair().map_err(DiskError::Lane)?;
        let contents = vec![0; SIZE as usize];
        Ok(Box::new(RamLane { contents, is_read_only: self.is_read_only, done: Vec::new(), ready, _other }))
    }
}

#[derive(Debug)]
struct RamLane {
    contents: Vec<u8>,
    is_read_only: bool,
    done: Vec<Completion>,
    /// Nobody waits for it: all is done at once.
    ready: UnixStream,
    _other: UnixStream,
}

impl RamLane {
    fn range(&mut self, offset: u64, length: u64) -> io::Result<&mut [u8]> {
        let is_aligned = offset.is_multiple_of(BLOCK.into()) && length.is_multiple_of(BLOCK.into());
        let end = offset.checked_add(length).filter(|end| is_aligned && *end <= SIZE);
        let end = end.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(&mut self.contents[offset as usize..end as usize])
    }

    fn carry_out(&mut self, operation: Operation<'_>) -> io::Result<()> {
        if self.is_read_only && !matches!(operation, Operation::Flush | Operation::Read { .. }) {
            return Err(io::ErrorKind::ReadOnlyFilesystem.into());
        }
        let total = |buffers: &[Buffer]| buffers.iter().map(|buffer| buffer.length() as u64).sum();
        match operation {
            Operation::Read { offset, buffers } => {
                let mut rest: &[u8] = self.range(offset, total(buffers))?;
                for buffer in buffers {
                    let (piece, after) = rest.split_at(buffer.length());
                    // SAFETY: whoever submits keeps the buffer mapped, and has no reference into it.
                    unsafe { std::ptr::copy_nonoverlapping(piece.as_ptr(), buffer.start(), piece.len()) };
                    rest = after;
                }
            }
            Operation::Write { offset, buffers } => {
                let mut rest = self.range(offset, total(buffers))?;
                for buffer in buffers {
                    let (piece, after) = rest.split_at_mut(buffer.length());
                    // SAFETY: as for reads.
                    unsafe { std::ptr::copy_nonoverlapping(buffer.start(), piece.as_mut_ptr(), piece.len()) };
                    rest = after;
                }
            }
            Operation::Discard { offset, length } | Operation::WriteZeroes { offset, length, .. } => {
                self.range(offset, length)?.fill(0);
            }
            Operation::Flush => {}
        }
        Ok(())
    }
}

impl Lane for RamLane {
    unsafe fn submit(&mut self, tag: u64, operation: Operation<'_>) {
        let result = self.carry_out(operation);
        self.done.push(Completion { tag, result });
    }

    fn start(&mut self) {}

    fn completions(&mut self, done: &mut Vec<Completion>) {
        done.append(&mut self.done);
    }

    fn in_flight(&self) -> usize {
        self.done.len()
    }

    fn wait_descriptor(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}
