//! What makes instructions unavailable.

use super::bench::{processor, run};
use super::idle;
use crate::exception::Vector;
use crate::state::{Cr0, Cr4};

const ADDPS: &[u8] = &[0x0f, 0x58, 0xc1];
const PADDB_MMX: &[u8] = &[0x0f, 0xfc, 0xc1];
const CVTPI2PS_MMX: &[u8] = &[0x0f, 0x2a, 0xc1];
const FLD1: &[u8] = &[0xd9, 0xe8];
const FNSTSW_AX: &[u8] = &[0xdf, 0xe0];
const FNSETPM: &[u8] = &[0xdb, 0xe4];
const FLDCW: &[u8] = &[0xd9, 0x2e];
const FWAIT: &[u8] = &[0x9b];
const FXSAVE: &[u8] = &[0x0f, 0xae, 0x06];
const XSAVE: &[u8] = &[0x0f, 0xae, 0x26];
const LDMXCSR: &[u8] = &[0x0f, 0xae, 0x16];
const MASKMOVQ: &[u8] = &[0x0f, 0xf7, 0xc1];
const MASKMOVDQU: &[u8] = &[0x66, 0x0f, 0xf7, 0xc1];

/// What each instruction raises with these bits of CR0 set and of CR4 clear. RSI and RDI point to memory.
fn raised(bytes: &[u8], cr0: Cr0, cr4: Cr4, status: u16) -> Option<Vector> {
    let mut p = processor(idle);
    p.cpu.cr0 |= cr0;
    p.cpu.cr4 -= cr4;
    p.cpu.fpu.set_fcw(0x037e);
    p.cpu.fpu.set_fsw(status);
    p.cpu.gpr[6] = 0x2000;
    p.cpu.gpr[7] = 0x2000;
    super::bench::write(&mut p, 0x2000, &[0; 4]);
    run(&mut p, bytes).err()
}

#[test]
fn control_bits_forbid_each_part_of_the_unit_in_its_own_way() {
    use Vector::{Nm, Ud};
    let (em, ts, both) = (Cr0::EM, Cr0::TS, Cr0::EM | Cr0::TS);
    // CR0.EM, CR0.TS, both of them, CR4.OSFXSR clear, CR4.OSXSAVE clear.
    let cases: [(&[u8], [Option<Vector>; 5]); 13] = [
        (ADDPS, [Some(Ud), Some(Nm), Some(Ud), Some(Ud), None]),
        (LDMXCSR, [Some(Ud), Some(Nm), Some(Ud), Some(Ud), None]),
        (MASKMOVDQU, [Some(Ud), Some(Nm), Some(Ud), Some(Ud), None]),
        (CVTPI2PS_MMX, [Some(Ud), Some(Nm), Some(Ud), Some(Ud), None]),
        (PADDB_MMX, [Some(Ud), Some(Nm), Some(Ud), None, None]),
        (MASKMOVQ, [Some(Ud), Some(Nm), Some(Ud), None, None]),
        (FLD1, [Some(Nm), Some(Nm), Some(Nm), None, None]),
        (FLDCW, [Some(Nm), Some(Nm), Some(Nm), None, None]),
        (FNSTSW_AX, [Some(Nm), Some(Nm), Some(Nm), None, None]),
        (FNSETPM, [Some(Nm), Some(Nm), Some(Nm), None, None]),
        (FXSAVE, [Some(Nm), Some(Nm), Some(Nm), None, None]),
        (FWAIT, [None, Some(Nm), Some(Nm), None, None]),
        (XSAVE, [None, Some(Nm), Some(Nm), None, Some(Ud)]),
    ];
    for (bytes, expected) in cases {
        let found = [
            raised(bytes, em, Cr4::empty(), 0),
            raised(bytes, ts, Cr4::empty(), 0),
            raised(bytes, both, Cr4::empty(), 0),
            raised(bytes, Cr0::empty(), Cr4::OSFXSR, 0),
            raised(bytes, Cr0::empty(), Cr4::OSXSAVE, 0),
        ];
        assert_eq!(found, expected, "{bytes:02x?}");
    }
}

#[test]
fn a_pending_x87_exception_stops_what_waits_and_nothing_else() {
    for bytes in [FLD1, FLDCW, FWAIT, PADDB_MMX, CVTPI2PS_MMX, MASKMOVQ] {
        assert_eq!(raised(bytes, Cr0::empty(), Cr4::empty(), 1), Some(Vector::Mf), "{bytes:02x?}");
        assert_eq!(raised(bytes, Cr0::TS, Cr4::empty(), 1), Some(Vector::Nm), "#NM first: {bytes:02x?}");
    }
    for bytes in [ADDPS, FNSTSW_AX, FNSETPM, FXSAVE, XSAVE, LDMXCSR, MASKMOVDQU] {
        assert_eq!(raised(bytes, Cr0::empty(), Cr4::empty(), 1), None, "{bytes:02x?}");
    }
}

#[test]
fn fwait_minds_a_task_switch_only_while_the_coprocessor_is_monitored() {
    let mut p = processor(idle);
    p.cpu.cr0 |= Cr0::TS;
    p.cpu.cr0 -= Cr0::MP;
    assert_eq!(run(&mut p, FWAIT), Ok(()));
}

#[test]
fn encodings_of_sets_that_are_not_offered_are_undefined() {
    let xsaves: &[u8] = &[0x0f, 0xc7, 0x2e];
    let xrstors: &[u8] = &[0x0f, 0xc7, 0x1e];
    let vaddps: &[u8] = &[0xc5, 0xf0, 0x58, 0xc1];
    let vldmxcsr: &[u8] = &[0xc5, 0xf8, 0xae, 0x16];
    for bytes in [xsaves, xrstors, vaddps, vldmxcsr] {
        assert_eq!(raised(bytes, Cr0::empty(), Cr4::empty(), 0), Some(Vector::Ud), "{bytes:02x?}");
    }
}
