//! The local APIC: priorities, interrupts to oneself, and its timer (SDM volume 3, chapter 11).

use iced_x86::code_asm::*;
use tern_test_kernels::device::apic;
use tern_test_kernels::expect::fault;
use tern_test_kernels::expect::vector::GP;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

const VECTOR: u8 = 0x41;
const HIGHER: u8 = 0x62;

/// The handler of `vector` counts in R8 and remembers its vector in the lowest byte of R9, which it shifts.
fn note(g: &mut Long, vector: u8, end: fn(&mut Long) -> Emit) -> Emit {
    g.handler(vector, |g| {
        g.inc(r8)?;
        g.shl(r9, 8)?;
        g.or(r9, i32::from(vector))?;
        end(g)?;
        g.iretq()
    })
}

fn clear(g: &mut Long) -> Emit {
    g.xor(r8d, r8d)?;
    g.xor(r9d, r9d)
}

/// EOI in x2APIC mode, leaving all registers as they are.
fn end_x2(g: &mut Long) -> Emit {
    for register in [rax, rcx, rdx] {
        g.push(register)?;
    }
    apic::write_x2(g, apic::EOI, 0)?;
    for register in [rdx, rcx, rax] {
        g.pop(register)?;
    }
    Ok(())
}

/// Waits with interrupts on until R8 is at least `count`.
fn wait_for_count(g: &mut Long, count: i32) -> Emit {
    let mut wait = g.create_label();
    g.sti()?;
    g.place(&mut wait)?;
    g.pause()?;
    g.cmp(r8, count)?;
    g.jb(wait)?;
    g.cli()
}

#[test]
fn interrupts_to_oneself_come_in_the_order_of_their_priority() {
    long(|g| {
        note(g, VECTOR, apic::end_of_interrupt)?;
        note(g, HIGHER, apic::end_of_interrupt)?;
        clear(g)?;
        apic::enable(g)?;
        apic::write(g, apic::ICR, apic::TO_SELF | u32::from(VECTOR))?;
        apic::write(g, apic::ICR, apic::TO_SELF | u32::from(HIGHER))?;
        // The same again is one request.
        apic::write(g, apic::ICR, apic::TO_SELF | u32::from(HIGHER))?;
        wait_for_count(g, 2)?;
        g.expect(r8, 2)?;
        g.expect(r9, u64::from(HIGHER) << 8 | u64::from(VECTOR))
    });
}

#[test]
fn the_task_priority_holds_lower_classes_back() {
    long(|g| {
        note(g, VECTOR, apic::end_of_interrupt)?;
        note(g, HIGHER, apic::end_of_interrupt)?;
        clear(g)?;
        apic::enable(g)?;
        g.mov(eax, u32::from(VECTOR >> 4))?;
        g.mov(cr8, rax)?;
        apic::read(g, apic::TPR)?;
        g.expect(rax, u64::from(VECTOR & 0xf0))?;
        g.sti()?;
        apic::write(g, apic::ICR, apic::TO_SELF | u32::from(VECTOR))?;
        g.spin(1000)?;
        g.expect(r8, 0)?;
        apic::write(g, apic::ICR, apic::TO_SELF | u32::from(HIGHER))?;
        g.spin(1000)?;
        g.expect(r9, HIGHER.into())?;
        apic::write(g, apic::TPR, 0)?;
        g.spin(1000)?;
        g.expect(r9, u64::from(HIGHER) << 8 | u64::from(VECTOR))?;
        g.mov(rax, cr8)?;
        g.expect(rax, 0)
    });
}

#[test]
fn what_is_in_service_holds_its_class_back_until_its_end() {
    long(|g| {
        note(g, VECTOR, |_| Ok(()))?;
        note(g, VECTOR + 1, apic::end_of_interrupt)?;
        clear(g)?;
        apic::enable(g)?;
        g.sti()?;
        apic::write(g, apic::ICR, apic::TO_SELF | u32::from(VECTOR))?;
        g.spin(1000)?;
        apic::write(g, apic::ICR, apic::TO_SELF | u32::from(VECTOR + 1))?;
        g.spin(1000)?;
        g.expect(r9, VECTOR.into())?;
        apic::read(g, apic::PPR)?;
        g.expect(rax, u64::from(VECTOR & 0xf0))?;
        apic::write(g, apic::EOI, 0)?;
        g.spin(1000)?;
        g.expect(r9, u64::from(VECTOR) << 8 | u64::from(VECTOR + 1))
    });
}

#[test]
fn the_timer_counts_down_once() {
    long(|g| {
        note(g, VECTOR, apic::end_of_interrupt)?;
        clear(g)?;
        apic::enable(g)?;
        apic::write(g, apic::DIVIDE, 0xb)?;
        apic::write(g, apic::LVT_TIMER, VECTOR.into())?;
        apic::write(g, apic::INITIAL_COUNT, 100_000)?;
        apic::read(g, apic::CURRENT_COUNT)?;
        g.expect_such(rax, |count| count <= 100_000)?;
        wait_for_count(g, 1)?;
        apic::read(g, apic::CURRENT_COUNT)?;
        g.expect(rax, 0)?;
        g.sti()?;
        g.spin(20_000)?;
        g.expect(r8, 1)
    });
}

#[test]
fn the_timer_counts_periodically_until_it_is_stopped() {
    long(|g| {
        note(g, VECTOR, apic::end_of_interrupt)?;
        clear(g)?;
        apic::enable(g)?;
        apic::write(g, apic::DIVIDE, 0xb)?;
        apic::write(g, apic::LVT_TIMER, apic::PERIODIC | u32::from(VECTOR))?;
        apic::write(g, apic::INITIAL_COUNT, 100_000)?;
        wait_for_count(g, 5)?;
        apic::write(g, apic::INITIAL_COUNT, 0)?;
        // One may be under way.
        g.sti()?;
        g.spin(1000)?;
        g.mov(rbx, r8)?;
        g.spin(20_000)?;
        g.sub(rbx, r8)?;
        g.expect(rbx, 0)
    });
}

#[test]
fn the_timer_wakes_a_halted_processor() {
    long(|g| {
        note(g, VECTOR, apic::end_of_interrupt)?;
        clear(g)?;
        apic::enable(g)?;
        apic::write(g, apic::LVT_TIMER, VECTOR.into())?;
        for n in 1..=3 {
            apic::write(g, apic::INITIAL_COUNT, 200_000)?;
            g.sti()?;
            g.hlt()?;
            g.cli()?;
            g.expect(r8, n)?;
        }
        Ok(())
    });
}

#[test]
fn a_masked_timer_interrupts_nobody() {
    long(|g| {
        note(g, VECTOR, apic::end_of_interrupt)?;
        clear(g)?;
        apic::enable(g)?;
        apic::write(g, apic::LVT_TIMER, apic::MASKED | u32::from(VECTOR))?;
        apic::write(g, apic::INITIAL_COUNT, 1000)?;
        g.sti()?;
        g.spin(20_000)?;
        g.expect(r8, 0)?;
        apic::read(g, apic::CURRENT_COUNT)?;
        g.expect(rax, 0)
    });
}

/// Sets the deadline `ahead` ticks from now. RAX, RBX, RCX and RDX are lost.
fn set_deadline(g: &mut Long, ahead: i32) -> Emit {
    g.rdtsc()?;
    g.shl(rdx, 32)?;
    g.or(rax, rdx)?;
    g.add(rax, ahead)?;
    g.mov(rbx, rax)?;
    g.mov(rdx, rax)?;
    g.shr(rdx, 32)?;
    g.mov(ecx, apic::TSC_DEADLINE_MSR)?;
    g.wrmsr()
}

#[test]
fn a_deadline_of_the_time_stamp_counter_is_met_once_and_not_early() {
    long(|g| {
        g.handler(VECTOR, |g| {
            g.inc(r8)?;
            g.rdtsc()?;
            g.shl(rdx, 32)?;
            g.lea(r9, ptr(rax + rdx))?;
            apic::end_of_interrupt(g)?;
            g.iretq()
        })?;
        clear(g)?;
        apic::enable(g)?;
        apic::write(g, apic::LVT_TIMER, apic::TSC_DEADLINE | u32::from(VECTOR))?;
        g.mfence()?;
        for n in 1..=3 {
            set_deadline(g, 200_000)?;
            g.sti()?;
            g.hlt()?;
            g.cli()?;
            g.expect(r8, n)?;
            g.sub(r9, rbx)?;
            g.expect_such(r9, |late| late < 1 << 62)?;
            g.mov(ecx, apic::TSC_DEADLINE_MSR)?;
            g.rdmsr()?;
            g.expect(rax, 0)?;
        }
        // Zero disarms.
        set_deadline(g, 2_000_000)?;
        g.xor(eax, eax)?;
        g.xor(edx, edx)?;
        g.wrmsr()?;
        g.sti()?;
        g.spin(100_000)?;
        g.expect(r8, 3)
    });
}

#[test]
fn in_x2apic_mode_registers_are_msrs() {
    long(|g| {
        note(g, VECTOR, end_x2)?;
        clear(g)?;
        g.mov(ecx, 0x802)?;
        g.expect_fault(fault(GP), |g| g.rdmsr())?;
        apic::enter_x2apic(g)?;
        g.mov(ecx, 0x802)?;
        g.rdmsr()?;
        g.expect(rax, 0)?;
        apic::write_x2(g, apic::SVR, 0x1ff)?;
        g.sti()?;
        apic::write_x2(g, apic::SELF_IPI, VECTOR.into())?;
        g.spin(1000)?;
        g.expect(r9, VECTOR.into())?;
        apic::write_x2(g, apic::LVT_TIMER, VECTOR.into())?;
        apic::write_x2(g, apic::INITIAL_COUNT, 100_000)?;
        wait_for_count(g, 2)?;
        apic::write_x2(g, apic::LVT_TIMER, apic::TSC_DEADLINE | u32::from(VECTOR))?;
        set_deadline(g, 100_000)?;
        wait_for_count(g, 3)?;
        g.expect(r8, 3)?;
        // Reserved bits, and registers that are not there.
        g.mov(ecx, 0x80b)?;
        g.mov(eax, 1)?;
        g.xor(edx, edx)?;
        g.expect_fault(fault(GP), |g| g.wrmsr())?;
        g.mov(ecx, 0x80e)?;
        g.expect_fault(fault(GP), |g| g.rdmsr())?;
        // There is no way back to xAPIC mode but through disabling.
        g.mov(ecx, apic::BASE_MSR)?;
        g.rdmsr()?;
        g.and(eax, !(1 << 10))?;
        g.expect_fault(fault(GP), |g| g.wrmsr())
    });
}
