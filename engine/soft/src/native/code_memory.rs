//! Memory for stubs: appended to, executed, dropped as a whole.

use std::io;

use crate::executable::ExecutableMemory;

/// Stubs start at multiples of this, so that a short one lies in one cache line.
const ALIGNMENT: usize = 32;

/// An area that holds stubs.
#[derive(Debug)]
pub(super) struct CodeMemory {
    memory: ExecutableMemory,
    used: usize,
}

impl CodeMemory {
    /// Reserves `size` bytes, a multiple of the page size; pages take host memory only once they are used.
    pub(super) fn new(size: usize) -> io::Result<Self> {
        Ok(Self { memory: ExecutableMemory::new(size)?, used: 0 })
    }

    /// Bytes that can still be appended, alignment included.
    pub(super) const fn free(&self) -> usize {
        self.memory.size() - self.used
    }

    /// Forgets all code. Its bytes stay executable until they are overwritten.
    pub(super) const fn clear(&mut self) {
        self.used = 0;
    }

    /// Adds a piece of code and returns its offset, or `None` if it does not fit.
    pub(super) fn append(&mut self, code: &[u8]) -> Option<u32> {
        let (start, end) = (self.used, self.used + code.len());
        let offset = u32::try_from(start).ok()?;
        if end > self.memory.size() {
            return None;
        }
        self.memory.write(start, code);
        self.used = end.next_multiple_of(ALIGNMENT).min(self.memory.size());
        Some(offset)
    }

    /// The address of the code at `offset`.
    #[inline]
    pub(super) fn at(&self, offset: u32) -> *const u8 {
        self.memory.at(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_that_does_not_fit_is_refused_and_fits_again_after_clearing() {
        let mut memory = CodeMemory::new(4096).expect("executable memory");
        assert_eq!(memory.append(&[0xc3; 4064]), Some(0));
        assert_eq!(memory.append(&[0xc3; 33]), None);
        assert_eq!(memory.append(&[0xc3; 32]), Some(4064));
        assert_eq!(memory.free(), 0);
        memory.clear();
        assert_eq!(memory.append(&[0xc3]), Some(0));
        assert_eq!(memory.append(&[0xc3]), Some(32));
    }

    #[test]
    fn appended_code_runs() {
        let mut memory = CodeMemory::new(8192).expect("executable memory");
        memory.append(&[0x90; 4090]).expect("fits");
        // Crosses a page: mov eax, 42; ret.
        let code = [&[0x90; 40][..], &[0xb8, 42, 0, 0, 0, 0xc3]].concat();
        let offset = memory.append(&code).expect("fits");
        // SAFETY: the bytes are a function without arguments that keeps to the ABI.
        let function: extern "sysv64" fn() -> u32 = unsafe { std::mem::transmute(memory.at(offset)) };
        assert_eq!(function(), 42);
    }
}
