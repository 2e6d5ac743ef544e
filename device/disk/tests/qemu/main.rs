//! Images beside `qemu-img`: what it makes is read here, and what is written here is read and checked by it.
//!
//! `./x test` installs it (Debian's package `qemu-utils`).

#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "../requests/client.rs"]
mod client;
mod killed;
mod others;
mod qcow2;
mod tool;
mod tools;
