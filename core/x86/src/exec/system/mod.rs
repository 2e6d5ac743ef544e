//! System instructions.
mod io;
pub(crate) use io::check_io;
