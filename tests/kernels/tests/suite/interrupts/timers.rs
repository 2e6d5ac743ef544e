//! Clocks of one machine agree.

use iced_x86::code_asm::*;
use tern_chipset::layout::port;
use tern_chipset::power::PM_TIMER;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

/// Hz.
const PM_FREQUENCY: u64 = 3_579_545;

/// Reads the power-management timer into EAX. RDX is lost.
fn read_pm_timer(g: &mut Long) -> Emit {
    g.mov(edx, u32::from(port::POWER.start + PM_TIMER))?;
    g.in_(eax, dx)
}

/// The TSC into RAX and the power-management timer into ECX, at the same time: again if a busy host did something else in between.
fn read_both(g: &mut Long) -> Emit {
    let mut again = g.create_label();
    g.place(&mut again)?;
    read_pm_timer(g)?;
    g.mov(ecx, eax)?;
    g.rdtsc()?;
    g.shl(rdx, 32)?;
    g.or(rax, rdx)?;
    g.mov(r15, rax)?;
    read_pm_timer(g)?;
    g.sub(eax, ecx)?;
    g.cmp(eax, 358)?; // 0.1 ms
    g.ja(again)?;
    g.mov(rax, r15)
}

#[test]
fn the_power_management_timer_never_goes_back() {
    long(|g| {
        let (mut again, mut wrong, mut end) = (g.create_label(), g.create_label(), g.create_label());
        read_pm_timer(g)?;
        g.mov(ebx, eax)?;
        g.mov(ecx, 2000)?;
        g.place(&mut again)?;
        read_pm_timer(g)?;
        g.cmp(eax, ebx)?;
        g.jb(wrong)?;
        g.mov(ebx, eax)?;
        g.dec(ecx)?;
        g.jnz(again)?;
        g.jmp(end)?;
        g.place(&mut wrong)?;
        g.nop()?;
        g.place(&mut end)?;
        g.expect(rcx, 0)
    });
}

#[test]
fn the_power_management_timer_and_the_interval_timer_run_at_their_frequencies() {
    const PIT_FREQUENCY: u64 = 1_193_182;
    const PIT_TICKS: u64 = 11932; // 10 ms
    long(|g| {
        // Channel 2 of the interval timer, whose output port 0x61 shows, measures the other. It begins with its last
        // byte, so the other is read before that: what a busy host takes in between may only make the time longer. The
        // shortest of three times counts.
        g.mov(r12, -1_i64)?;
        g.mov(r13d, 3)?;
        let mut again = g.create_label();
        g.place(&mut again)?;
        read_pm_timer(g)?;
        g.mov(ebx, eax)?;
        for (number, value) in
            [(0x61, 1), (0x43, 0xb0), (0x42, PIT_TICKS as u8), (0x42, (PIT_TICKS >> 8) as u8)]
        {
            tern_test_kernels::device::pic::out(g, number, value)?;
        }
        let mut wait = g.create_label();
        g.place(&mut wait)?;
        g.in_(al, 0x61)?;
        g.test(al, 0x20)?;
        g.jz(wait)?;
        read_pm_timer(g)?;
        g.sub(eax, ebx)?;
        g.cmp(rax, r12)?;
        g.cmovb(r12, rax)?;
        g.dec(r13d)?;
        g.jnz(again)?;
        let ticks = PIT_TICKS * PM_FREQUENCY / PIT_FREQUENCY;
        g.expect_such(r12, move |measured| (ticks - ticks / 50..ticks * 20).contains(&measured))
    });
}

#[test]
fn the_time_stamp_counter_and_the_power_management_timer_keep_step() {
    long(|g| {
        // TSC ticks per timer tick, twice, must be the same within some percent whatever the frequency is.
        for register in [r12, r13] {
            read_both(g)?;
            g.mov(ebx, ecx)?;
            g.mov(r14, rax)?;
            let mut wait = g.create_label();
            g.place(&mut wait)?;
            read_pm_timer(g)?;
            g.sub(eax, ebx)?;
            g.cmp(eax, 35_795)?; // 10 ms
            g.jb(wait)?;
            read_both(g)?;
            g.sub(ecx, ebx)?;
            g.sub(rax, r14)?;
            g.imul_3(rax, rax, 1000)?;
            g.xor(edx, edx)?;
            g.div(rcx)?;
            g.mov(register, rax)?;
        }
        g.imul_3(rax, r12, 100)?;
        g.xor(edx, edx)?;
        g.div(r13)?;
        g.expect_such(rax, |percent| (90..=110).contains(&percent))
    });
}
