//! Model-specific registers (APM volume 2, appendix A).

use iced_x86::code_asm::*;
use tern_test_kernels::expect::fault;
use tern_test_kernels::expect::vector::GP;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

const TSC: u32 = 0x10;
const PAT: u32 = 0x277;
const EFER: u32 = 0xc000_0080;
const LSTAR: u32 = 0xc000_0082;
const FS_BASE: u32 = 0xc000_0100;
const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;
const LOWEST_NOT_CANONICAL: u64 = 0x0000_8000_0000_0000;

/// Loads the operands of WRMSR.
fn operands(g: &mut Long, number: u32, value: u64) -> Emit {
    g.mov(ecx, number)?;
    g.mov(eax, value as u32)?;
    g.mov(edx, (value >> 32) as u32)
}

fn write(g: &mut Long, number: u32, value: u64) -> Emit {
    operands(g, number, value)?;
    g.wrmsr()
}

/// Reads a register into RAX. RCX and RDX are lost.
fn read(g: &mut Long, number: u32) -> Emit {
    g.mov(ecx, number)?;
    g.rdmsr()?;
    g.shl(rdx, 32)?;
    g.or(rax, rdx)
}

#[test]
fn numbers_that_do_not_exist_are_refused() {
    long(|g| {
        for number in [0x8000_0000_u32, 0x4000_1234, 0xc001_ffff, 0x1234_5678] {
            g.mov(ecx, number)?;
            g.expect_fault(fault(GP), |g| g.rdmsr())?;
            g.expect_fault(fault(GP), |g| g.wrmsr())?;
        }
        Ok(())
    });
}

#[test]
fn values_that_are_not_canonical_or_reserved_are_refused() {
    long(|g| {
        for (number, value) in [
            (FS_BASE, LOWEST_NOT_CANONICAL),
            (KERNEL_GS_BASE, LOWEST_NOT_CANONICAL),
            (LSTAR, LOWEST_NOT_CANONICAL),
            (EFER, 0xd01 | 1 << 40),
            (PAT, 2),
        ] {
            operands(g, number, value)?;
            g.expect_fault(fault(GP), |g| g.wrmsr())?;
        }
        Ok(())
    });
}

#[test]
fn long_mode_cannot_be_disabled_while_paging_is_on() {
    long(|g| {
        read(g, EFER)?;
        g.expect(rax, 0xd01)?;
        operands(g, EFER, 0x801)?;
        g.expect_fault(fault(GP), |g| g.wrmsr())?;
        // LMA is the processor's own.
        write(g, EFER, 0x901)?;
        read(g, EFER)?;
        g.expect(rax, 0xd01)
    });
}

#[test]
fn control_registers_refuse_states_that_cannot_be() {
    const PAE: u32 = 1 << 5;
    const PE: u32 = 1;
    const PG: u32 = 1 << 31;
    long(|g| {
        g.mov(rax, cr4)?;
        g.and(eax, !PAE)?;
        g.expect_fault(fault(GP), |g| g.mov(cr4, rax))?;
        g.mov(rax, cr4)?;
        g.or(eax, 1 << 31)?;
        g.expect_fault(fault(GP), |g| g.mov(cr4, rax))?;
        for clear in [PE, PG] {
            g.mov(rax, cr0)?;
            g.and(eax, !clear)?;
            g.expect_fault(fault(GP), |g| g.mov(cr0, rax))?;
        }
        g.mov(rax, cr0)?;
        g.or(eax, 1 << 29)?; // NW without CD
        g.expect_fault(fault(GP), |g| g.mov(cr0, rax))?;
        g.mov(eax, 16)?;
        g.expect_fault(fault(GP), |g| g.mov(cr8, rax))
    });
}

#[test]
fn fs_and_gs_bases_move_their_segments() {
    long(|g| {
        g.put(frame(0) + 8, &[0xf5]);
        g.put(frame(1) + 8, &[0x65]);
        write(g, FS_BASE, frame(0))?;
        write(g, GS_BASE, frame(1))?;
        g.mov(rax, qword_ptr(8).fs())?;
        g.expect(rax, 0xf5)?;
        g.mov(rax, qword_ptr(8).gs())?;
        g.expect(rax, 0x65)?;
        read(g, FS_BASE)?;
        g.expect(rax, frame(0))?;
        // The sum wraps, and must be canonical.
        write(g, GS_BASE, u64::MAX)?;
        g.mov(ebx, (frame(0) + 9) as u32)?;
        g.mov(rax, qword_ptr(rbx).gs())?;
        g.expect(rax, 0xf5)?;
        g.mov(rbx, LOWEST_NOT_CANONICAL)?;
        g.expect_fault(fault(GP), |g| g.mov(rax, qword_ptr(rbx).fs()))
    });
}

#[test]
fn swapgs_exchanges_the_bases() {
    long(|g| {
        write(g, GS_BASE, 0x1000)?;
        write(g, KERNEL_GS_BASE, 0x2000)?;
        g.swapgs()?;
        read(g, GS_BASE)?;
        g.expect(rax, 0x2000)?;
        read(g, KERNEL_GS_BASE)?;
        g.expect(rax, 0x1000)
    });
}

#[test]
fn base_instructions_work_in_user_mode_once_enabled() {
    const FSGSBASE: u32 = 1 << 16;
    long(|g| {
        g.expect_user_fault(fault(6), |g| g.rdfsbase(rax))?;
        g.mov(rax, cr4)?;
        g.or(eax, FSGSBASE)?;
        g.mov(cr4, rax)?;
        g.mov(rbx, 0x1234_5678_9000_u64)?;
        g.user(|g| {
            g.wrfsbase(rbx)?;
            g.wrgsbase(rbx)?;
            g.rdfsbase(r12)?;
            g.rdgsbase(r13)
        })?;
        g.expect(r12, 0x1234_5678_9000)?;
        g.expect(r13, 0x1234_5678_9000)?;
        g.mov(rbx, LOWEST_NOT_CANONICAL)?;
        g.expect_user_fault(fault(GP), |g| g.wrfsbase(rbx))
    });
}

#[test]
fn the_time_stamp_counter_grows_and_can_be_set() {
    long(|g| {
        g.mov(ecx, TSC)?;
        g.rdtsc()?;
        g.shl(rdx, 32)?;
        g.lea(rbx, ptr(rax + rdx))?;
        g.spin(1000)?;
        g.rdtsc()?;
        g.shl(rdx, 32)?;
        g.or(rax, rdx)?;
        g.sub(rax, rbx)?;
        g.expect_such(rax, |ticks| ticks > 0 && ticks < 1 << 40)?;
        write(g, TSC, 1 << 50)?;
        read(g, TSC)?;
        g.expect_such(rax, |now| (1 << 50..1 << 51).contains(&now))?;
        write(g, TSC_AUX, 0x77)?;
        g.rdtscp()?;
        g.expect(rcx, 0x77)?;
        // The upper half is ignored, as AMD's processors do.
        write(g, TSC_AUX, 1 << 40 | 0x78)?;
        g.rdtscp()?;
        g.expect(rcx, 0x78)
    });
}

#[test]
fn tsd_keeps_the_time_stamp_counter_from_user_mode() {
    const TSD: u32 = 1 << 2;
    long(|g| {
        g.user(|g| g.rdtsc())?;
        g.mov(rax, cr4)?;
        g.or(eax, TSD)?;
        g.mov(cr4, rax)?;
        g.rdtsc()?;
        g.expect_user_fault(fault(GP), |g| g.rdtsc())
    });
}
