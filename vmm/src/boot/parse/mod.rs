//! The pure half of booting: what a kernel file's bytes say.
//!
//! Everything here takes bytes that somebody else wrote and returns values or an error. It touches no guest memory,
//! does no I/O, cannot panic, and bounds what it allocates by what it was given. The fuzz targets call these functions.

pub mod bzimage;
pub mod detect;
pub mod elf;
pub mod multiboot;
pub mod segment;
pub mod unpack;

mod bytes;
mod note;
