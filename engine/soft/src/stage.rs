//! A processor on top of a stack of its own.
//!
//! Translated code finds the processor through the stack pointer: RSP is the address of the [`Processor`], and what
//! the host pushes goes below it. So no register is spent on it, and a signal or a call from translated code finds
//! a stack where it expects one.
//!
//! ```text
//!  guard page │ stack, grows downwards ◀── │ Processor (RSP while translated code runs)
//! ```

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use tern_x86::environment::Processor;

use crate::environment::SoftEnvironment;

/// Bytes for what is called from translated code.
const STACK: usize = 1 << 20;
const PAGE: usize = 4096;

/// The mapping that holds a processor and its stack.
pub struct Stage {
    mapping: NonNull<u8>,
    length: usize,
    processor: NonNull<Processor<SoftEnvironment>>,
}

// SAFETY: the mapping belongs to this value, and what it holds is `Send`.
unsafe impl Send for Stage {}

impl Stage {
    /// Moves a processor onto a new stack.
    ///
    /// # Errors
    /// The host gives no memory.
    pub fn new(processor: Processor<SoftEnvironment>) -> io::Result<Self> {
        let length = PAGE + STACK + size_of::<Processor<SoftEnvironment>>().next_multiple_of(PAGE);
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping: NonNull<u8> = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: the first page of the mapping just made.
        unsafe { libc::mprotect(address, PAGE, libc::PROT_NONE) };
        // SAFETY: the place lies in the mapping, behind the guard page and the stack, and is a multiple of the page size.
        let place = unsafe { mapping.add(PAGE + STACK) }.cast::<Processor<SoftEnvironment>>();
        // SAFETY: there is room for one, aligned, and nobody else knows the place.
        unsafe { place.write(processor) };
        Ok(Self { mapping, length, processor: place })
    }

    /// The processor's address, which is its stack pointer.
    pub const fn top(&self) -> NonNull<Processor<SoftEnvironment>> {
        self.processor
    }
}

impl Deref for Stage {
    type Target = Processor<SoftEnvironment>;

    fn deref(&self) -> &Self::Target {
        // SAFETY: `new` put a processor there, which lives as long as `self`.
        unsafe { self.processor.as_ref() }
    }
}

impl DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut Self::Target {
        // SAFETY: as above, and `self` is borrowed mutably.
        unsafe { self.processor.as_mut() }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // SAFETY: the processor and the mapping are this value's own, and this is the last use of both.
        unsafe {
            self.processor.drop_in_place();
            libc::munmap(self.mapping.as_ptr().cast(), self.length);
        }
    }
}
