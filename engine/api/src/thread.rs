//! The threads of a machine and of its devices: all have the same small stack.

use std::io;
use std::thread::{Builder, JoinHandle};

use crate::HUGE_PAGE;

/// Bytes of a thread's stack: fewer than a huge page, because the host makes a whole one of a stack that has room for it, and
/// stacks lie beside guest memory, which is laid out for that.
pub const THREAD_STACK: usize = HUGE_PAGE / 2;

/// Starts a thread of this name, with a stack of [`THREAD_STACK`] bytes.
///
/// # Errors
/// The host has no more of them.
pub fn start_thread<T: Send + 'static>(
    name: impl Into<String>,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.into()).stack_size(THREAD_STACK).spawn(work)
}
