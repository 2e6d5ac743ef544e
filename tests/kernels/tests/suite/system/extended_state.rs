//! FXSAVE, XSAVE and their kin (APM volume 2, chapter 11).

use iced_x86::code_asm::*;
use tern_test_kernels::expect::fault;
use tern_test_kernels::expect::vector::{GP, UD};
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

pub(super) const X87: u32 = 1;
pub(super) const SSE: u32 = 2;
/// XSTATE_BV in an XSAVE area.
const XSTATE_BV: u64 = 512;
/// XCOMP_BV in an XSAVE area.
const XCOMP_BV: u64 = 520;
/// XMM0 in the area of FXSAVE and XSAVE.
const XMM0: u64 = 160;

pub(super) fn set_cr4_osxsave(g: &mut Long) -> Emit {
    g.mov(rax, cr4)?;
    g.or(eax, 1 << 18)?;
    g.mov(cr4, rax)
}

fn enable_xsave(g: &mut Long) -> Emit {
    set_cr4_osxsave(g)?;
    write_xcr0(g, X87 | SSE)
}

pub(super) fn write_xcr0(g: &mut Long, value: u32) -> Emit {
    g.xor(ecx, ecx)?;
    g.xor(edx, edx)?;
    g.mov(eax, value)?;
    g.xsetbv()
}

/// Puts a word into the low half of XMM0. RAX is lost.
fn set_xmm0(g: &mut Long, value: u64) -> Emit {
    g.mov(rax, value)?;
    g.movq(xmm0, rax)
}

#[test]
fn state_that_was_saved_comes_back() {
    long(|g| {
        set_xmm0(g, 0x1234)?;
        g.fldpi()?;
        g.fxsave64(ptr(frame(0)))?;
        g.fninit()?;
        set_xmm0(g, 0x5678)?;
        g.fxrstor64(ptr(frame(0)))?;
        g.movq(rax, xmm0)?;
        g.expect(rax, 0x1234)?;
        g.fnstsw(ax)?;
        g.shr(eax, 11)?;
        g.and(eax, 7)?;
        g.expect(rax, 7)?;
        g.fistp(qword_ptr(frame(1)))?;
        g.expect_memory(frame(1), 3)?;
        g.expect_memory(frame(0) + XMM0, 0x1234)
    });
}

#[test]
fn xsave_writes_the_components_that_are_asked_for() {
    long(|g| {
        enable_xsave(g)?;
        set_xmm0(g, 0x1234)?;
        g.fldpi()?;
        g.mov(eax, SSE)?;
        g.xor(edx, edx)?;
        g.xsave64(ptr(frame(0)))?;
        g.expect_memory(frame(0) + XSTATE_BV, SSE.into())?;
        g.expect_memory(frame(0) + XMM0, 0x1234)?;
        g.expect_memory(frame(0), 0)?;
        // What XSTATE_BV lacks is initialised by XRSTOR.
        g.mov(eax, X87 | SSE)?;
        g.mov(qword_ptr(frame(0) + XSTATE_BV), X87 as i32)?;
        g.mov(word_ptr(frame(0)), 0x37f)?;
        g.xrstor64(ptr(frame(0)))?;
        g.movq(rax, xmm0)?;
        g.expect(rax, 0)
    });
}

#[test]
fn the_compact_format_says_so() {
    long(|g| {
        enable_xsave(g)?;
        set_xmm0(g, 0x1234)?;
        g.mov(eax, X87 | SSE)?;
        g.xor(edx, edx)?;
        g.xsavec64(ptr(frame(0)))?;
        g.expect_memory(frame(0) + XCOMP_BV, 1 << 63 | 3)?;
        set_xmm0(g, 0)?;
        g.mov(eax, X87 | SSE)?;
        g.xrstor64(ptr(frame(0)))?;
        g.movq(rax, xmm0)?;
        g.expect(rax, 0x1234)
    });
}

#[test]
fn areas_with_impossible_headers_are_refused() {
    long(|g| {
        enable_xsave(g)?;
        g.mov(eax, X87 | SSE)?;
        g.xor(edx, edx)?;
        g.mov(qword_ptr(frame(0) + XSTATE_BV), 8)?;
        g.expect_fault(fault(GP), |g| g.xrstor64(ptr(frame(0))))?;
        g.mov(qword_ptr(frame(0) + XSTATE_BV), 0)?;
        g.mov(qword_ptr(frame(0) + XCOMP_BV), 1)?;
        g.expect_fault(fault(GP), |g| g.xrstor64(ptr(frame(0))))?;
        g.expect_fault(fault(GP), |g| g.xsave64(ptr(frame(0) + 16)))
    });
}

#[test]
fn xcr0_takes_what_exists_and_always_x87() {
    long(|g| {
        g.expect_fault(fault(UD), |g| g.xgetbv())?;
        g.expect_fault(fault(UD), |g| g.xsave64(ptr(frame(0))))?;
        enable_xsave(g)?;
        g.xor(ecx, ecx)?;
        g.xgetbv()?;
        g.expect(rax, 3)?;
        for value in [0, SSE, 1 << 31] {
            g.mov(eax, value)?;
            g.xor(edx, edx)?;
            g.expect_fault(fault(GP), |g| g.xsetbv())?;
        }
        g.mov(ecx, 1)?;
        g.mov(eax, 3)?;
        g.expect_fault(fault(GP), |g| g.xsetbv())?;
        g.expect_user_fault(fault(GP), |g| g.xsetbv())
    });
}
