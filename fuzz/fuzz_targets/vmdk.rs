//! Untrusted files opened as vmdk images.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tern_disk::{Format, hostile};

fuzz_target!(|input: &[u8]| hostile::exercise(Format::Vmdk, input));
