//! Images beside `qemu-img`: what it makes is read here, and what is written here is read and checked by it.
//!
//! `./x test` installs it (Debian's package `qemu-utils`).

#![allow(unsafe_code)]

#[path = "../requests/client.rs"]
mod client;
mod others;
mod qcow2;
mod tool;
mod tools;
