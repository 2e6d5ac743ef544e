//! Real guests in the built `tern`.
//!
//! `cargo build --release -p tern && cargo test -p tern-guests` runs those that take seconds;
//! `-- --ignored` the rest. The first run fetches Debian's kernels.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod bad_input;
mod balloon;
mod boot;
mod channels;
mod command;
mod console;
mod disks;
mod endings;
mod findings;
mod flushed;
mod host_processor;
mod interactive;
mod killed;
mod listings;
mod machines;
mod memory;
mod pages;
mod processors;
mod pull;
mod random;
mod roots;
mod sockets;
mod systems;
mod translation;
