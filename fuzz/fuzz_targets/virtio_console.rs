//! A driver of the console device, whatever it does.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| tern_fuzz::virtio::console(input));
