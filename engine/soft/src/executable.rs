//! Memory for generated code: mapped twice, once to write and once to execute, so that no mapping is ever both.
//!
//! Nothing but two mappings at the start is needed from the host, so code also grows and is patched under a system call filter. That
//! one mapping executes what the other has just written relies on processors telling changed code by its physical address, as they
//! do.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

/// What one entry of the host's TLB leads to where the host has moved code together. Memory for code starts at a multiple.
pub const LARGE_PAGE: usize = 2 << 20;

/// An area that holds generated code.
#[derive(Debug)]
pub struct ExecutableMemory {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    size: usize,
}

// SAFETY: the mappings belong to this value alone and are not tied to a thread; changing them takes `&mut self`.
unsafe impl Send for ExecutableMemory {}

impl ExecutableMemory {
    /// Reserves `size` bytes, a multiple of the page size; pages take host memory only once they are used, or asked for
    /// ([`ExecutableMemory::collapse`]).
    ///
    /// # Errors
    /// The host gives no memory that may be executed.
    pub fn new(size: usize) -> io::Result<Self> {
        // SAFETY: the name is a C string.
        let file = unsafe { libc::memfd_create(c"tern-code".as_ptr(), libc::MFD_CLOEXEC) };
        if file < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let file = unsafe { OwnedFd::from_raw_fd(file) };
        let length = libc::off_t::try_from(size).map_err(io::Error::other)?;
        // SAFETY: it is an open file.
        if unsafe { libc::ftruncate(file.as_raw_fd(), length) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let writable = map(&file, size, libc::PROT_READ | libc::PROT_WRITE)?;
        let executable = map(&file, size, libc::PROT_READ | libc::PROT_EXEC).inspect_err(|_| {
            // SAFETY: the mapping was just made with this size, and nothing uses it.
            unsafe { libc::munmap(writable.as_ptr().cast(), size) };
        })?;
        Ok(Self { writable, executable, size })
    }

    /// Bytes of it.
    pub const fn size(&self) -> usize {
        self.size
    }

    /// Writes `bytes` from the offset `at` on. Nothing may be executing there but what a processor reads at once.
    ///
    /// # Panics
    /// They do not lie in it.
    #[inline]
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(at.checked_add(bytes.len()).is_some_and(|end| end <= self.size), "code lies in its memory");
        // SAFETY: the range lies in the mapping, which nothing else writes, and `bytes` are elsewhere: nobody has a reference
        // to what is mapped.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.writable.as_ptr().add(at), bytes.len()) };
    }

    /// The address at which the code at `offset` is executed.
    #[inline]
    pub fn at(&self, offset: u32) -> *const u8 {
        self.executable.as_ptr().wrapping_add(offset as usize)
    }

    /// Asks the host to make the large page of this number, of which something is used, one of its own. If it does not, nothing is lost.
    pub fn collapse(&self, page: usize) {
        let start = self.executable.as_ptr().wrapping_add(page * LARGE_PAGE);
        // SAFETY: it is part of the mapping, whose bytes stay what they are.
        unsafe { libc::madvise(start.cast(), LARGE_PAGE, libc::MADV_COLLAPSE) };
    }
}

/// Maps the file at a multiple of [`LARGE_PAGE`].
fn map(file: &OwnedFd, size: usize, protection: libc::c_int) -> io::Result<NonNull<u8>> {
    let reserved = size + LARGE_PAGE;
    let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), reserved, libc::PROT_NONE, private, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let before = (start as usize).next_multiple_of(LARGE_PAGE) - start as usize;
    // SAFETY: the new mapping replaces a part of the reserved one, the rest of which goes; nothing else knows either.
    unsafe {
        let wanted = start.byte_add(before);
        let shared = libc::MAP_SHARED | libc::MAP_FIXED;
        let mapped = libc::mmap(wanted, size, protection, shared, file.as_raw_fd(), 0);
        let error = io::Error::last_os_error();
        if mapped == libc::MAP_FAILED {
            libc::munmap(start, reserved);
            return Err(error);
        }
        if before > 0 {
            libc::munmap(start, before);
        }
        libc::munmap(wanted.byte_add(size), reserved - before - size);
        NonNull::new(mapped.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }
}

impl Drop for ExecutableMemory {
    fn drop(&mut self) {
        // SAFETY: both mappings were made by `new` with this size, and with `self` goes the last use of them.
        unsafe {
            libc::munmap(self.writable.as_ptr().cast(), self.size);
            libc::munmap(self.executable.as_ptr().cast(), self.size);
        }
    }
}
