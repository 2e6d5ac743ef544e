//! A driver of a disk, whatever it does.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| tern_fuzz::virtio::block(input));
