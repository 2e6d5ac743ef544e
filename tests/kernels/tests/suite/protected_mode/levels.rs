//! Levels 0 and 3: interrupts, privileged instructions, SYSENTER.

use iced_x86::code_asm::*;
use tern_test_kernels::expect::fault;
use tern_test_kernels::expect::vector::{BR, GP, OF, UD};
use tern_test_kernels::guest::Emit;
use tern_test_kernels::protected::{
    CODE_SELECTOR, DATA, Protected, STACK_0, USER_CODE_SELECTOR, USER_DATA_SELECTOR, USER_STACK, protected,
};

const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const IF: u32 = 1 << 9;
/// The instruction, whose name Rust has for something else.
const INTO: &[u8] = &[0xce];

#[test]
fn an_interrupt_from_user_mode_switches_to_the_stack_of_the_tss() {
    protected(|g| {
        g.expect_user_fault(fault(3).at(1), 2 | IF, |g| g.int3())?;
        g.expect_frame(1, USER_CODE_SELECTOR.into())?;
        g.expect_frame(2, 2 | IF)?;
        g.expect_frame(3, USER_STACK)?;
        g.expect_frame(4, USER_DATA_SELECTOR.into())
    });
}

#[test]
fn an_interrupt_in_the_kernel_keeps_its_stack() {
    protected(|g| {
        g.mov(dword_ptr(STACK_0 - 4), 0x5a5a_5a5a)?;
        g.expect_fault(fault(3).at(1), |g| g.int3())?;
        g.expect_frame(1, CODE_SELECTOR.into())?;
        g.expect_memory(STACK_0 - 4, 0x5a5a_5a5a)
    });
}

#[test]
fn privileged_instructions_fault_in_user_mode() {
    protected(|g| {
        g.expect_user_fault(fault(GP), 2, |g| g.cli())?;
        g.expect_user_fault(fault(GP), 2, |g| g.hlt())?;
        g.expect_user_fault(fault(GP), 2, |g| g.in_(al, 0x80))?;
        g.expect_user_fault(fault(GP), 2, |g| g.mov(cr0, eax))?;
        g.expect_user_fault(fault(GP), 2, |g| g.lidt(ptr(DATA)))?;
        g.expect_user_fault(fault(GP).code(0x40 << 3 | 2), 2, |g| g.int(0x40))
    });
}

#[test]
fn popf_and_iret_change_what_the_level_allows() {
    const IOPL: u32 = 3 << 12;
    protected(|g| {
        g.user(|g| {
            g.push((IF | IOPL | 2) as i32)?;
            g.popfd()?;
            g.pushfd()?;
            g.pop(ebx)
        })?;
        g.expect(ebx, 2)?;
        g.push((IOPL | 2) as i32)?;
        g.popfd()?;
        g.pushfd()?;
        g.pop(ebx)?;
        g.push(2)?;
        g.popfd()?;
        g.expect(ebx, IOPL | 2)
    });
}

#[test]
fn overflow_and_bound_are_exceptions_of_32_bit_code() {
    protected(|g| {
        g.put(DATA, [0_u32, 10].map(u32::to_le_bytes).concat());
        g.mov(eax, 10)?;
        g.bound(eax, ptr(DATA))?;
        g.inc(eax)?;
        g.expect_fault(fault(BR), |g| g.bound(eax, ptr(DATA)))?;
        g.db(INTO)?;
        // A trap: MOV and ADD have two bytes each.
        g.expect_fault(fault(OF).at(5), |g| {
            g.mov(al, 0x7f)?;
            g.add(al, 1)?;
            g.db(INTO)
        })
    });
}

/// Has SYSENTER go to this address. The segments follow each other in the table: code and data of level 0, code and data of level 3.
pub(super) fn point_sysenter_to(g: &mut Protected, address: u32) -> Emit {
    for (number, value) in
        [(SYSENTER_CS, CODE_SELECTOR.into()), (SYSENTER_ESP, STACK_0 - 0x100), (SYSENTER_EIP, address)]
    {
        g.mov(ecx, number)?;
        g.mov(eax, value)?;
        g.xor(edx, edx)?;
        g.wrmsr()?;
    }
    Ok(())
}

#[test]
fn sysenter_and_sysexit_go_between_levels_3_and_0() {
    protected(|g| {
        let entry = g.out_of_line(|g| {
            g.mov(ebx, cs)?;
            g.mov(ebp, ss)?;
            g.mov(esi, esp)?;
            g.sysexit()
        })?;
        let address = g.address(entry);
        point_sysenter_to(g, address)?;
        let back = g.mark();
        let back_address = g.address(back);
        g.user(|g| {
            g.mov(ecx, esp)?;
            g.mov(edx, back_address)?;
            g.sysenter()?;
            g.ud2()?;
            g.place(back)?;
            g.mov(eax, cs)?;
            g.mov(edi, ss)
        })?;
        for register in [eax, ebx, ebp, edi] {
            g.and(register, 0xffff)?;
        }
        g.expect(ebx, CODE_SELECTOR.into())?;
        g.expect(ebp, u32::from(CODE_SELECTOR) + 8)?;
        g.expect(esi, STACK_0 - 0x100)?;
        g.expect(eax, USER_CODE_SELECTOR.into())?;
        g.expect(edi, USER_DATA_SELECTOR.into())
    });
}

#[test]
fn sysenter_needs_a_code_segment() {
    protected(|g| {
        g.expect_user_fault(fault(GP), 2, |g| g.sysenter())?;
        g.expect_user_fault(fault(GP), 2, |g| g.sysexit())?;
        g.expect_user_fault(fault(UD), 2, |g| g.ud2())
    });
}
