//! Bytes at offsets, wherever they are: what image formats stand on.
//!
//! ```text
//! file.rs     a file or block device of the host
//! direct.rs   what `O_DIRECT` asks for: whole blocks, in and out of aligned memory
//! patched.rs  storage as it would be if a log were carried out
//! memory.rs   this program's memory, for tests and hostile images
//! lock.rs     who may open an image together with whom
//! holder.rs   who has it
//! ```

mod direct;
mod file;
mod holder;
mod lock;
pub(crate) mod memory;
mod patched;
pub(crate) mod temporary;

use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;

use crate::memory::{Source, Target};

pub(crate) use file::{HostFile, OpenMode};
pub(crate) use lock::{LockError, Purpose};
pub(crate) use patched::Patched;

/// A stretch of a file, as far as it is all of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// Whether there is anything: a hole reads as zeros.
    pub is_data: bool,
    /// Bytes, at least 1.
    pub length: u64,
}

/// Bytes at offsets. Accesses from several threads are fine; those that overlap are done in any order.
pub(crate) trait Storage: Debug + Send + Sync {
    /// Bytes.
    fn length(&self) -> io::Result<u64>;

    /// Fills `target` from `offset`. What is beyond the end reads as zeros.
    fn read(&self, target: &Target<'_>, offset: u64) -> io::Result<()>;

    /// Writes all of `source` at `offset`, and makes the file longer if need be.
    fn write(&self, source: &Source<'_>, offset: u64) -> io::Result<()>;

    /// Makes all that was written survive a crash of the host.
    fn sync(&self) -> io::Result<()>;

    /// Makes the file longer, with zeros, or shorter.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Makes the range read as zeros, and gives back its space if `may_unmap`. The file's length stays.
    fn zero(&self, offset: u64, length: u64, may_unmap: bool) -> io::Result<()>;

    /// Gives back the range's space where that is possible; it reads as anything afterwards. The file's length stays.
    fn discard(&self, offset: u64, length: u64) -> io::Result<()>;

    /// What is at `offset`: data or a hole, up to `length` bytes of it. Data if nobody can tell.
    fn stretch(&self, offset: u64, length: u64) -> io::Result<Stretch>;

    /// The descriptor by which the host's asynchronous I/O reaches the same bytes, and what offsets, lengths and addresses must
    /// be multiples of; `None` if there is none.
    fn descriptor(&self) -> Option<(BorrowedFd<'_>, usize)> {
        None
    }

    /// Fills the beginning of `target` from `offset` with what is there without waiting for a device; returns how many bytes that
    /// are. 0 says nothing: there may be more, but not at once, or the file ends here, or the read fails.
    fn read_at_once(&self, _target: &Target<'_>, _offset: u64) -> usize {
        0
    }

    /// Writes the beginning of `source` at `offset`, as far as that does not wait for a device; returns as [`Self::read_at_once`].
    fn write_at_once(&self, _source: &Source<'_>, _offset: u64) -> usize {
        0
    }

    /// Whether [`Self::sync`] does not wait for a device either.
    fn is_in_memory(&self) -> bool {
        false
    }

    /// Fills `bytes` from `offset`; zeros beyond the end.
    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        self.read(&Target::of(bytes), offset)
    }

    /// Writes `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.write(&Source::of(bytes), offset)
    }
}
