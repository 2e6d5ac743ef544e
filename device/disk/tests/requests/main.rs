//! Disks as a device's queues use them: requests go in through lanes, completions come out, and the contents agree with a model.

#![allow(unsafe_code)]

mod client;
mod lanes;
