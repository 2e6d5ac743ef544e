//! Redirection by the IO-APIC (82093AA data sheet).

use iced_x86::code_asm::*;
use tern_chipset::layout::irq;
use tern_test_kernels::device::{apic, pic};
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

const VECTOR: u8 = 0x51;
const COM1_PIN: u8 = 4;
/// COM1: interrupt enable register.
const IER: u16 = 0x3f9;
/// COM1: interrupt identification register.
const IIR: u16 = 0x3fa;
/// COM1: interrupt when nothing is left to transmit.
const THRE: u8 = 1 << 1;

/// The handler counts in R8. With `serve` it reads COM1's identification register, which takes the request back.
fn count(g: &mut Long, serve: bool) -> Emit {
    g.handler(VECTOR, |g| {
        g.push(rax)?;
        g.push(rdx)?;
        g.inc(r8)?;
        if serve {
            g.mov(edx, u32::from(IIR))?;
            g.in_(al, dx)?;
        }
        apic::write(g, apic::EOI, 0)?;
        g.pop(rdx)?;
        g.pop(rax)?;
        g.iretq()
    })?;
    g.xor(r8d, r8d)?;
    pic::initialize(g, 0)?;
    apic::enable(g)
}

#[test]
fn the_interval_timer_ticks_through_its_pin() {
    long(|g| {
        count(g, false)?;
        apic::redirect(g, irq::TIMER_PIN, VECTOR.into(), 0)?;
        pic::start_timer(g, 1193)?;
        for n in 1..=5 {
            g.sti()?;
            g.hlt()?;
            g.cli()?;
            g.expect(r8, n)?;
        }
        Ok(())
    });
}

#[test]
fn a_masked_pin_stays_silent() {
    long(|g| {
        count(g, false)?;
        apic::redirect(g, irq::TIMER_PIN, apic::MASKED | u32::from(VECTOR), 0)?;
        pic::start_timer(g, 100)?;
        g.sti()?;
        g.spin(50_000)?;
        g.expect(r8, 0)
    });
}

#[test]
fn an_edge_triggered_line_interrupts_once_while_it_stays_up() {
    long(|g| {
        count(g, false)?;
        apic::redirect(g, COM1_PIN, VECTOR.into(), 0)?;
        g.sti()?;
        pic::out(g, IER, THRE)?;
        g.spin(5000)?;
        g.cli()?;
        g.mov(rbx, r8)?;
        pic::out(g, IER, 0)?;
        g.expect(rbx, 1)
    });
}

#[test]
fn a_level_triggered_line_interrupts_again_until_it_is_served() {
    long(|g| {
        // Not served before the third time.
        g.handler(VECTOR, |g| {
            let mut end = g.create_label();
            g.push(rax)?;
            g.push(rdx)?;
            g.inc(r8)?;
            g.cmp(r8d, 3)?;
            g.jb(end)?;
            g.mov(edx, u32::from(IER))?;
            g.xor(eax, eax)?;
            g.out(dx, al)?;
            g.place(&mut end)?;
            apic::write(g, apic::EOI, 0)?;
            g.pop(rdx)?;
            g.pop(rax)?;
            g.iretq()
        })?;
        g.xor(r8d, r8d)?;
        pic::initialize(g, 0)?;
        apic::enable(g)?;
        apic::redirect(g, COM1_PIN, apic::LEVEL | u32::from(VECTOR), 0)?;
        g.sti()?;
        pic::out(g, IER, THRE)?;
        g.spin(20_000)?;
        g.cli()?;
        g.mov(rbx, r8)?;
        g.expect(rbx, 3)
    });
}

#[test]
fn a_level_that_was_raised_behind_a_mask_comes_when_it_is_opened() {
    long(|g| {
        count(g, true)?;
        apic::redirect(g, COM1_PIN, apic::MASKED | apic::LEVEL | u32::from(VECTOR), 0)?;
        g.sti()?;
        pic::out(g, IER, THRE)?;
        g.spin(5000)?;
        g.mov(rbx, r8)?;
        apic::redirect(g, COM1_PIN, apic::LEVEL | u32::from(VECTOR), 0)?;
        g.spin(5000)?;
        g.cli()?;
        g.mov(r12, r8)?;
        pic::out(g, IER, 0)?;
        g.expect(rbx, 0)?;
        g.expect(r12, 1)
    });
}

#[test]
fn interrupts_go_to_the_processor_that_the_entry_names() {
    long_with(2, |g| {
        g.handler(VECTOR, |g| {
            g.push(rax)?;
            g.mov(eax, 1)?;
            g.push(rbx)?;
            g.push(rcx)?;
            g.push(rdx)?;
            g.cpuid()?;
            g.shr(ebx, 24)?;
            g.lock().inc(qword_ptr(rbx * 8 + DATA))?;
            g.pop(rdx)?;
            g.pop(rcx)?;
            g.pop(rbx)?;
            apic::write(g, apic::EOI, 0)?;
            g.pop(rax)?;
            g.iretq()
        })?;
        g.on_others(|g| {
            apic::enable(g)?;
            g.mov(qword_ptr(DATA + 64), 1)?;
            let mut wait = g.create_label();
            g.place(&mut wait)?;
            g.sti()?;
            g.hlt()?;
            g.cli()?;
            g.jmp(wait)
        })?;
        pic::initialize(g, 0)?;
        g.start_others(1)?;
        g.wait_for(DATA + 64, 1)?;
        apic::redirect(g, irq::TIMER_PIN, VECTOR.into(), 1)?;
        pic::start_timer(g, 1193)?;
        g.sti()?;
        let mut wait = g.create_label();
        g.place(&mut wait)?;
        g.pause()?;
        g.cmp(qword_ptr(DATA + 8), 3)?;
        g.jb(wait)?;
        g.expect_memory(DATA, 0)?;
        apic::redirect(g, irq::TIMER_PIN, VECTOR.into(), 0)?;
        g.wait_for_at_least(DATA, 3)
    });
}
