//! The threads of `tern` beside the machine's own.

use std::io;
use std::thread::{Builder, JoinHandle};

use tern_engine::THREAD_STACK;

/// Starts a thread of this name, with a stack of [`THREAD_STACK`] bytes.
///
/// # Errors
/// The host has no more of them.
pub(crate) fn start<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).stack_size(THREAD_STACK).spawn(work)
}
