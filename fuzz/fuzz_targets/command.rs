//! Untrusted bytes heard as a guest's agent, and as a host.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let _ = tern_command_protocol::exercise(input);
});
