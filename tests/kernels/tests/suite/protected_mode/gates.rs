//! Calls between segments and levels.

use iced_x86::code_asm::*;
use tern_test_kernels::expect::fault;
use tern_test_kernels::expect::vector::{GP, NP, TS};
use tern_test_kernels::protected::{
    CODE_SELECTOR, DATA, DATA_SELECTOR, FLAT, STACK_0, TSS, USER_CODE_SELECTOR, USER_DATA_SELECTOR,
    USER_STACK, gate, protected,
};

use super::{CODE, CONFORMING, DPL_3, flat, free};

/// Access bytes of call gates.
const CALL_GATE: u8 = 0x8c;
const CALL_GATE_16: u8 = 0x84;
/// Access bit: the level.
const DPL_1: u8 = 0x20;

#[test]
fn a_call_gate_leads_user_code_to_the_kernel_with_its_parameters() {
    protected(|g| {
        let entry = g.out_of_line(|g| {
            g.mov(eax, dword_ptr(esp + 8))?; // the second parameter, pushed last
            g.mov(ebx, dword_ptr(esp + 12))?;
            g.mov(ecx, cs)?;
            g.mov(edx, ss)?;
            g.mov(esi, esp)?;
            g.mov(edi, dword_ptr(esp + 16))?; // the caller's stack pointer
            g.retf_1(8)
        })?;
        let address = g.address(entry);
        g.put_descriptor(free(0), gate(CODE_SELECTOR, address, CALL_GATE | DPL_3, 2));
        g.user(|g| {
            g.push(0x11)?;
            g.push(0x22)?;
            g.call_far(free(0) | 3, 0x1234_5678)?;
            g.mov(ebp, esp)
        })?;
        g.expect(eax, 0x22)?;
        g.expect(ebx, 0x11)?;
        g.and(ecx, 0xffff)?;
        g.expect(ecx, CODE_SELECTOR.into())?;
        g.and(edx, 0xffff)?;
        g.expect(edx, DATA_SELECTOR.into())?;
        // SS, ESP, two parameters, CS, EIP.
        g.expect(esi, STACK_0 - 24)?;
        g.expect(edi, USER_STACK - 8)?;
        g.expect(ebp, USER_STACK)
    });
}

#[test]
fn a_gate_to_the_same_level_keeps_the_stack() {
    protected(|g| {
        let entry = g.out_of_line(|g| {
            g.mov(ebx, esp)?;
            g.retf()
        })?;
        let address = g.address(entry);
        g.put_descriptor(free(0), gate(CODE_SELECTOR, address, CALL_GATE, 0));
        g.mov(ecx, esp)?;
        g.call_far(free(0), 0)?;
        g.sub(ecx, ebx)?;
        g.expect(ecx, 8)
    });
}

#[test]
fn what_a_gate_forbids_names_the_selector() {
    protected(|g| {
        g.put_descriptor(free(0), gate(CODE_SELECTOR, DATA, CALL_GATE, 0));
        g.put_descriptor(free(1), gate(CODE_SELECTOR, DATA, (CALL_GATE | DPL_3) & 0x7f, 0));
        g.put_descriptor(free(2), gate(DATA_SELECTOR, DATA, CALL_GATE | DPL_3, 0));
        g.put_descriptor(free(3), gate(0, DATA, CALL_GATE | DPL_3, 0));
        g.expect_user_fault(fault(GP).code(free(0).into()), 2, |g| g.call_far(free(0), 0))?;
        g.expect_user_fault(fault(NP).code(free(1).into()), 2, |g| g.call_far(free(1), 0))?;
        g.expect_user_fault(fault(GP).code(DATA_SELECTOR.into()), 2, |g| g.call_far(free(2), 0))?;
        g.expect_user_fault(fault(GP), 2, |g| g.call_far(free(3), 0))?;
        // Jumps do not change the level.
        g.put_descriptor(free(4), gate(CODE_SELECTOR, DATA, CALL_GATE | DPL_3, 0));
        g.expect_user_fault(fault(GP).code(CODE_SELECTOR.into()), 2, |g| g.jmp_far(free(4), 0))?;
        g.expect_user_fault(fault(GP).code(CODE_SELECTOR.into()), 2, |g| g.jmp_far(CODE_SELECTOR, DATA))?;
        g.expect_fault(fault(GP).code(u32::from(USER_CODE_SELECTOR) & !3), |g| {
            g.jmp_far(USER_CODE_SELECTOR, DATA)
        })
    });
}

#[test]
fn an_inner_stack_of_the_wrong_level_is_an_invalid_tss() {
    protected(|g| {
        // Code of level 1, with a stack in the TSS that is none of that level. Exceptions go to level 0 as ever.
        g.put_descriptor(free(0), flat(CODE | DPL_1));
        g.put_descriptor(free(1), gate(free(0) | 1, DATA, CALL_GATE | DPL_3, 0));
        g.put(TSS + 12, [STACK_0, DATA_SELECTOR.into()].map(u32::to_le_bytes).concat());
        g.expect_user_fault(fault(TS).code(DATA_SELECTOR.into()), 2, |g| g.call_far(free(1), 0))?;
        g.mov(dword_ptr(TSS + 16), 0)?;
        g.expect_user_fault(fault(TS), 2, |g| g.call_far(free(1), 0))
    });
}

#[test]
fn a_16_bit_gate_pushes_words() {
    protected(|g| {
        let entry = g.out_of_line(|g| {
            g.mov(ebx, esp)?;
            g.movzx(eax, word_ptr(esp + 2))?;
            // RETF with a 16-bit operand would need a target below 64 KiB: the stack is put right by hand.
            g.add(esp, 4)?;
            g.jmp(edx)
        })?;
        let address = g.address(entry);
        // Its offset has 16 bits, so that the code is reached by a segment's base.
        let base = address & !0xffff;
        g.put_descriptor(free(0), tern_test_kernels::protected::descriptor(base, 0xf_ffff, CODE, FLAT));
        g.put_descriptor(free(1), gate(free(0), address & 0xffff, CALL_GATE_16, 0));
        let back = g.mark();
        let back_address = g.address(back);
        g.mov(edx, back_address.wrapping_sub(base))?;
        g.mov(ecx, esp)?;
        g.call_far(free(1), 0)?;
        g.place(back)?;
        g.sub(ecx, ebx)?;
        g.expect(ecx, 4)?;
        g.expect(eax, CODE_SELECTOR.into())
    });
}

#[test]
fn conforming_code_runs_at_the_callers_level() {
    protected(|g| {
        g.put_descriptor(free(0), flat(CONFORMING));
        let entry = g.out_of_line(|g| {
            g.mov(ecx, cs)?;
            g.retf()
        })?;
        let address = g.address(entry);
        g.user(|g| g.call_far(free(0), address))?;
        g.and(ecx, 0xffff)?;
        g.expect(ecx, u32::from(free(0)) | 3)
    });
}

#[test]
fn a_far_return_to_an_outer_level_drops_segments_that_are_too_good_for_it() {
    protected(|g| {
        let outside = g.mark();
        let address = g.address(outside);
        g.expect_fault_elsewhere(fault(0x80).at(2 + 2 + 2 + 2), outside, |g| {
            g.mov(eax, u32::from(DATA_SELECTOR))?;
            g.mov(fs, eax)?;
            g.mov(eax, u32::from(USER_DATA_SELECTOR))?;
            g.mov(gs, eax)?;
            g.push(i32::from(USER_DATA_SELECTOR))?;
            g.push(USER_STACK as i32)?;
            g.push(i32::from(USER_CODE_SELECTOR))?;
            g.push(address as i32)?;
            g.retf()?;
            g.place(outside)?;
            g.mov(ebx, fs)?;
            g.mov(ecx, gs)?;
            g.mov(edx, cs)?;
            g.int(0x80)
        })?;
        for register in [ebx, ecx, edx] {
            g.and(register, 0xffff)?;
        }
        g.expect(ebx, 0)?;
        g.expect(ecx, USER_DATA_SELECTOR.into())?;
        g.expect(edx, USER_CODE_SELECTOR.into())
    });
}
