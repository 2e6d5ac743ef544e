//! Untrusted bytes heard on a machine's socket, by the machine and by whoever asks it.

#![no_main]

use libfuzzer_sys::fuzz_target;

// `tern` is a program, and no library.
#[path = "../../tern/src/control/protocol.rs"]
#[allow(dead_code, reason = "the program uses the rest")]
mod protocol;

fuzz_target!(|input: &[u8]| {
    let _ = protocol::exercise(input);
});
