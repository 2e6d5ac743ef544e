//! How the C library's allocator treats large blocks, mallopt(3).
#![allow(unsafe_code)]

/// From this size on, in bytes, a block is a mapping of its own.
const LARGE: libc::c_int = 128 << 10;

/// Has large blocks given back to the host as soon as they are freed.
///
/// By default the allocator learns from the first large block that is freed (a kernel's file) to keep such blocks: a machine
/// would hold as much memory as its kernel and initramfs took while they were loaded, for nothing.
pub(crate) fn give_back_large_blocks() {
    // SAFETY: it sets a number of the allocator's, and no other thread runs yet. If it does not know the option, it returns
    // zero, and memory is used less well.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
}
