//! Memory for generated code: appended to, executed, dropped as a whole. No page is ever writable and executable at once.

use std::io;
use std::ptr::NonNull;

/// Stubs start at multiples of this, so that a short one lies in one cache line.
const ALIGNMENT: usize = 32;

/// An area of its own in the address space.
#[derive(Debug)]
pub(super) struct CodeMemory {
    base: NonNull<u8>,
    size: usize,
    used: usize,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread; changing it takes `&mut self`.
unsafe impl Send for CodeMemory {}

impl CodeMemory {
    /// Reserves `size` bytes, a multiple of the page size; pages take host memory only once they are used.
    pub(super) fn new(size: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_NONE, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut memory = Self { base, size, used: 0 };
        // Finds out now whether the host lets memory become executable (some hardened ones do not).
        memory.append(&[0xc3])?;
        memory.clear();
        Ok(memory)
    }

    /// Bytes that can still be appended, alignment included.
    pub(super) const fn free(&self) -> usize {
        self.size - self.used
    }

    /// Forgets all code. Its bytes stay executable until they are overwritten.
    pub(super) const fn clear(&mut self) {
        self.used = 0;
    }

    /// Adds a piece of code and returns its offset, or `None` if it does not fit.
    pub(super) fn append(&mut self, code: &[u8]) -> io::Result<Option<u32>> {
        let (start, end) = (self.used, self.used + code.len());
        let Ok(offset) = u32::try_from(start) else { return Ok(None) };
        if end > self.size {
            return Ok(None);
        }
        self.protect(start, end, libc::PROT_READ | libc::PROT_WRITE)?;
        // SAFETY: the range lies in the mapping, whose pages were just made writable; `code` is not in it, and nothing
        // in it executes while `self` is borrowed mutably.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), self.base.as_ptr().add(start), code.len()) };
        self.protect(start, end, libc::PROT_READ | libc::PROT_EXEC)?;
        self.used = end.next_multiple_of(ALIGNMENT).min(self.size);
        Ok(Some(offset))
    }

    /// The address of the code at `offset`.
    #[inline]
    pub(super) fn at(&self, offset: u32) -> *const u8 {
        self.base.as_ptr().wrapping_add(offset as usize)
    }

    /// Sets the protection of the pages that hold the bytes from `start` to `end`, which lie in the mapping.
    fn protect(&self, start: usize, end: usize, protection: libc::c_int) -> io::Result<()> {
        const PAGE: usize = 4096;
        let first = start / PAGE * PAGE;
        // SAFETY: the pages are part of this value's own mapping.
        let result = unsafe { libc::mprotect(self.base.as_ptr().add(first).cast(), end - first, protection) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this size, and with `self` goes the last use of it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.size) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_does_not_fit_is_refused_and_fits_again_after_clearing() {
        let mut memory = CodeMemory::new(4096).expect("executable memory");
        assert_eq!(memory.append(&[0xc3; 4064]).expect("writable"), Some(0));
        assert_eq!(memory.append(&[0xc3; 33]).expect("writable"), None);
        assert_eq!(memory.append(&[0xc3; 32]).expect("writable"), Some(4064));
        assert_eq!(memory.free(), 0);
        memory.clear();
        assert_eq!(memory.append(&[0xc3]).expect("writable"), Some(0));
        assert_eq!(memory.append(&[0xc3]).expect("writable"), Some(32));
    }

    #[test]
    fn appended_code_runs() {
        let mut memory = CodeMemory::new(8192).expect("executable memory");
        memory.append(&[0x90; 4090]).expect("writable");
        // Crosses a page: mov eax, 42; ret.
        let code = [&[0x90; 40][..], &[0xb8, 42, 0, 0, 0, 0xc3]].concat();
        let offset = memory.append(&code).expect("writable").expect("fits");
        // SAFETY: the bytes are a function without arguments that keeps to the ABI.
        let function: extern "sysv64" fn() -> u32 = unsafe { std::mem::transmute(memory.at(offset)) };
        assert_eq!(function(), 42);
    }
}
