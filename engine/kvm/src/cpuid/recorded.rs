//! What KVM_GET_SUPPORTED_CPUID says on hosts of both vendors, as far as it matters here.

use kvm_bindings::kvm_cpuid_entry2;
use tern_x86::cpuid::CpuidResult;

use super::entry;

fn leaf(function: u32, index: u32, flags: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> kvm_cpuid_entry2 {
    entry(function, index, flags, CpuidResult { eax, ebx, ecx, edx })
}

/// A server with Intel's Cascade Lake.
pub fn intel() -> Vec<kvm_cpuid_entry2> {
    vec![
        leaf(0, 0, 0, [0x16, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
        leaf(1, 0, 0, [0x5_0657, 0x10_0800, 0xfeda_3203, 0x0f8b_fbff]),
        leaf(4, 0, 1, [0x1c00_4121, 0x01c0_003f, 0x3f, 0]),
        leaf(4, 3, 1, [0x1c03_c163, 0x0280_003f, 0x6fff, 4]),
        leaf(7, 0, 1, [0, 0xd19f_4fbb, 0x808, 0xac00_0400]),
        leaf(0xb, 0, 1, [1, 2, 0x100, 5]),
        leaf(0xb, 1, 1, [6, 0x30, 0x201, 5]),
        leaf(0xd, 0, 1, [0x2e7, 0xa88, 0xa88, 0]),
        leaf(0xd, 1, 1, [0xf, 0x9c0, 0, 0]),
        leaf(0xd, 2, 1, [0x100, 0x240, 0, 0]),
        leaf(0xd, 5, 1, [0x40, 0x440, 0, 0]),
        leaf(0xd, 6, 1, [0x200, 0x480, 0, 0]),
        leaf(0xd, 7, 1, [0x400, 0x680, 0, 0]),
        leaf(0xd, 9, 1, [8, 0xa80, 0, 0]),
        leaf(0x4000_0000, 0, 0, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
        leaf(0x4000_0001, 0, 0, [0x0100_7efb, 0, 0, 0]),
        leaf(0x8000_0000, 0, 0, [0x8000_0008, 0, 0, 0]),
        leaf(0x8000_0001, 0, 0, [0, 0, 0x121, 0x2c10_0800]),
        leaf(0x8000_0007, 0, 0, [0, 0, 0, 0x100]),
        leaf(0x8000_0008, 0, 0, [0x302e, 0x0100_d000, 0, 0]),
    ]
}

/// A server with AMD's Zen 3 (Milan).
pub fn amd() -> Vec<kvm_cpuid_entry2> {
    vec![
        leaf(0, 0, 0, [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
        leaf(1, 0, 0, [0x00a0_0f11, 0x0510_0800, 0xfef8_3203, 0x178b_fbff]),
        leaf(7, 0, 1, [0, 0x219c_95a9, 0x0040_069c, 0x10]),
        leaf(0xb, 0, 1, [1, 2, 0x100, 5]),
        leaf(0xb, 1, 1, [7, 0x80, 0x201, 5]),
        leaf(0xd, 0, 1, [0x207, 0x988, 0x988, 0]),
        leaf(0xd, 1, 1, [0xf, 0x348, 0x1800, 0]),
        leaf(0xd, 2, 1, [0x100, 0x240, 0, 0]),
        leaf(0xd, 9, 1, [8, 0x980, 0, 0]),
        leaf(0x4000_0000, 0, 0, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
        leaf(0x4000_0001, 0, 0, [0x0100_7efb, 0, 0, 0]),
        leaf(0x8000_0000, 0, 0, [0x8000_0021, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
        leaf(0x8000_0001, 0, 0, [0x00a0_0f11, 0x4000_0000, 0x0045_03f7, 0x2fd3_fbff]),
        leaf(0x8000_0005, 0, 0, [0xff40_ff40, 0xff40_ff40, 0x2008_0140, 0x2008_0140]),
        leaf(0x8000_0006, 0, 0, [0x4800_6400, 0x6800_6400, 0x0200_6140, 0x0100_9140]),
        leaf(0x8000_0007, 0, 0, [0, 0, 0, 0x100]),
        leaf(0x8000_0008, 0, 0, [0x3030, 0x111e_f657, 0x707f, 0x0001_0007]),
        leaf(0x8000_000a, 0, 0, [1, 8, 0, 0x119b_bcff]),
        leaf(0x8000_001d, 0, 1, [0x4121, 0x01c0_003f, 0x3f, 0]),
        leaf(0x8000_001d, 3, 1, [0x0003_c163, 0x03c0_003f, 0x7fff, 1]),
        leaf(0x8000_001e, 0, 0, [5, 0x102, 0x100, 0]),
        leaf(0x8000_0021, 0, 0, [0x45, 0, 0, 0]),
    ]
}
