//! Untrusted files read as a multiboot 1 kernel.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tern_vmm::boot::KernelKind;

fuzz_target!(|file: &[u8]| tern_fuzz::boot::parse_and_load(file, KernelKind::Multiboot));
