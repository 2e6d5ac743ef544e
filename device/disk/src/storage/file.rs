//! A file or block device of the host: pread(2), pwrite(2), fallocate(2), lseek(2).

#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FallocateFlags, OFlags, SeekFrom, fallocate, fstatfs, seek};

use super::direct::Direct;
use super::lock::{self, LockError, Purpose};
use super::{Storage, Stretch};
use crate::memory::{Source, Target};
use crate::request::Buffer;

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OpenMode {
    /// Whether it will be written.
    pub is_writable: bool,
    /// Whether the host's page cache is gone around.
    pub is_direct: bool,
}

/// An open file or block device.
#[derive(Debug)]
pub(crate) struct HostFile {
    file: File,
    direct: Option<Direct>,
    is_device: bool,
    /// The device's block in bytes; 1 for files.
    block: u32,
    /// Whether its file system is in the host's memory.
    is_in_memory: bool,
    /// Whether its file system knows `RWF_NOWAIT`, as far as we know.
    knows_nowait: AtomicBool,
}

/// The most that one call of readv(2) takes (`IOV_MAX`).
const MOST_PIECES: usize = 1024;

/// The file systems that have no device: tmpfs(5), which memfd_create(2) stands on, too, and ramfs. What they swapped out is
/// worth the wait.
const IN_MEMORY: [libc::c_long; 2] = [libc::TMPFS_MAGIC, 0x8584_58f6];

impl HostFile {
    /// Opens the file or block device at `path`, which exists.
    ///
    /// # Errors
    /// What open(2) says; `Unsupported` if it is neither file nor block device, or direct access is asked for in vain.
    pub(crate) fn open(path: &Path, mode: OpenMode) -> io::Result<Self> {
        // Whatever else has this name, such as a pipe, does not make us wait.
        let mut flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        if mode.is_direct {
            flags |= libc::O_DIRECT;
        }
        let file = OpenOptions::new().read(true).write(mode.is_writable).custom_flags(flags).open(path)?;
        // From here on it is waited for: io_uring would give up early on a file that is marked so.
        let flags = rustix::fs::fcntl_getfl(&file)?;
        rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
        Self::new(file, mode.is_direct)
    }

    /// Takes an open file.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn new(file: File, is_direct: bool) -> io::Result<Self> {
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            let what = if kind.is_dir() { "a directory" } else { "neither a file nor a block device" };
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        let is_device = kind.is_block_device();
        let block = if is_device { device_block(&file)? } else { 1 };
        let direct = if is_direct { Some(Direct::of(&file)?) } else { None };
        let is_in_memory = !is_device && IN_MEMORY.contains(&fstatfs(&file)?.f_type);
        Ok(Self { file, direct, is_device, block, is_in_memory, knows_nowait: AtomicBool::new(true) })
    }

    /// Claims it for a purpose, until it is closed.
    ///
    /// # Errors
    /// Somebody else has it, or the file system cannot lock.
    pub(crate) fn lock(&self, purpose: Purpose) -> Result<(), LockError> {
        lock::lock(&self.file, purpose)
    }

    /// What tells this file from every other, whatever its names.
    pub(crate) fn identity(&self) -> io::Result<(u64, u64)> {
        let metadata = self.file.metadata()?;
        Ok(if self.is_device { (u64::MAX, metadata.rdev()) } else { (metadata.dev(), metadata.ino()) })
    }

    /// Whether it is a block device: then its length cannot change.
    pub(crate) fn is_device(&self) -> bool {
        self.is_device
    }

    /// The least that may be read or written, in bytes: a device's logical block under direct access, else 1.
    pub(crate) fn block(&self) -> u32 {
        let direct = self.direct.as_ref().map_or(1, Direct::block);
        direct.max(if self.direct.is_some() { self.block } else { 1 })
    }

    /// Bytes that it takes on the host.
    pub(crate) fn allocated(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks().saturating_mul(512))
    }

    /// Reads up to the end of the file; returns how much is there.
    fn read_some(&self, buffers: &[Buffer], offset: u64) -> io::Result<usize> {
        let (file, pieces, count, offset) = self.arguments(buffers, offset)?;
        loop {
            // SAFETY: `Buffer` is laid out as iovec, and whoever made the target promised that the pieces may be written.
            let read = unsafe { libc::preadv(file, pieces, count, offset) };
            match usize::try_from(read) {
                Ok(read) => return Ok(read),
                Err(_) => retry(io::Error::last_os_error())?,
            }
        }
    }

    /// Reads what is in the host's memory; returns how much that is, and 0 if nobody can tell without waiting.
    fn read_cached(&self, buffers: &[Buffer], offset: u64) -> usize {
        let Ok((file, pieces, count, offset)) = self.arguments(buffers, offset) else { return 0 };
        // SAFETY: as in `read_some`.
        let read = unsafe { libc::preadv2(file, pieces, count, offset, libc::RWF_NOWAIT) };
        usize::try_from(read).unwrap_or_else(|_| {
            if io::Error::last_os_error().kind() == io::ErrorKind::Unsupported {
                self.knows_nowait.store(false, Ordering::Relaxed);
            }
            0
        })
    }

    fn write_some(&self, buffers: &[Buffer], offset: u64) -> io::Result<usize> {
        let (file, pieces, count, offset) = self.arguments(buffers, offset)?;
        loop {
            // SAFETY: `Buffer` is laid out as iovec, and whoever made the source promised that the pieces may be read.
            let written = unsafe { libc::pwritev(file, pieces, count, offset) };
            match usize::try_from(written) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => return Ok(written),
                Err(_) => retry(io::Error::last_os_error())?,
            }
        }
    }

    /// What preadv(2) and its relatives take: as many pieces as they take at once.
    fn arguments(
        &self,
        buffers: &[Buffer],
        offset: u64,
    ) -> io::Result<(RawFd, *const libc::iovec, libc::c_int, libc::off_t)> {
        let count = libc::c_int::try_from(buffers.len().min(MOST_PIECES)).unwrap_or(0);
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok((self.file.as_raw_fd(), buffers.as_ptr().cast(), count, offset))
    }

    /// Reads without regard to what direct access asks for.
    pub(super) fn read_plainly(&self, target: &Target<'_>, offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < target.len() {
            let rest = target.slice(done, target.len() - done);
            let read = self.read_some(rest.buffers(), offset + done as u64)?;
            if read == 0 {
                rest.zero();
                break;
            }
            done += read;
        }
        Ok(())
    }

    /// Writes without regard to what direct access asks for.
    pub(super) fn write_plainly(&self, source: &Source<'_>, offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < source.len() {
            let rest = source.slice(done, source.len() - done);
            done += self.write_some(rest.buffers(), offset + done as u64)?;
        }
        Ok(())
    }

    fn fallocate(&self, flags: FallocateFlags, offset: u64, length: u64) -> io::Result<bool> {
        match fallocate(&self.file, flags, offset, length) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {
                Ok(false)
            }
            Err(rustix::io::Errno::INTR) => self.fallocate(flags, offset, length),
            Err(error) => Err(error.into()),
        }
    }

    /// Clips a range to the file, because nothing is to be done beyond its end.
    fn clip(&self, offset: u64, length: u64) -> io::Result<Option<u64>> {
        let left = self.length()?.saturating_sub(offset);
        Ok(Some(length.min(left)).filter(|length| *length > 0))
    }
}

/// Lets an interrupted call be made again.
fn retry(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

/// The logical block of a block device, in bytes.
fn device_block(file: &File) -> io::Result<u32> {
    rustix::fs::ioctl_blksszget(file).map_err(io::Error::from)
}

impl Storage for HostFile {
    fn length(&self) -> io::Result<u64> {
        if self.is_device {
            // A device's metadata has no length.
            return Ok(seek(&self.file, SeekFrom::End(0))?);
        }
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, target: &Target<'_>, offset: u64) -> io::Result<()> {
        match &self.direct {
            Some(direct) => direct.read(self, target, offset),
            None => self.read_plainly(target, offset),
        }
    }

    fn write(&self, source: &Source<'_>, offset: u64) -> io::Result<()> {
        match &self.direct {
            Some(direct) => direct.write(self, source, offset),
            None => self.write_plainly(source, offset),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_len(length)
    }

    fn zero(&self, offset: u64, length: u64, may_unmap: bool) -> io::Result<()> {
        let Some(length) = self.clip(offset, length)? else { return Ok(()) };
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let zero = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        if may_unmap && self.fallocate(punch, offset, length)? {
            return Ok(());
        }
        if self.fallocate(zero, offset, length)? {
            return Ok(());
        }
        let zeros = vec![0; usize::try_from(length.min(1 << 20)).unwrap_or(1 << 20)];
        let mut done = 0;
        while done < length {
            let part = usize::try_from(length - done).unwrap_or(usize::MAX).min(zeros.len());
            self.write(&Source::of(&zeros[..part]), offset + done)?;
            done += part as u64;
        }
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        let Some(length) = self.clip(offset, length)? else { return Ok(()) };
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.fallocate(punch, offset, length).map(|_| ())
    }

    fn stretch(&self, offset: u64, length: u64) -> io::Result<Stretch> {
        let end = self.length()?;
        if offset >= end {
            return Ok(Stretch { is_data: false, length });
        }
        let data = match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) => data,
            // Nothing but a hole up to the end.
            Err(rustix::io::Errno::NXIO) => end,
            // Not a file that can have holes.
            Err(_) => return Ok(Stretch { is_data: true, length: length.min(end - offset) }),
        };
        if data > offset {
            return Ok(Stretch { is_data: false, length: length.min(data - offset) });
        }
        let hole = seek(&self.file, SeekFrom::Hole(offset)).unwrap_or(end).max(offset + 1);
        Ok(Stretch { is_data: true, length: length.min(hole - offset) })
    }

    fn read_at_once(&self, target: &Target<'_>, offset: u64) -> usize {
        if self.is_in_memory {
            self.read_some(target.buffers(), offset).unwrap_or(0)
        } else if self.direct.is_none() && self.knows_nowait.load(Ordering::Relaxed) {
            self.read_cached(target.buffers(), offset)
        } else {
            0
        }
    }

    fn write_at_once(&self, source: &Source<'_>, offset: u64) -> usize {
        if self.is_in_memory { self.write_some(source.buffers(), offset).unwrap_or(0) } else { 0 }
    }

    fn is_in_memory(&self) -> bool {
        self.is_in_memory
    }

    fn descriptor(&self) -> Option<(BorrowedFd<'_>, usize)> {
        let block = self.block();
        Some((self.file.as_fd(), usize::try_from(block).unwrap_or(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> HostFile {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, bytes).unwrap();
        HostFile::open(&path, OpenMode { is_writable: true, is_direct: false }).unwrap()
    }

    #[test]
    fn beyond_the_end_there_are_zeros() {
        let file = file(&[7; 1000]);
        let mut bytes = [1; 1024];
        file.read(&Target::of(&mut bytes), 0).unwrap();
        assert_eq!((bytes[999], &bytes[1000..]), (7, &[0; 24][..]));
        file.read(&Target::of(&mut bytes), 1 << 40).unwrap();
        assert_eq!(bytes, [0; 1024]);
    }

    #[test]
    fn zeroing_keeps_the_length() {
        let file = file(&[7; 300_000]);
        for may_unmap in [true, false] {
            file.zero(100, 200_000, may_unmap).unwrap();
            file.zero(299_000, 1 << 40, may_unmap).unwrap();
            assert_eq!(file.length().unwrap(), 300_000);
        }
        let mut bytes = vec![1; 300_000];
        file.read(&Target::of(&mut bytes), 0).unwrap();
        let sevens = bytes.iter().filter(|byte| **byte == 7).count();
        assert_eq!(sevens, 300_000 - 200_000 - 1000);
    }

    #[test]
    fn what_is_cached_is_read_at_once_as_far_as_the_file_goes() {
        let file = file(&[7; 1000]);
        let mut bytes = [1; 1024];
        // Some file systems always wait.
        let read = file.read_at_once(&Target::of(&mut bytes), 0);
        assert!([0, 1000].contains(&read), "{read}");
        assert!(bytes[..read].iter().all(|byte| *byte == 7) && bytes[read..].iter().all(|byte| *byte == 1));
        assert_eq!(file.read_at_once(&Target::of(&mut bytes), 4096), 0);
    }

    #[test]
    fn holes_are_found() {
        let file = file(&[]);
        file.set_length(1 << 30).unwrap();
        file.write(&Source::of(&[1; 4096]), 1 << 20).unwrap();
        let hole = file.stretch(0, 1 << 30).unwrap();
        assert!(!hole.is_data && hole.length <= 1 << 20, "{hole:?}");
        let data = file.stretch(1 << 20, 1 << 30).unwrap();
        assert!(data.is_data && data.length >= 4096, "{data:?}");
        assert_eq!(file.stretch(1 << 30, 5).unwrap(), Stretch { is_data: false, length: 5 });
    }

    #[test]
    fn what_cannot_hold_a_disk_is_refused() {
        let mode = OpenMode { is_writable: false, is_direct: false };
        for path in ["/dev/null", "/"] {
            let error = HostFile::open(Path::new(path), mode).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::Unsupported, "{path}");
        }
    }
}
