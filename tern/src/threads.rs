//! The threads of `tern` beside the machine's own: they have the same small stack.

pub(crate) use tern_engine::start_thread as start;
