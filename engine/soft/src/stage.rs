//! A processor on top of a stack of its own, with what translated code needs behind it.
//!
//! Translated code finds the processor through the stack pointer: RSP is the address of the [`Processor`], and what
//! the host pushes goes below it. So no register is spent on it, and a signal or a call from translated code finds
//! a stack where it expects one.
//!
//! ```text
//!  guard page │ stack, grows downwards ◀── │ Processor (RSP while translated code runs) │ Tlb │ RunState
//! ```
//!
//! The TLB and the jump tables are large. They are made where they stay, and the processor's surroundings hold a [`Seat`] of each.

use std::io;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

use tern_x86::environment::Processor;

use crate::environment::SoftEnvironment;
use crate::tlb::Tlb;
use crate::translator::RunState;

/// Bytes for what is called from translated code.
const STACK: usize = 1 << 20;
const PAGE: usize = 4096;

/// Where the TLB is, in bytes behind the processor's start.
pub const TLB: usize = size_of::<Processor<SoftEnvironment>>().next_multiple_of(64);
/// Where the state of translated code is, in bytes behind the processor's start.
pub const RUN_STATE: usize = (TLB + size_of::<Tlb>()).next_multiple_of(64);

/// A part of a [`Stage`] that the processor on it uses as its own.
pub struct Seat<T>(NonNull<T>);

// SAFETY: there is one seat of each part, and it moves with the processor.
unsafe impl<T: Send> Send for Seat<T> {}

impl<T> Deref for Seat<T> {
    type Target = T;

    #[inline(always)]
    fn deref(&self) -> &T {
        // SAFETY: the stage made the part before the seat, and keeps it as long as the processor that has the seat.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for Seat<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the only seat is borrowed mutably.
        unsafe { self.0.as_mut() }
    }
}

/// The mapping that holds a processor and its stack.
pub struct Stage {
    mapping: Mapping,
    processor: NonNull<Processor<SoftEnvironment>>,
}

// SAFETY: the mapping belongs to this value, and what it holds is `Send`.
unsafe impl Send for Stage {}

/// Memory of a stage, unmapped when it goes.
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    fn new(length: usize) -> io::Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice touches nothing that exists.
        let address = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, -1, 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = Self { start, length };
        // SAFETY: the first page of the mapping just made.
        if unsafe { libc::mprotect(address, PAGE, libc::PROT_NONE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and this is the last use of it.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

impl Stage {
    /// Has `make` make a processor around the parts that are there already.
    ///
    /// # Errors
    /// `make`'s, or the host gives no memory.
    pub fn new(
        make: impl FnOnce(Seat<Tlb>, Seat<RunState>) -> io::Result<Processor<SoftEnvironment>>,
    ) -> io::Result<Self> {
        let length = PAGE + STACK + (RUN_STATE + size_of::<RunState>()).next_multiple_of(PAGE);
        let mapping = Mapping::new(length)?;
        // SAFETY: all these places lie in the mapping, behind the guard page and the stack, aligned, and apart.
        let (processor, tlb, run_state) = unsafe {
            let top = mapping.start.add(PAGE + STACK);
            (top.cast::<Processor<SoftEnvironment>>(), top.add(TLB).cast(), top.add(RUN_STATE).cast())
        };
        // SAFETY: the mapping is zero, as both want, and nobody else knows the places.
        unsafe {
            Tlb::make_at(tlb);
            RunState::make_at(run_state);
        }
        let made = make(Seat(tlb), Seat(run_state))?;
        // SAFETY: there is room for one, and nobody else knows the place.
        unsafe { processor.write(made) };
        Ok(Self { mapping, processor })
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
        debug_assert!(self.mapping.length > PAGE);
        // SAFETY: the processor is this value's own, and this is the last use of it; its mapping goes after it.
        unsafe { self.processor.drop_in_place() };
    }
}
