//! What machines rely on from an engine.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod code;
mod dirty_log;
mod doorbells;
mod garbage;
mod gathered_writes;
mod interrupts;
mod standstill;
mod wakes;
