//! Interrupts among processors, and their start.

use iced_x86::code_asm::*;
use tern_test_kernels::device::apic;
use tern_test_kernels::expect::vector;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

const VECTOR: u8 = 0x48;
const OTHERS: u32 = 3;
const READY: u64 = DATA;
/// How often each processor was interrupted, by APIC ID.
const COUNTS: u64 = DATA + 0x100;

/// Says that it is ready, and halts for one interrupt after the other.
fn be_interrupted(g: &mut Long) -> Emit {
    let mut again = g.create_label();
    g.lock().inc(qword_ptr(READY))?;
    g.place(&mut again)?;
    g.sti()?;
    g.hlt()?;
    g.cli()?;
    g.jmp(again)
}

#[test]
fn every_halted_processor_is_woken_by_its_interrupt() {
    long_with(OTHERS + 1, |g| {
        g.handler(VECTOR, |g| {
            g.inc(qword_ptr(r15))?;
            apic::end_of_interrupt(g)?;
            g.iretq()
        })?;
        g.on_others(|g| {
            apic::enable(g)?;
            g.mov(r15d, edi)?;
            g.shl(r15d, 3)?;
            g.add(r15d, COUNTS as i32)?;
            be_interrupted(g)
        })?;
        g.start_others(OTHERS)?;
        g.wait_for(READY, OTHERS as i32)?;
        for round in 1..=3 {
            for id in 1..=OTHERS {
                apic::write(g, apic::ICR_HIGH, id << 24)?;
                apic::write(g, apic::ICR, 1 << 14 | u32::from(VECTOR))?;
                g.wait_for(COUNTS + 8 * u64::from(id), round)?;
            }
        }
        // All at once.
        apic::write(g, apic::ICR, apic::TO_OTHERS | u32::from(VECTOR))?;
        for id in 1..=u64::from(OTHERS) {
            g.wait_for(COUNTS + 8 * id, 4)?;
        }
        g.expect_memory(COUNTS, 0)
    });
}

#[test]
fn an_interrupt_that_comes_with_an_nmi_is_taken_behind_it() {
    const ROUNDS: i32 = 50;
    const NMIS: u64 = COUNTS + 8;
    long_with(2, |g| {
        g.handler(VECTOR, |g| {
            g.inc(qword_ptr(COUNTS))?;
            apic::end_of_interrupt(g)?;
            g.iretq()
        })?;
        g.handler(vector::NMI, |g| {
            g.inc(qword_ptr(NMIS))?;
            g.iretq()
        })?;
        g.on_others(|g| {
            apic::enable(g)?;
            be_interrupted(g)
        })?;
        g.start_others(1)?;
        g.wait_for(READY, 1)?;
        apic::write(g, apic::ICR_HIGH, 1 << 24)?;
        for round in 1..=ROUNDS {
            // So that it sleeps, and wakes up when both have come.
            g.spin(2000)?;
            apic::write(g, apic::ICR, 1 << 14 | apic::NMI)?;
            apic::write(g, apic::ICR, 1 << 14 | u32::from(VECTOR))?;
            g.wait_for(COUNTS, round)?;
            g.wait_for(NMIS, round)?;
        }
        g.expect_memory(COUNTS, ROUNDS as u64)?;
        g.expect_memory(NMIS, ROUNDS as u64)
    });
}

#[test]
fn two_processors_interrupt_each_other_in_turn() {
    const ROUNDS: i32 = 500;
    long_with(2, |g| {
        // R15 is the counter of the processor, R14 the other's APIC ID in the ICR's place.
        g.handler(VECTOR, |g| {
            g.push(rax)?;
            g.inc(qword_ptr(r15))?;
            let mut enough = g.create_label();
            apic::write(g, apic::EOI, 0)?;
            g.cmp(qword_ptr(r15), ROUNDS)?;
            g.jae(enough)?;
            g.mov(eax, tern_chipset::layout::LOCAL_APIC as u32 + u32::from(apic::ICR_HIGH))?;
            g.mov(dword_ptr(rax), r14d)?;
            apic::write(g, apic::ICR, 1 << 14 | u32::from(VECTOR))?;
            g.place(&mut enough)?;
            g.pop(rax)?;
            g.iretq()
        })?;
        g.on_others(|g| {
            apic::enable(g)?;
            g.mov(r15d, COUNTS as u32 + 8)?;
            g.xor(r14d, r14d)?;
            be_interrupted(g)
        })?;
        g.mov(r15d, COUNTS as u32)?;
        g.mov(r14d, 1 << 24)?;
        g.start_others(1)?;
        g.wait_for(READY, 1)?;
        g.sti()?;
        apic::write(g, apic::ICR_HIGH, 1 << 24)?;
        apic::write(g, apic::ICR, 1 << 14 | u32::from(VECTOR))?;
        g.wait_for(COUNTS + 8, ROUNDS)?;
        g.cli()?;
        g.mov(rax, qword_ptr(COUNTS))?;
        g.expect(rax, ROUNDS as u64 - 1)
    });
}

#[test]
fn a_running_processor_that_gets_init_starts_again() {
    const INIT: u32 = 0x0000_4500;
    const STARTUP: u32 = 0x0000_4608;
    long_with(2, |g| {
        g.on_others(|g| {
            let mut forever = g.create_label();
            g.lock().inc(qword_ptr(READY))?;
            g.place(&mut forever)?;
            g.jmp(forever)
        })?;
        g.start_others(1)?;
        for starts in 1..=3 {
            g.wait_for(READY, starts)?;
            apic::write(g, apic::ICR_HIGH, 1 << 24)?;
            apic::write(g, apic::ICR, INIT)?;
            g.spin(1000)?;
            apic::write(g, apic::ICR, STARTUP)?;
        }
        g.wait_for(READY, 4)
    });
}

#[test]
fn a_start_up_without_init_is_ignored_by_a_running_processor() {
    const STARTUP: u32 = 0x0000_4608;
    long_with(2, |g| {
        g.on_others(|g| {
            let mut forever = g.create_label();
            g.lock().inc(qword_ptr(READY))?;
            g.place(&mut forever)?;
            g.lock().inc(qword_ptr(COUNTS))?;
            g.jmp(forever)
        })?;
        g.start_others(1)?;
        g.wait_for_at_least(COUNTS, 1)?;
        apic::write(g, apic::ICR_HIGH, 1 << 24)?;
        apic::write(g, apic::ICR, STARTUP)?;
        g.mov(rax, qword_ptr(COUNTS))?;
        let mut wait = g.create_label();
        g.place(&mut wait)?;
        g.pause()?;
        g.lea(rbx, ptr(rax + 1000))?;
        g.cmp(qword_ptr(COUNTS), rbx)?;
        g.jb(wait)?;
        g.expect_memory(READY, 1)
    });
}
