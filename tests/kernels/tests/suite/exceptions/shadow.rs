//! The instruction behind STI and MOV SS, in which no interrupt is taken.

use iced_x86::code_asm::*;
use tern_test_kernels::device::apic;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

const VECTOR: u8 = 0x41;

/// An interrupt waits, with interrupts off; its handler notes the distance of RIP from R10 in R11.
fn with_interrupt_waiting(g: &mut Long) -> Emit {
    g.handler(VECTOR, |g| {
        g.mov(r11, qword_ptr(rsp))?;
        g.sub(r11, r10)?;
        apic::end_of_interrupt(g)?;
        g.iretq()
    })?;
    apic::enable(g)?;
    g.mov(r11, u64::MAX)?;
    apic::write(g, apic::ICR, apic::TO_SELF | u32::from(VECTOR))?;
    g.spin(1000)
}

#[test]
fn an_interrupt_comes_after_the_instruction_behind_sti() {
    long(|g| {
        with_interrupt_waiting(g)?;
        let mut here = g.create_label();
        g.lea(r10, ptr(here))?;
        g.sti()?;
        g.nop()?;
        g.place(&mut here)?;
        g.nop()?;
        g.cli()?;
        g.expect(r11, 0)
    });
}

#[test]
fn sti_and_cli_side_by_side_let_nothing_in() {
    long(|g| {
        with_interrupt_waiting(g)?;
        for _ in 0..100 {
            g.sti()?;
            g.cli()?;
        }
        g.expect(r11, u64::MAX)?;
        // Where interrupts are on already, STI holds nothing back.
        let mut here = g.create_label();
        g.lea(r10, ptr(here))?;
        g.sti()?;
        g.sti()?;
        g.place(&mut here)?;
        g.cli()?;
        g.expect(r11, 0)
    });
}

#[test]
fn sti_before_halt_does_not_lose_the_wake_up() {
    long(|g| {
        with_interrupt_waiting(g)?;
        let mut here = g.create_label();
        g.lea(r10, ptr(here))?;
        g.sti()?;
        g.hlt()?;
        g.place(&mut here)?;
        g.cli()?;
        g.expect(r11, 0)
    });
}

#[test]
fn an_interrupt_waits_for_the_instruction_behind_a_load_of_ss() {
    long(|g| {
        with_interrupt_waiting(g)?;
        let mut here = g.create_label();
        g.lea(r10, ptr(here))?;
        g.mov(ebx, u32::from(DATA_SELECTOR))?;
        g.sti()?;
        g.mov(ss, ebx)?;
        g.nop()?;
        g.place(&mut here)?;
        g.nop()?;
        g.cli()?;
        g.expect(r11, 0)
    });
}

#[test]
fn popf_lets_an_interrupt_in_at_once() {
    long(|g| {
        with_interrupt_waiting(g)?;
        let mut here = g.create_label();
        g.lea(r10, ptr(here))?;
        g.push(0x202)?;
        g.popfq()?;
        g.place(&mut here)?;
        g.nop()?;
        g.cli()?;
        g.expect(r11, 0)
    });
}
