//! Untrusted files opened as qcow2 images.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tern_disk::{Format, hostile};

fuzz_target!(|input: &[u8]| hostile::exercise(Format::Qcow2, input));
