//! x87 control instructions, pending exceptions and their pointers (APM volume 5; SDM volume 1, section 8.6).
//!
//! FNSTCW and FNSTSW store [`FpuState::fcw`] and [`FpuState::fsw`] as they are.

use super::fields::{self, Pointers, X87_EXCEPTIONS};
use crate::state::FpuState;

/// An unmasked x87 exception waits: a waiting instruction raises #MF (or FERR#, without CR0.NE) instead of executing.
///
/// Every instruction waits except FNINIT, FNCLEX, FNSTCW, FNSTSW, FNSTENV, FNSAVE, FNENI, FNDISI, FNSETPM and those that
/// save or restore by FXSAVE, FXRSTOR, XSAVE and XRSTOR; SSE instructions without an MMX operand do not care.
#[must_use]
pub const fn x87_exception_pending(fpu: &FpuState) -> bool {
    fpu.fsw() & !fpu.fcw() & X87_EXCEPTIONS != 0
}

/// FNINIT. The data registers keep their contents, marked empty; which one is ST(0) changes with the stack top.
pub fn fninit(fpu: &mut FpuState) {
    fields::move_top(fpu, 0);
    fpu.set_fcw(0x037f);
    fpu.set_fsw(0);
    fpu.set_ftw(0);
    fields::set_pointers(fpu, Pointers::default());
}

/// FNCLEX: clears exception flags, stack fault, ES and B.
pub const fn fnclex(fpu: &mut FpuState) {
    fpu.set_fsw(fpu.fsw() & 0x7f00);
}

/// FLDCW (waiting). An exception flag that becomes unmasked makes an exception pending.
pub fn fldcw(fpu: &mut FpuState, value: u16) {
    fields::set_control_and_status(fpu, value, fpu.fsw());
}

/// Masks all x87 exceptions, as FNSTENV does after its store. Nothing waits any more; the flags stay.
pub fn mask_x87_exceptions(fpu: &mut FpuState) {
    fldcw(fpu, fpu.fcw() | X87_EXCEPTIONS);
}

/// Sets FIP, FDP and FOP after an instruction that left an unmasked exception pending.
///
/// Only then: the pointers keep their values over all other instructions, as on AMD's processors and as CPUID
/// Fn7_EBX (FDP_EXCPTN_ONLY) announces for FDP. `instruction` is the offset of the instruction in CS, `operand` that of
/// its memory operand in its segment if it has one, `opcode` its first opcode byte (D8 to DF) in bits 15:8 and the second
/// in bits 7:0. Selectors are not kept (CPUID Fn7_EBX, FCS/FDS deprecation).
pub fn record_x87_pointers(fpu: &mut FpuState, instruction: u64, operand: Option<u64>, opcode: u16) {
    let operand = operand.unwrap_or_else(|| fields::pointers(fpu).operand);
    fields::set_pointers(fpu, Pointers { opcode, instruction, operand });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmasking_a_raised_exception_makes_it_pending_and_masking_it_takes_it_back() {
        let mut fpu = FpuState::new();
        fpu.set_fsw(0x0004);
        assert!(!x87_exception_pending(&fpu));
        fldcw(&mut fpu, 0x037b);
        assert!(x87_exception_pending(&fpu));
        assert_eq!(fpu.fsw(), 0x8084);
        fldcw(&mut fpu, 0x037f);
        assert_eq!(fpu.fsw(), 0x0004);
    }

    #[test]
    fn control_word_bits_that_do_not_exist_read_as_the_processor_shows_them() {
        let mut fpu = FpuState::new();
        fldcw(&mut fpu, 0xffff);
        assert_eq!(fpu.fcw(), 0x1f7f);
        fldcw(&mut fpu, 0);
        assert_eq!(fpu.fcw(), 0x0040);
    }

    #[test]
    fn fnclex_keeps_condition_codes_and_stack_top() {
        let mut fpu = FpuState::new();
        fpu.set_fsw(0xffff);
        fnclex(&mut fpu);
        assert_eq!(fpu.fsw(), 0x7f00);
    }

    #[test]
    fn fninit_empties_the_stack_but_keeps_what_is_in_it() {
        let mut fpu = FpuState::new();
        fpu.set_ftw(0xff);
        fpu.set_fsw(0x3800);
        fields::set_st(&mut fpu, 3, [7; 10]);
        record_x87_pointers(&mut fpu, 1, Some(2), 0xd901);
        fninit(&mut fpu);
        assert_eq!((fpu.fcw(), fpu.fsw(), fpu.ftw()), (0x037f, 0, 0));
        assert_eq!(fields::pointers(&fpu), Pointers::default());
        assert_eq!(fields::st(&fpu, 2), [7; 10], "physical register 2");
    }

    #[test]
    fn the_operand_pointer_survives_an_instruction_without_memory_operand() {
        let mut fpu = FpuState::new();
        record_x87_pointers(&mut fpu, 0x1000, Some(0x2000), 0xd900);
        record_x87_pointers(&mut fpu, 0x1002, None, 0xdef9);
        let expected = Pointers { opcode: 0x6f9, instruction: 0x1002, operand: 0x2000 };
        assert_eq!(fields::pointers(&fpu), expected);
    }
}
