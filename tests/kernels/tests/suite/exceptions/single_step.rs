//! The trap flag (APM volume 2, section 13.1.4).

use iced_x86::code_asm::*;
use tern_test_kernels::expect::vector::{DB, UD};
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

const TF: i32 = 1 << 8;
/// A model-specific register.
const DEBUG_CTL: u32 = 0x1d9;
/// DR6: a single step.
const BS: u64 = 1 << 14;
/// DR6: the bits that are always one.
const DR6_FIXED: u64 = 0xffff_0ff0;

/// The handler counts in R8, and notes DR6 in R9 and the distance of RIP from R10 in R11.
fn count_steps(g: &mut Long) -> Emit {
    g.handler(DB, |g| {
        g.inc(r8)?;
        g.mov(r9, dr6)?;
        g.mov(r11, qword_ptr(rsp))?;
        g.sub(r11, r10)?;
        g.iretq()
    })?;
    g.xor(r8d, r8d)
}

/// Writes DebugCtl: single steps are from branch to branch. RAX, RCX and RDX are lost.
fn step_by_branches(g: &mut Long) -> Emit {
    const BTF: u32 = 1 << 1;
    g.mov(ecx, DEBUG_CTL)?;
    g.mov(eax, BTF)?;
    g.xor(edx, edx)?;
    g.wrmsr()
}

fn set_trap_flag(g: &mut Long) -> Emit {
    g.pushfq()?;
    g.or(qword_ptr(rsp), TF)?;
    g.popfq()
}

fn clear_trap_flag(g: &mut Long) -> Emit {
    g.pushfq()?;
    g.and(qword_ptr(rsp), !TF)?;
    g.popfq()
}

/// Instructions of [`clear_trap_flag`]: all of them are still stepped.
const CLEARING: u64 = 3;

#[test]
fn every_instruction_behind_the_one_that_sets_the_flag_traps() {
    long(|g| {
        count_steps(g)?;
        set_trap_flag(g)?;
        for _ in 0..5 {
            g.nop()?;
        }
        clear_trap_flag(g)?;
        g.nop()?;
        g.expect(r8, 5 + CLEARING)?;
        g.expect(r9, BS | DR6_FIXED)
    });
}

#[test]
fn every_iteration_of_a_repeated_instruction_traps_at_the_instruction_until_the_last() {
    long(|g| {
        count_steps(g)?;
        g.mov(edi, frame(0) as u32)?;
        g.mov(ecx, 10)?;
        g.mov(al, 7)?;
        let mut here = g.create_label();
        g.lea(r10, ptr(here))?;
        set_trap_flag(g)?;
        g.place(&mut here)?;
        g.rep().stosb()?;
        g.mov(r12, r11)?;
        g.mov(r13, rcx)?;
        clear_trap_flag(g)?;
        // Ten iterations and the two instructions above.
        g.expect(r8, 12 + CLEARING)?;
        // When MOV was executed, the last trap seen was that behind the last iteration.
        g.expect(r12, 2)?;
        g.expect(r13, 0)?;
        g.expect_memory(frame(0) + 8, 0x0707)
    });
}

#[test]
fn taken_branches_trap_at_their_target() {
    long(|g| {
        count_steps(g)?;
        let (mut target, mut body) = (g.create_label(), g.create_label());
        g.lea(r10, ptr(target))?;
        set_trap_flag(g)?;
        g.jmp(target)?;
        g.ud2()?;
        g.place(&mut target)?;
        g.mov(r12, r11)?;
        g.mov(ecx, 3)?;
        g.place(&mut body)?;
        g.dec(ecx)?;
        g.jnz(body)?;
        clear_trap_flag(g)?;
        g.expect(r12, 0)?;
        g.expect(r8, 1 + 2 + 6 + CLEARING)
    });
}

#[test]
fn a_fault_clears_the_flag_for_its_handler_and_keeps_it_in_the_frame() {
    long(|g| {
        count_steps(g)?;
        g.handler(UD, |g| {
            g.mov(r12, r8)?;
            g.mov(r13, qword_ptr(rsp + 16))?;
            g.add(qword_ptr(rsp), 2)?;
            g.iretq()
        })?;
        set_trap_flag(g)?;
        g.ud2()?;
        clear_trap_flag(g)?;
        g.expect(r12, 0)?;
        g.and(r13d, TF)?;
        g.expect(r13, TF as u64)?;
        g.expect(r8, CLEARING)
    });
}

#[test]
fn user_code_is_stepped_like_the_kernel() {
    long(|g| {
        count_steps(g)?;
        g.user_flags = 0x102;
        g.user(|g| {
            g.nop()?;
            g.nop()?;
            g.nop()
        })?;
        g.expect(r8, 3)
    });
}

#[test]
fn a_software_interrupt_is_not_stepped_into() {
    long(|g| {
        count_steps(g)?;
        g.handler(0x40, |g| {
            g.mov(r12, r8)?;
            g.iretq()
        })?;
        set_trap_flag(g)?;
        g.nop()?;
        g.int(0x40)?;
        clear_trap_flag(g)?;
        // Neither the interrupt nor its handler.
        g.expect(r12, 1)?;
        g.expect(r8, 1 + CLEARING)
    });
}

#[test]
fn a_load_of_ss_is_one_step_with_the_instruction_behind_it() {
    long(|g| {
        count_steps(g)?;
        g.mov(ebx, u32::from(DATA_SELECTOR))?;
        let mut behind = g.create_label();
        g.lea(r10, ptr(behind))?;
        set_trap_flag(g)?;
        g.mov(ss, ebx)?;
        g.mov(ecx, 1)?;
        g.place(&mut behind)?;
        g.mov(r12, r11)?;
        clear_trap_flag(g)?;
        g.expect(r12, 0)?;
        g.expect(r8, 2 + CLEARING)?;
        // LSS brings a stack pointer along, and holds nothing off.
        g.mov(dword_ptr(frame(0) + 4), i32::from(DATA_SELECTOR))?;
        g.mov(rbx, frame(0))?;
        g.xor(r8d, r8d)?;
        set_trap_flag(g)?;
        g.lss(ecx, fword_ptr(rbx))?;
        g.nop()?;
        clear_trap_flag(g)?;
        g.expect(r8, 2 + CLEARING)
    });
}

#[test]
fn steps_by_branches_are_over_with_the_first_branch_that_is_taken() {
    long(|g| {
        count_steps(g)?;
        let (mut never, mut target) = (g.create_label(), g.create_label());
        g.lea(r10, ptr(target))?;
        step_by_branches(g)?;
        g.rdmsr()?;
        g.expect(rax, 2)?;
        g.mov(edi, frame(0) as u32)?;
        g.mov(ecx, 4)?;
        set_trap_flag(g)?;
        g.rep().stosb()?;
        g.inc(ecx)?;
        g.jz(never)?;
        g.jmp(target)?;
        g.place(&mut never)?;
        g.ud2()?;
        g.place(&mut target)?;
        // Each instruction is a step again.
        g.mov(r12, r11)?;
        g.mov(r13, r8)?;
        clear_trap_flag(g)?;
        g.expect(r12, 0)?;
        g.expect(r13, 2)?;
        g.expect(r8, 3 + CLEARING)?;
        g.expect(r9, BS | DR6_FIXED)?;
        g.mov(ecx, DEBUG_CTL)?;
        g.rdmsr()?;
        g.expect(rax, 0)
    });
}

#[test]
fn a_call_of_what_is_behind_it_is_a_step_by_branches() {
    long(|g| {
        count_steps(g)?;
        let mut target = g.create_label();
        g.lea(r10, ptr(target))?;
        step_by_branches(g)?;
        set_trap_flag(g)?;
        g.nop()?;
        g.call(target)?;
        g.place(&mut target)?;
        g.mov(r12, r11)?;
        g.pop(rax)?;
        clear_trap_flag(g)?;
        g.expect(r12, 0)?;
        g.expect(r8, 3 + CLEARING)
    });
}
