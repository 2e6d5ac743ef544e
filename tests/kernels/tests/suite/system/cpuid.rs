//! CPUID says what is true (APM volume 3, appendix D and E).

use iced_x86::code_asm::*;
use tern_test_kernels::expect::fault;
use tern_test_kernels::expect::vector::GP;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

fn cpuid(g: &mut Long, function: u32, index: u32) -> Emit {
    g.mov(eax, function)?;
    g.mov(ecx, index)?;
    g.cpuid()
}

#[test]
fn the_x86_64_v2_level_is_announced() {
    long(|g| {
        cpuid(g, 0, 0)?;
        g.expect_such(rax, |largest| largest >= 0xd)?;
        cpuid(g, 1, 0)?;
        // SSE3, SSSE3, CMPXCHG16B, SSE4.1, SSE4.2, POPCNT.
        let needed = 1 << 0 | 1 << 9 | 1 << 13 | 1 << 19 | 1 << 20 | 1 << 23;
        g.expect_such(rcx, move |bits| bits & needed == needed)?;
        // FPU, TSC, MSR, PAE, CX8, APIC, SEP, PGE, CMOV, PAT, FXSR, SSE, SSE2.
        let needed =
            1 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 8 | 1 << 9 | 1 << 11 | 1 << 13 | 1 << 15 | 1 << 16 | 7 << 24;
        g.expect_such(rdx, move |bits| bits & needed == needed)?;
        cpuid(g, 0x8000_0001, 0)?;
        g.expect_such(rcx, |bits| bits & 1 == 1)?;
        let needed = 1 << 11 | 1 << 20 | 1 << 29;
        g.expect_such(rdx, move |bits| bits & needed == needed)
    });
}

#[test]
fn the_upper_halves_of_the_registers_are_cleared() {
    long(|g| {
        g.mov(rbx, u64::MAX)?;
        g.mov(rdx, u64::MAX)?;
        g.mov(rax, u64::MAX << 32)?;
        g.xor(ecx, ecx)?;
        g.cpuid()?;
        for register in [rax, rbx, rcx, rdx] {
            g.expect_such(register, |value| value >> 32 == 0)?;
        }
        Ok(())
    });
}

#[test]
fn what_is_announced_can_be_enabled_and_nothing_else() {
    // Register (1 EBX, 2 ECX, 3 EDX), bit, function, bit of CR4.
    for (register, bit, function, enable) in
        [(1, 7, 7, 20), (1, 20, 7, 21), (2, 2, 7, 11), (2, 17, 1, 17), (1, 0, 7, 16)]
    {
        long(|g| {
            cpuid(g, function, 0)?;
            if register == 1 {
                g.mov(ecx, ebx)?;
            }
            g.shr(ecx, bit)?;
            g.and(ecx, 1)?;
            // The feature's bit of CR4 is accepted if and only if the feature is announced.
            g.mov(rax, cr4)?;
            g.bts(eax, enable)?;
            let mut refused = g.create_label();
            let mut done = g.create_label();
            g.handler(GP, |g| {
                g.add(rsp, 8)?;
                g.lea(rbx, ptr(refused))?;
                g.mov(qword_ptr(rsp), rbx)?;
                g.iretq()
            })?;
            g.mov(cr4, rax)?;
            g.mov(edx, 1)?;
            g.jmp(done)?;
            g.place(&mut refused)?;
            g.xor(edx, edx)?;
            g.place(&mut done)?;
            g.xor(ecx, edx)?;
            g.expect(rcx, 0)
        });
    }
    long(|g| {
        g.mov(rax, cr4)?;
        g.or(eax, 1 << 24)?; // protection keys for supervisor pages
        g.expect_fault(fault(GP), |g| g.mov(cr4, rax))
    });
}

#[test]
fn osxsave_follows_cr4() {
    const OSXSAVE: u32 = 27;
    long(|g| {
        cpuid(g, 1, 0)?;
        g.expect_such(rcx, |bits| bits >> OSXSAVE & 1 == 0)?;
        g.mov(rax, cr4)?;
        g.or(eax, 1 << 18)?;
        g.mov(cr4, rax)?;
        cpuid(g, 1, 0)?;
        g.expect_such(rcx, |bits| bits >> OSXSAVE & 1 == 1)
    });
}

#[test]
fn every_processor_is_told_its_own_apic_id() {
    long_with(3, |g| {
        g.on_others(|g| {
            g.mov(esi, edi)?;
            cpuid(g, 1, 0)?;
            g.shr(ebx, 24)?;
            g.mov(dword_ptr(rsi * 8 + DATA), ebx)?;
            cpuid(g, 0xb, 0)?;
            g.mov(dword_ptr(rsi * 8 + DATA + 4), edx)?;
            g.lock().inc(qword_ptr(DATA))
        })?;
        g.start_others(2)?;
        g.wait_for(DATA, 2)?;
        g.expect_memory(DATA + 8, 1 << 32 | 1)?;
        g.expect_memory(DATA + 16, 2 << 32 | 2)?;
        cpuid(g, 1, 0)?;
        g.shr(ebx, 16)?;
        g.expect(rbx, 3)
    });
}
