//! The guest's x87 and MMX registers in the host's, while translated code runs.
//!
//! They are loaded when a unit needs them, and stay when Rust answers a question: nothing that it does then uses x87. Whoever looks at
//! the processor's state has them put back there before: the interpreter's operations that [`touch`](touches) them, and
//! whoever entered translated code.
//!
//! They are loaded only while every exception is masked, so that the host's processor raises none. Nor does the guest's note
//! an instruction's address then, so the host's FOP, FIP and FDP, which are of translated code, are left where they are.

use std::arch::asm;

use iced_x86::{Code, CpuidFeature, Instruction, OpKind};
use tern_x86::state::{FpuState, Mxcsr};
use tern_x86::vector::{X87_EXCEPTIONS, X87_SUMMARY};

use super::kinds::may_enter_mmx;
use crate::native::HOST_FCW;

/// Where the FXSAVE image has FCW, FSW and the abridged tag word.
const CONTROL: std::ops::Range<usize> = 0..5;
/// Where it has ST(0) to ST(7).
const REGISTERS: std::ops::Range<usize> = 32..160;

/// Whether x87 registers may be loaded, as far as their own state says.
pub fn is_loadable(fpu: &FpuState) -> bool {
    fpu.fcw() & X87_EXCEPTIONS == X87_EXCEPTIONS && fpu.fsw() & X87_SUMMARY == 0
}

/// Whether the interpreter's operation for this instruction may read or change the x87 or MMX registers, or those of the host.
pub fn touches(instruction: &Instruction) -> bool {
    let by_feature = instruction.cpuid_features().iter().any(|feature| {
        matches!(
            feature,
            CpuidFeature::FPU
                | CpuidFeature::FPU287
                | CpuidFeature::FPU287XL_ONLY
                | CpuidFeature::FPU387
                | CpuidFeature::FPU387SL_ONLY
                | CpuidFeature::MMX
                | CpuidFeature::FXSR
                | CpuidFeature::XSAVE
                | CpuidFeature::XSAVEOPT
                | CpuidFeature::XSAVEC
                | CpuidFeature::XSAVES
        )
    });
    let by_operand = (0..instruction.op_count())
        .any(|n| instruction.op_kind(n) == OpKind::Register && instruction.op_register(n).is_mm());
    by_feature || by_operand || may_enter_mmx(instruction) || instruction.code() == Code::Wait
}

/// Loads the registers.
///
/// # Safety
/// They [`is_loadable`]; until [`save`], this thread executes no x87 or MMX instruction but the guest's. Rust's calling convention wants an
/// empty x87 stack and its own FCW; what is called meanwhile gets neither, and has no instruction that would notice.
pub unsafe fn load(fpu: &FpuState) {
    // SAFETY: the image is aligned, and its MXCSR has only bits that exist; the host's is put back. XMM registers are known to be lost.
    unsafe {
        asm!(
            "fxrstor64 [{image}]",
            "ldmxcsr [{mxcsr}]",
            image = in(reg) fpu.image(),
            mxcsr = in(reg) &Mxcsr::MASKS.bits(),
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            options(nostack),
        );
    }
}

/// Puts the registers back into the state, and the host's in order for Rust.
///
/// # Safety
/// They are loaded.
pub unsafe fn save(fpu: &mut FpuState) {
    let mut now = FpuState::new();
    // SAFETY: the image is aligned. No exception is unmasked, so EMMS and FLDCW raise none.
    unsafe {
        asm!(
            "fxsave64 [{image}]",
            "emms",
            "fldcw word ptr [{control}]",
            image = in(reg) now.image_mut(),
            control = in(reg) &HOST_FCW,
            options(nostack),
        );
    }
    for range in [CONTROL, REGISTERS] {
        fpu.image_mut()[range.clone()].copy_from_slice(&now.image()[range]);
    }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions};

    use super::*;

    #[test]
    fn registers_come_back_and_the_addresses_of_host_code_do_not() {
        let mut fpu = FpuState::new();
        fpu.set_fsw(0x3800);
        fpu.set_ftw(0x80);
        fpu.image_mut()[6..24].copy_from_slice(&[0x5a; 18]);
        fpu.image_mut()[32..42].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
        let before = fpu;
        // SAFETY: everything is masked; between the two is the guest's instruction alone.
        unsafe {
            load(&fpu);
            asm!("fadd st(0), st(0)", options(nomem, nostack));
            save(&mut fpu);
        }
        let mut expected = before;
        expected.image_mut()[40] = 0;
        expected.image_mut()[41] = 0x40;
        assert!(fpu == expected, "{:02x?}", &fpu.image()[..48]);
    }

    #[test]
    fn unmasked_exceptions_keep_registers_out() {
        let mut fpu = FpuState::new();
        assert!(is_loadable(&fpu));
        fpu.set_fcw(0x037e);
        assert!(!is_loadable(&fpu));
    }

    #[test]
    fn what_touches_them_is_known() {
        for (bytes, expected) in [
            (&[0xd9, 0x00][..], true),         // fld dword [rax]
            (&[0x0f, 0x77], true),             // emms
            (&[0x0f, 0xae, 0x00], true),       // fxsave [rax]
            (&[0x0f, 0xc7, 0x20], true),       // xsavec [rax]
            (&[0x0f, 0xc4, 0xc0, 0x00], true), // pinsrw mm0, eax, 0
            (&[0x0f, 0x2a, 0x00], true),       // cvtpi2ps xmm0, [rax]
            (&[0x9b], true),                   // fwait
            (&[0x0f, 0xa2], false),            // cpuid
            (&[0x0f, 0xae, 0x10], false),      // ldmxcsr [rax]
            (&[0xf3, 0xa4], false),            // rep movsb
        ] {
            let instruction = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
            assert_eq!(touches(&instruction), expected, "{bytes:02x?}");
        }
    }
}
