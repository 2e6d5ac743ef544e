//! RDTSC and RDTSCP in hot code: the counter goes forward, is the same on all processors, and changes when it is changed (APM
//! volume 3).

use std::thread;
use std::time::Duration;

use iced_x86::code_asm::*;
use tern_test_kernels::expect::fault;
use tern_test_kernels::expect::vector::GP;
use tern_test_kernels::guest::{Emit, place};
use tern_test_kernels::long::*;
use tern_test_kernels::protected::protected;
use tern_test_kernels::run::{Setup, run_with};
use tern_vmm::boot::KernelKind;
use tern_vmm::machine::End;

const TSC: u32 = 0x10;
const TSC_AUX: u32 = 0xc000_0103;
/// Time-stamp disable in CR4.
const TSD: i32 = 1 << 2;

/// The counter into RAX. RDX is lost.
fn read(g: &mut Long) -> Emit {
    g.rdtsc()?;
    g.shl(rdx, 32)?;
    g.or(rax, rdx)
}

/// A reading in EDX:EAX becomes the latest, R8; RBX counts how often it was less than the one before.
fn compare_with_latest(g: &mut Long) -> Emit {
    g.shl(rdx, 32)?;
    g.or(rax, rdx)?;
    g.cmp(rax, r8)?;
    g.adc(rbx, 0)?;
    g.mov(r8, rax)
}

/// Lets so much time pass that code need not ask for the time: some 10 milliseconds.
fn settle(g: &mut Long) -> Emit {
    let mut again = g.create_label();
    read(g)?;
    g.mov(r8, rax)?;
    g.place(&mut again)?;
    read(g)?;
    g.sub(rax, r8)?;
    g.cmp(rax, 50_000_000)?;
    g.jb(again)
}

#[test]
fn the_counter_never_goes_back_and_tells_its_processor() {
    long(|g| {
        g.mov(ecx, TSC_AUX)?;
        g.mov(eax, 0x1234_5678)?;
        g.xor(edx, edx)?;
        g.wrmsr()?;
        read(g)?;
        g.mov(r8, rax)?;
        g.mov(r12, rax)?;
        for sum in [rbx, rbp, rsi] {
            g.xor(sum, sum)?;
        }
        g.rounds(60 * HOT, |g| {
            for with_processor in [false, true] {
                // Upper halves are cleared.
                for register in [rax, rcx, rdx] {
                    g.or(register, -1)?;
                }
                if with_processor {
                    g.rdtscp()?;
                    g.add(rbp, rcx)?;
                } else {
                    g.rdtsc()?;
                }
                for register in [rax, rdx] {
                    g.mov(rdi, register)?;
                    g.shr(rdi, 32)?;
                    g.add(rsi, rdi)?;
                }
                compare_with_latest(g)?;
            }
            Ok(())
        })?;
        g.expect(rbx, 0)?;
        g.expect(rsi, 0)?;
        g.expect(rbp, 0x1234_5678 * 60 * u64::from(HOT))?;
        g.sub(r8, r12)?;
        g.expect_such(r8, |ticks| (10_000..1 << 42).contains(&ticks))
    });
}

#[test]
fn code_of_32_bits_reads_the_same() {
    protected(|g| {
        let mut again = g.create_label();
        g.mov(ebp, 60 * HOT)?;
        g.xor(ebx, ebx)?;
        g.rdtsc()?;
        g.mov(esi, eax)?;
        g.mov(edi, edx)?;
        place(g, &mut again)?;
        g.rdtsc()?;
        g.cmp(eax, esi)?;
        g.mov(ecx, edx)?;
        g.sbb(ecx, edi)?;
        g.adc(ebx, 0)?;
        g.mov(esi, eax)?;
        g.mov(edi, edx)?;
        g.dec(ebp)?;
        g.jnz(again)?;
        g.expect(ebx, 0)
    });
}

#[test]
fn flags_pass_by_a_hot_reading() {
    long(|g| {
        settle(g)?;
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
fn hot_readings_show_what_was_written_just_before() {
    long(|g| {
        settle(g)?;
        g.xor(ebx, ebx)?;
        g.mov(ecx, TSC)?;
        g.rounds(WARM, |g| {
            g.mov(edx, r13d)?;
            g.shl(edx, 16)?;
            g.xor(eax, eax)?;
            g.wrmsr()?;
            for _ in 0..3 {
                read(g)?;
                g.shr(rax, 48)?;
                g.add(rbx, rax)?;
            }
            Ok(())
        })?;
        g.expect(rbx, 3 * u64::from(WARM) * u64::from(WARM + 1) / 2)
    });
}

#[test]
fn tsd_hides_the_counter_from_hot_user_code_at_once() {
    for with_processor in [false, true] {
        long(|g| {
            // The program reads in a loop, and calls the kernel, which sets TSD in the last round but one.
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
            settle(g)?;
            g.expect_user_fault(fault(GP).elsewhere(), |g| {
                g.rounds(WARM, |g| {
                    for (register, value) in [(rax, 1_u64), (rcx, 2), (rdx, 3)] {
                        g.mov(register, value)?;
                    }
                    if with_processor {
                        g.rdtscp()?;
                    } else {
                        g.rdtsc()?;
                    }
                    g.int(0x60)
                })
            })?;
            // A fault has changed nothing.
            g.expect(rax, 1)?;
            g.expect(rcx, 2)?;
            g.expect(rdx, 3)?;
            g.expect(r13, 1)
        });
    }
}

#[test]
fn time_never_goes_back_over_a_pause_of_the_machine() {
    let (image, expectations) = build(|g| {
        g.xor(ebx, ebx)?;
        g.xor(r8d, r8d)?;
        g.mov(ecx, TSC)?;
        g.rounds(5 * HOT, |g| {
            for n in 0..40 {
                // RDMSR asks for the time.
                if n == 0 {
                    g.rdmsr()?;
                } else {
                    g.rdtsc()?;
                }
                compare_with_latest(g)?;
            }
            Ok(())
        })?;
        g.expect(rbx, 0)
    });
    for engine in tern_test_kernels::engines() {
        let ended = run_with(&*engine, &Setup::new(image.clone(), KernelKind::Elf), |handle| {
            for _ in 0..8 {
                thread::sleep(Duration::from_millis(5));
                handle.pause();
                thread::sleep(Duration::from_millis(15));
                handle.resume();
            }
        });
        assert!(matches!(ended.end, End::DebugExit(_)), "{:?}", ended.end);
        expectations.compare(&ended.words()).unwrap();
    }
}

#[test]
fn processors_agree_about_the_time() {
    const LOCK: u64 = frame(0);
    const LATEST: u64 = frame(0) + 64;
    const BACK: u64 = frame(0) + 128;
    const FINISHED: u64 = frame(0) + 192;
    const OTHERS: u32 = 2;
    fn look(g: &mut Long) -> Emit {
        g.rounds(10 * HOT, |g| {
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
            read(g)?;
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
