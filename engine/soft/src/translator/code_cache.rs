//! Memory for translated code: mapped twice, once to write and once to execute, so that no mapping is ever both.
//!
//! Nothing but two mappings at the start is asked of the host, so translated code also grows and is patched under a
//! system call filter. Code is appended until the memory is full; then all of it but the stubs at its start is dropped.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

use super::assembler::Fixup;

/// Code starts at multiples of this.
const ALIGNMENT: usize = 16;

/// An area that holds code.
#[derive(Debug)]
pub struct CodeCache {
    writable: NonNull<u8>,
    executable: NonNull<u8>,
    size: usize,
    used: usize,
    /// What is kept when the rest is dropped.
    kept: usize,
}

// SAFETY: the mappings belong to this value alone and are not tied to a thread; changing them takes `&mut self`.
unsafe impl Send for CodeCache {}

impl CodeCache {
    /// Reserves `size` bytes, a multiple of the page size; pages take host memory only once they are used.
    ///
    /// # Errors
    /// The host gives no memory that may be executed.
    pub fn new(size: usize) -> io::Result<Self> {
        // SAFETY: the name is a C string.
        let file = unsafe { libc::memfd_create(c"tern-translated".as_ptr(), libc::MFD_CLOEXEC) };
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
        Ok(Self { writable, executable, size, used: 0, kept: 0 })
    }

    /// Bytes that can still be appended.
    pub const fn free(&self) -> usize {
        self.size - self.used
    }

    /// Bytes that hold code.
    pub const fn used(&self) -> usize {
        self.used
    }

    /// Keeps what there is now when the rest is dropped.
    pub const fn keep(&mut self) {
        self.kept = self.used;
    }

    /// Drops all code but what is kept. It stays executable until it is overwritten, but nobody may enter it any more.
    pub const fn clear(&mut self) {
        self.used = self.kept;
    }

    /// Adds code whose distances to other code are `fixups`, and returns its offset; `None` if it does not fit.
    pub fn append(&mut self, mut code: Vec<u8>, fixups: &[Fixup]) -> Option<u32> {
        let (start, end) = (self.used, self.used.checked_add(code.len())?);
        if end > self.size {
            return None;
        }
        for &Fixup { at, target } in fixups {
            let distance = (target as usize).wrapping_sub(start + at + 4) as u32;
            code.get_mut(at..at + 4)?.copy_from_slice(&distance.to_le_bytes());
        }
        // SAFETY: the range lies in the mapping, which nothing else writes; `code` is not in it, and no code that is
        // entered lies there.
        unsafe {
            std::ptr::copy_nonoverlapping(code.as_ptr(), self.writable.as_ptr().add(start), code.len())
        };
        self.used = end.next_multiple_of(ALIGNMENT).min(self.size);
        u32::try_from(start).ok()
    }

    /// Makes the four-byte distance at offset `at` lead to offset `target`. The processor's own thread does this between
    /// two runs of translated code.
    pub fn redirect(&mut self, at: u32, target: u32) {
        let at = at as usize;
        assert!(at + 4 <= self.used, "a distance lies in code");
        let distance = (target as usize).wrapping_sub(at + 4) as u32;
        // SAFETY: the four bytes lie in the mapping; nothing executes there while `self` is borrowed mutably.
        unsafe { self.writable.as_ptr().add(at).cast::<u32>().write_unaligned(distance.to_le()) };
    }

    /// Replaces the first instructions of code at offset `at` by a jump to offset `target`. As [`CodeCache::redirect`]; and the
    /// code that is replaced is not being executed.
    pub fn replace_by_jump(&mut self, at: u32, target: u32) {
        self.redirect(at + 1, target);
        // SAFETY: `redirect` made sure that the byte behind it lies in the mapping.
        unsafe { self.writable.as_ptr().add(at as usize).write(0xe9) };
    }

    /// The address at which the code at `offset` is executed.
    #[inline]
    pub fn at(&self, offset: u32) -> *const u8 {
        self.executable.as_ptr().wrapping_add(offset as usize)
    }
}

fn map(file: &OwnedFd, size: usize, protection: libc::c_int) -> io::Result<NonNull<u8>> {
    // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
    let address =
        unsafe { libc::mmap(std::ptr::null_mut(), size, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

impl Drop for CodeCache {
    fn drop(&mut self) {
        // SAFETY: both mappings were made by `new` with this size, and with `self` goes the last use of them.
        unsafe {
            libc::munmap(self.writable.as_ptr().cast(), self.size);
            libc::munmap(self.executable.as_ptr().cast(), self.size);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `mov eax, value; ret`.
    fn returns(value: u32) -> Vec<u8> {
        let mut code = vec![0xb8];
        code.extend_from_slice(&value.to_le_bytes());
        code.push(0xc3);
        code
    }

    fn call(cache: &CodeCache, offset: u32) -> u32 {
        // SAFETY: the bytes are a function without arguments that keeps to the ABI.
        let function: extern "sysv64" fn() -> u32 = unsafe { std::mem::transmute(cache.at(offset)) };
        function()
    }

    #[test]
    fn appended_code_runs_and_can_be_led_elsewhere() {
        let mut cache = CodeCache::new(1 << 16).expect("executable memory");
        let first = cache.append(returns(1), &[]).expect("fits");
        let second = cache.append(returns(2), &[]).expect("fits");
        let jump = cache.append(vec![0xe9, 0, 0, 0, 0], &[Fixup { at: 1, target: first }]).expect("fits");
        assert_eq!(call(&cache, jump), 1);
        cache.redirect(jump + 1, second);
        assert_eq!(call(&cache, jump), 2);
    }

    #[test]
    fn what_is_kept_survives_clearing_and_what_does_not_fit_is_refused() {
        let mut cache = CodeCache::new(4096).expect("executable memory");
        let kept = cache.append(returns(7), &[]).expect("fits");
        cache.keep();
        assert!(cache.append(vec![0xcc; 4080], &[]).is_some());
        assert!(cache.append(returns(8), &[]).is_none());
        cache.clear();
        assert!(cache.append(returns(8), &[]).is_some());
        assert_eq!(call(&cache, kept), 7);
    }
}
