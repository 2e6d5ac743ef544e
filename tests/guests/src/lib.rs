//! Drives the built `tern` command as its users do: with pipes, as a script would, or on a terminal.
//!
//! ```text
//! tern.rs       what is started: the command line, and how long it may take
//! guest.rs      what runs: waiting for its words, typing, its end; every failure tells the console's last lines
//! stream.rs     what a process writes, kept as it comes
//! terminal.rs   a terminal for the process, and what it is like before and after
//! places.rs     how many processors are kept busy at a time
//! host.rs       what a guest on KVM inherits from its host
//! debian.rs     kernels from Debian's packages
//! boot_sector.rs  guests of a few bytes, for what no Linux does
//! program.rs    programs for guests, of a few system calls
//! ```
//!
//! The tests themselves are in `tests/guests/`. What fails here panics: it is a test that fails.

#![forbid(unsafe_code)]

pub mod boot_sector;
pub mod debian;
mod guest;
pub mod host;
mod places;
pub mod program;
mod stream;
mod terminal;
mod tern;

pub use guest::{End, Guest, PROMPT};
pub use terminal::Terminal;
pub use tern::{Tern, engine};
