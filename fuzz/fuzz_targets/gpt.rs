//! Untrusted bytes taken for a divided disk.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| tern_image::system::gpt::exercise(input));
