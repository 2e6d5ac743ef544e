//! Untrusted bytes executed as a guest.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| tern_fuzz::guest::execute(input));
