//! Non-maskable interrupts, from the local APIC.

use iced_x86::code_asm::*;
use tern_test_kernels::device::apic;
use tern_test_kernels::expect::vector::NMI;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

const TO_SELF_BY_ID: u32 = 1 << 14 | apic::NMI;

/// An NMI to the first processor, and time for it to arrive. RAX is lost.
fn send_nmi(g: &mut Long) -> Emit {
    apic::write(g, apic::ICR_HIGH, 0)?;
    apic::write(g, apic::ICR, TO_SELF_BY_ID)?;
    g.spin(1000)
}

#[test]
fn it_comes_with_interrupts_off() {
    long(|g| {
        g.handler_on(NMI, 1, |g| {
            g.inc(r8)?;
            g.lea(rbx, ptr(rsp + 40))?;
            g.iretq()
        })?;
        g.xor(r8d, r8d)?;
        apic::enable(g)?;
        send_nmi(g)?;
        g.expect(r8, 1)?;
        g.expect(rbx, IST[0])
    });
}

#[test]
fn a_second_one_waits_for_the_return_of_the_first() {
    long(|g| {
        g.handler(NMI, |g| {
            let mut second = g.create_label();
            g.inc(r8)?;
            g.cmp(r8d, 2)?;
            g.je(second)?;
            g.push(rax)?;
            send_nmi(g)?;
            g.pop(rax)?;
            g.mov(r9, r8)?;
            g.place(&mut second)?;
            g.iretq()
        })?;
        g.xor(r8d, r8d)?;
        apic::enable(g)?;
        send_nmi(g)?;
        g.expect(r9, 1)?;
        g.expect(r8, 2)
    });
}

#[test]
fn any_iret_ends_the_blocking() {
    long(|g| {
        g.handler(NMI, |g| {
            let mut second = g.create_label();
            g.inc(r8)?;
            g.cmp(r8d, 2)?;
            g.je(second)?;
            g.push(rax)?;
            send_nmi(g)?;
            g.pop(rax)?;
            // The handler of a breakpoint returns, and with it the NMI is let in.
            g.int(0x40)?;
            g.spin(1000)?;
            g.mov(r9, r8)?;
            g.place(&mut second)?;
            g.iretq()
        })?;
        g.handler(0x40, |g| g.iretq())?;
        g.xor(r8d, r8d)?;
        apic::enable(g)?;
        send_nmi(g)?;
        g.expect(r9, 2)
    });
}

#[test]
fn it_wakes_a_halted_processor_with_interrupts_off() {
    long_with(2, |g| {
        // The first may come after the last look and before HLT; then the second finds the processor halted.
        g.on_others(|g| {
            send_nmi(g)?;
            g.spin(1_000_000)?;
            send_nmi(g)
        })?;
        g.handler(NMI, |g| {
            g.inc(r8)?;
            g.iretq()
        })?;
        g.xor(r8d, r8d)?;
        g.start_others(1)?;
        let mut halt = g.create_label();
        g.place(&mut halt)?;
        g.test(r8d, r8d)?;
        let mut done = g.create_label();
        g.jnz(done)?;
        g.hlt()?;
        g.place(&mut done)?;
        g.xor(ebx, ebx)?;
        g.test(r8d, r8d)?;
        g.setnz(bl)?;
        g.expect(rbx, 1)
    });
}
