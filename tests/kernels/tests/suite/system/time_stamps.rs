//! RDTSC and RDTSCP in hot code: the counter goes forward, is the same on all processors, and changes when it is changed (APM
//! volume 3).

use iced_x86::code_asm::*;
use tern_test_kernels::expect::fault;
use tern_test_kernels::expect::vector::GP;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

const TSC: u32 = 0x10;
const TSC_AUX: u32 = 0xc000_0103;
/// Time-stamp disable in CR4.
const TSD: i32 = 1 << 2;

/// The counter into RAX. RDX is lost, and with RDTSCP RCX.
fn read(g: &mut Long, with_processor: bool) -> Emit {
    if with_processor {
        g.rdtscp()?;
    } else {
        g.rdtsc()?;
    }
    g.shl(rdx, 32)?;
    g.or(rax, rdx)
}

#[test]
fn the_counter_never_goes_back_and_tells_its_processor() {
    long(|g| {
        g.mov(ecx, TSC_AUX)?;
        g.mov(eax, 0x1234_5678)?;
        g.xor(edx, edx)?;
        g.wrmsr()?;
        read(g, false)?;
        g.mov(r8, rax)?;
        g.mov(r12, rax)?;
        g.xor(ebx, ebx)?;
        g.xor(ebp, ebp)?;
        // Upper halves are cleared.
        g.rounds(20 * HOT, |g| {
            for with_processor in [false, true] {
                g.or(rdx, -1)?;
                g.mov(rcx, rdx)?;
                g.mov(rax, rdx)?;
                read(g, with_processor)?;
                g.cmp(rax, r8)?;
                g.adc(rbx, 0)?;
                g.mov(r8, rax)?;
            }
            g.add(rbp, rcx)
        })?;
        g.expect(rbx, 0)?;
        g.expect(rbp, 0x1234_5678 * 20 * u64::from(HOT))?;
        g.sub(r8, r12)?;
        g.expect_such(r8, |ticks| (10_000..1 << 42).contains(&ticks))
    });
}

#[test]
fn flags_pass_by_a_hot_reading() {
    long(|g| {
        g.xor(ebx, ebx)?;
        g.rounds(HOT, |g| {
            g.bt(r13d, 0)?;
            g.rdtsc()?;
            g.adc(rbx, 0)
        })?;
        g.expect(rbx, u64::from(HOT) / 2)
    });
}

#[test]
fn a_hot_reading_shows_what_was_written_just_before() {
    long(|g| {
        g.xor(ebx, ebx)?;
        g.mov(ecx, TSC)?;
        g.rounds(WARM, |g| {
            g.mov(edx, r13d)?;
            g.shl(edx, 16)?;
            g.xor(eax, eax)?;
            g.wrmsr()?;
            read(g, false)?;
            g.shr(rax, 48)?;
            g.add(rbx, rax)
        })?;
        g.expect(rbx, u64::from(WARM) * u64::from(WARM + 1) / 2)
    });
}

#[test]
fn tsd_hides_the_counter_from_hot_user_code_at_once() {
    long(|g| {
        // The program, in a loop: reads, and calls the kernel, which sets TSD in the last round but one.
        g.handler(0x60, |g| {
            g.mov(rax, cr4)?;
            g.mov(rcx, rax)?;
            g.or(ecx, TSD)?;
            g.cmp(r13d, 2)?;
            g.cmove(rax, rcx)?;
            g.mov(cr4, rax)?;
            // The kernel may read it all the time.
            g.rdtsc()?;
            g.iretq()
        })?;
        g.last_gate(3, false);
        g.expect_user_fault(fault(GP).elsewhere(), |g| {
            g.rounds(WARM, |g| {
                g.rdtsc()?;
                g.int(0x60)
            })
        })?;
        g.expect(r13, 1)
    });
}

#[test]
fn processors_agree_about_the_time() {
    const LOCK: u64 = frame(0);
    const LATEST: u64 = frame(0) + 64;
    const BACK: u64 = frame(0) + 128;
    const FINISHED: u64 = frame(0) + 192;
    const OTHERS: u32 = 2;
    fn look(g: &mut Long) -> Emit {
        g.rounds(5 * HOT, |g| {
            let (mut take, mut wait, mut taken) = (g.create_label(), g.create_label(), g.create_label());
            g.place(&mut take)?;
            g.mov(eax, 1)?;
            g.xchg(dword_ptr(LOCK), eax)?;
            g.test(eax, eax)?;
            g.jz(taken)?;
            g.place(&mut wait)?;
            g.pause()?;
            g.cmp(dword_ptr(LOCK), 0)?;
            g.jne(wait)?;
            g.jmp(take)?;
            g.place(&mut taken)?;
            g.lfence()?;
            read(g, false)?;
            g.cmp(rax, qword_ptr(LATEST))?;
            g.adc(qword_ptr(BACK), 0)?;
            g.mov(qword_ptr(LATEST), rax)?;
            g.mov(dword_ptr(LOCK), 0)
        })?;
        g.lock().inc(qword_ptr(FINISHED))
    }
    long_with(OTHERS + 1, |g| {
        g.on_others(look)?;
        g.start_others(OTHERS)?;
        look(g)?;
        g.wait_for(FINISHED, OTHERS as i32 + 1)?;
        g.expect_memory(BACK, 0)
    });
}
