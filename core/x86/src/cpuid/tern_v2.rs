//! `tern-v2`: what every engine can offer. The instructions of x86-64-v2, the paging and protection features that
//! operating systems use today, and the hardware answers to speculation, so that they need no answers in software.
//!
//! Vendor, family and model are those of AMD's Zen 4: systems choose their code paths by them. Nothing that the model
//! does not execute is announced, and no barrier MSR (IBPB, STIBP, SSBD), whose use would cost more than it could gain.
//! There is no machine-check architecture and no virtual-8086 mode extension.

use alloc::borrow::Cow;

use super::feature::{self, masks};
use super::{Basis, CpuModel, CpuidResult, Leaf};
use crate::paravirtual;
use crate::vector::LEGACY_XSAVE_SIZE;

pub(super) const MODEL: CpuModel = CpuModel {
    name: "tern-v2",
    brand: "Tern v2 Processor",
    basis: Basis::Model,
    cpus: 1,
    tsc_khz: 1_000_000,
    leaves: Cow::Borrowed(LEAVES),
};

/// Family 0x19, model 0x11, stepping 1.
const SIGNATURE: u32 = 0x00a1_0f11;

/// Bytes of an XSAVE area with all components. Both formats have the same size.
const XSAVE_SIZE: u32 = LEGACY_XSAVE_SIZE as u32;

const BASIC_EDX: u32 = masks(&[
    feature::FPU,
    feature::DE,
    feature::PSE,
    feature::TSC,
    feature::MSR,
    feature::PAE,
    feature::CMPXCHG8B,
    feature::APIC,
    feature::SYSENTER,
    feature::MTRR,
    feature::PGE,
    feature::CMOV,
    feature::PAT,
    feature::PSE36,
    feature::CLFLUSH,
    feature::MMX,
    feature::FXSR,
    feature::SSE,
    feature::SSE2,
]);

/// The bits that 0x8000_0001 repeats from function 1.
const REPEATED_EDX: u32 = 0x0183_f3ff;

const fn leaf(function: u32, registers: [u32; 4]) -> Leaf {
    let [eax, ebx, ecx, edx] = registers;
    Leaf { function, index: None, result: CpuidResult { eax, ebx, ecx, edx } }
}

const fn indexed(function: u32, index: u32, registers: [u32; 4]) -> Leaf {
    Leaf { index: Some(index), ..leaf(function, registers) }
}

/// "AuthenticAMD" over EBX, EDX and ECX, with the largest function of its range.
const fn vendor(function: u32, largest: u32) -> Leaf {
    let [ebx, edx, ecx] = [*b"Auth", *b"enti", *b"cAMD"];
    let registers = [largest, u32::from_le_bytes(ebx), u32::from_le_bytes(ecx), u32::from_le_bytes(edx)];
    leaf(function, registers)
}

pub(super) const LEAVES: &[Leaf] = &[
    vendor(0, 0xd),
    leaf(
        1,
        [
            SIGNATURE,
            // CLFLUSH works on 8 * 8 bytes.
            8 << 8,
            masks(&[
                feature::SSE3,
                feature::SSSE3,
                feature::CMPXCHG16B,
                feature::PCID,
                feature::SSE4_1,
                feature::SSE4_2,
                feature::X2APIC,
                feature::POPCNT,
                feature::TSC_DEADLINE,
                feature::XSAVE,
                feature::RDRAND,
                feature::HYPERVISOR,
            ]),
            BASIC_EDX,
        ],
    ),
    leaf(6, [feature::ARAT.mask(), 0, 0, 0]),
    indexed(
        7,
        0,
        [
            1,
            masks(&[
                feature::FSGSBASE,
                feature::TSC_ADJUST,
                feature::SMEP,
                feature::ERMS,
                feature::INVPCID,
                feature::FCS_FDS_DEPRECATED,
                feature::RDSEED,
                feature::SMAP,
            ]),
            masks(&[feature::UMIP, feature::RDPID]),
            feature::FSRM.mask(),
        ],
    ),
    indexed(7, 1, [masks(&[feature::FZRM, feature::FSRS]), 0, 0, 0]),
    // Components x87 and SSE.
    indexed(0xd, 0, [3, XSAVE_SIZE, XSAVE_SIZE, 0]),
    indexed(0xd, 1, [masks(&[feature::XSAVEOPT, feature::XSAVEC, feature::XGETBV1]), XSAVE_SIZE, 0, 0]),
    Leaf { function: paravirtual::SIGNATURE, index: None, result: paravirtual::SIGNATURE_LEAF },
    leaf(paravirtual::FEATURES, [paravirtual::OFFERED, 0, 0, 0]),
    vendor(0x8000_0000, 0x8000_0021),
    leaf(
        0x8000_0001,
        [
            SIGNATURE,
            0,
            masks(&[feature::LAHF, feature::PREFETCHW]),
            BASIC_EDX & REPEATED_EDX
                | masks(&[
                    feature::SYSCALL,
                    feature::NX,
                    feature::MMXEXT,
                    feature::PDPE1GB,
                    feature::RDTSCP,
                    feature::LM,
                ]),
        ],
    ),
    // First-level caches: 32 KiB, 8 ways, lines of 64 bytes; and TLBs.
    leaf(0x8000_0005, [0xff48_ff40, 0xff48_ff40, 0x2008_0140, 0x2008_0140]),
    // Second level: 1 MiB, 8 ways. Third level: 32 MiB, 16 ways.
    leaf(0x8000_0006, [0x5c00_2200, 0x6c00_4200, 0x0400_6140, 0x0100_9140]),
    leaf(0x8000_0007, [0, 0, 0, feature::TSC_INVARIANT.mask()]),
    leaf(0x8000_0008, [0, masks(&[feature::RSTR_FP_ERR_PTRS, feature::SSB_NO, feature::BTC_NO]), 0, 0]),
    leaf(
        0x8000_0021,
        [
            masks(&[
                feature::NO_NESTED_DATA_BP,
                feature::LFENCE_ALWAYS_SERIALIZING,
                feature::NULL_SELECT_CLEARS_BASE,
                feature::AUTOIBRS,
                feature::SRSO_NO,
                feature::SRSO_USER_KERNEL_NO,
            ]),
            0,
            masks(&[feature::TSA_SQ_NO, feature::TSA_L1_NO]),
            0,
        ],
    ),
];
