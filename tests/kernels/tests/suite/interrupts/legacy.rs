//! The 8259s with what hangs on them: interval timer and real-time clock.

use iced_x86::code_asm::*;
use tern_test_kernels::device::pic::{self, FIRST_VECTOR};
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

/// OCW2: end of interrupt, not specific.
const EOI: i32 = 0x20;
const RTC_LINE: u8 = 8;

/// The handler of a line counts in R8; `more` is run before the end of the interrupt.
fn count(g: &mut Long, line: u8, more: impl FnOnce(&mut Long) -> Emit) -> Emit {
    g.handler(FIRST_VECTOR + line, |g| {
        g.push(rax)?;
        g.inc(r8)?;
        more(g)?;
        g.mov(al, EOI)?;
        if line >= 8 {
            g.out(0xa0, al)?;
        }
        g.out(0x20, al)?;
        g.pop(rax)?;
        g.iretq()
    })?;
    g.xor(r8d, r8d)
}

/// Waits until a handler has counted up to `count` in R8.
fn wait_for(g: &mut Long, count: i32) -> Emit {
    let mut wait = g.create_label();
    g.place(&mut wait)?;
    g.pause()?;
    g.cmp(r8d, count)?;
    g.jb(wait)
}

#[test]
fn the_interval_timer_ticks_through_the_first_controller() {
    long(|g| {
        count(g, 0, |_| Ok(()))?;
        pic::initialize(g, 1 << 0)?;
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
fn a_masked_line_waits_until_it_is_opened() {
    long(|g| {
        count(g, 0, |_| Ok(()))?;
        pic::initialize(g, 0)?;
        // Mode 0: one rising edge, that stays.
        for (port, value) in [(0x43, 0x30), (0x40, 100), (0x40, 0)] {
            pic::out(g, port, value)?;
        }
        g.sti()?;
        g.spin(20_000)?;
        g.expect(r8, 0)?;
        // The request is there.
        pic::out(g, 0x20, 0x0a)?;
        let mut wait = g.create_label();
        g.place(&mut wait)?;
        g.in_(al, 0x20)?;
        g.test(al, 1)?;
        g.jz(wait)?;
        pic::out(g, 0x21, 0xfe)?;
        g.spin(1000)?;
        g.expect(r8, 1)
    });
}

#[test]
fn nothing_more_comes_before_the_end_of_an_interrupt() {
    long(|g| {
        g.handler(FIRST_VECTOR, |g| {
            g.inc(r8)?;
            g.iretq()
        })?;
        g.xor(r8d, r8d)?;
        pic::initialize(g, 1 << 0)?;
        pic::start_timer(g, 1193)?;
        g.sti()?;
        wait_for(g, 1)?;
        // Some milliseconds.
        g.rdtsc()?;
        g.mov(ebx, eax)?;
        let mut wait = g.create_label();
        g.place(&mut wait)?;
        g.rdtsc()?;
        g.sub(eax, ebx)?;
        g.cmp(eax, 5_000_000)?;
        g.jb(wait)?;
        g.expect(r8, 1)?;
        g.mov(al, EOI)?;
        g.out(0x20, al)?;
        // One that waited comes at once, and a processor that halts behind it would halt for ever.
        wait_for(g, 2)?;
        g.expect(r8, 2)
    });
}

#[test]
fn the_real_time_clock_interrupts_periodically_through_both_controllers() {
    const REGISTER_A: u8 = 0x0a;
    const REGISTER_B: u8 = 0x0b;
    const REGISTER_C: u8 = 0x0c;
    const PERIODIC: u8 = 1 << 6;
    long(|g| {
        count(g, RTC_LINE, |g| {
            g.mov(al, i32::from(REGISTER_C))?;
            g.out(0x70, al)?;
            g.in_(al, 0x71)?;
            g.mov(r9b, al)
        })?;
        pic::initialize(g, 1 << RTC_LINE | 1 << 2)?;
        // 1024 Hz.
        for (register, value) in [(REGISTER_A, 0x26), (REGISTER_B, PERIODIC | 2)] {
            pic::out(g, 0x70, register)?;
            pic::out(g, 0x71, value)?;
        }
        for n in 1..=5 {
            g.sti()?;
            g.hlt()?;
            g.cli()?;
            // On a busy host the next one may have come before CLI.
            g.expect_such(r8, move |count| count >= n)?;
        }
        g.movzx(eax, r9b)?;
        g.expect_such(rax, |c| c & 0xc0 == 0xc0)
    });
}
