//! Untrusted bytes decoded as an instruction.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| tern_fuzz::guest::decode_everywhere(bytes));
