//! Interrupts that hot code asks for itself, by registers that it writes often: each comes where it should.

use iced_x86::code_asm::*;
use tern_chipset::layout::{IO_APIC, LOCAL_APIC};
use tern_test_kernels::device::apic;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

const VECTOR: u8 = 0x43;
/// Enough for an engine to find out what this code does.
const ROUNDS: u32 = 4000;
/// So many of them interrupt.
const INTERRUPTS: u64 = ROUNDS as u64 / 8;

/// The handler counts in R8. What was expected is counted in R9, and in R12 what came too early or too late.
fn count(g: &mut Long) -> Emit {
    g.handler(VECTOR, |g| {
        g.inc(r8)?;
        apic::end_of_interrupt(g)?;
        g.iretq()
    })?;
    for register in [r8, r9, r12] {
        g.xor(register, register)?;
    }
    apic::enable(g)
}

/// In one of eight rounds; else it writes to memory, so that all rounds go the same way.
fn interrupt_myself(g: &mut Long) -> Emit {
    g.mov(edx, LOCAL_APIC as u32 + u32::from(apic::ICR))?;
    g.mov(rax, DATA)?;
    g.test(r13d, 7)?;
    g.cmovnz(rdx, rax)?;
    g.mov(dword_ptr(rdx), apic::TO_SELF | u32::from(VECTOR))
}

/// An interrupt should come now, if there is one in this round: R9 counts it.
fn expect_it(g: &mut Long) -> Emit {
    g.xor(eax, eax)?;
    g.test(r13d, 7)?;
    g.setz(al)?;
    g.add(r9, rax)
}

/// Lets some time pass, without PAUSE. RCX is lost.
fn wait(g: &mut Long, rounds: u32) -> Emit {
    let mut again = g.create_label();
    g.mov(ecx, rounds)?;
    g.place(&mut again)?;
    g.dec(ecx)?;
    g.jnz(again)
}

/// As many have come as should have.
fn check(g: &mut Long) -> Emit {
    g.mov(rax, r8)?;
    g.xor(rax, r9)?;
    g.or(r12, rax)
}

#[test]
fn an_interrupt_that_has_just_come_waits_for_the_instruction_behind_sti() {
    long(|g| {
        count(g)?;
        g.rounds(ROUNDS, |g| {
            g.cli()?;
            interrupt_myself(g)?;
            g.nop()?;
            check(g)?;
            g.sti()?;
            // Its first instruction, which reads the count, is in STI's shadow.
            check(g)?;
            expect_it(g)?;
            check(g)
        })?;
        g.expect(r12, 0)?;
        g.expect(r8, INTERRUPTS)
    });
}

#[test]
fn an_interrupt_to_oneself_comes_soon() {
    long(|g| {
        count(g)?;
        g.sti()?;
        g.rounds(ROUNDS, |g| {
            interrupt_myself(g)?;
            expect_it(g)?;
            wait(g, 1000)?;
            check(g)
        })?;
        g.cli()?;
        g.expect(r12, 0)?;
        g.expect(r8, INTERRUPTS)
    });
}

#[test]
fn what_waits_for_the_task_priority_comes_when_that_falls() {
    long(|g| {
        count(g)?;
        g.sti()?;
        g.rounds(ROUNDS, |g| {
            apic::write(g, apic::TPR, u32::from(VECTOR))?;
            interrupt_myself(g)?;
            wait(g, 20)?;
            check(g)?;
            apic::write(g, apic::TPR, 0)?;
            expect_it(g)?;
            wait(g, 1000)?;
            check(g)
        })?;
        g.cli()?;
        g.expect(r12, 0)?;
        g.expect(r8, INTERRUPTS)
    });
}

#[test]
fn one_instruction_accesses_a_device_and_memory_by_turns() {
    // The IO-APIC's register 0x3f is the upper half of the last pin's entry, of which the upper byte is kept.
    const SELECT: u64 = IO_APIC.start;
    const LAST_ENTRY: u32 = 0x3f;
    long(|g| {
        let access = g.out_of_line(|g| {
            // In memory the window is data; several accesses by one base, at once, with flags across them.
            g.cmp(r13d, ROUNDS as i32 / 2)?;
            g.mov(dword_ptr(rbx), LAST_ENTRY)?;
            g.mov(dword_ptr(rbx + 0x10), ecx)?;
            g.mov(eax, dword_ptr(rbx + 0x10))?;
            g.adc(r8, 0)?;
            g.ret()
        })?;
        for register in [r8, r12] {
            g.xor(register, register)?;
        }
        g.rounds(ROUNDS, |g| {
            let mut memory = g.create_label();
            g.mov(ecx, r13d)?;
            g.shl(ecx, 24)?;
            g.mov(rbx, SELECT)?;
            g.test(r13d, 7)?;
            g.jz(memory)?;
            g.mov(rbx, DATA)?;
            g.place(&mut memory)?;
            g.call(access)?;
            g.xor(eax, ecx)?;
            g.or(r12d, eax)
        })?;
        g.expect(r12, 0)?;
        g.expect(r8, u64::from(ROUNDS / 2 - 1))
    });
}

#[test]
fn a_stack_in_a_device_is_one() {
    // The task priority register keeps what is pushed there, and what is popped is that.
    const TPR: u64 = LOCAL_APIC + apic::TPR as u64;
    long(|g| {
        apic::enable(g)?;
        g.mov(rbp, rsp)?;
        g.xor(r12, r12)?;
        g.rounds(ROUNDS, |g| {
            g.mov(rsp, TPR + 8)?;
            g.mov(ecx, r13d)?;
            g.and(ecx, 0xf0)?;
            g.push(rcx)?;
            g.mov(eax, dword_ptr(rsp))?;
            g.pop(rdx)?;
            g.xor(eax, ecx)?;
            g.or(r12d, eax)?;
            g.xor(edx, ecx)?;
            g.or(r12d, edx)
        })?;
        g.mov(rsp, rbp)?;
        g.expect(r12, 0)
    });
}
