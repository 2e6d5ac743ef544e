//! Disks as a device's queues use them: requests go in through lanes, completions come out, and the contents agree with a model.

#![allow(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod client;
mod disguise;
mod formats;
mod lanes;
