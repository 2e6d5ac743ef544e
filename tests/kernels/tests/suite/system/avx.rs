//! AVX, AVX2 and BMI, where the host has them: who may use them, what is saved, and hot code (APM volumes 3 and 4; volume 2,
//! section 11.5).

use iced_x86::code_asm::*;
use tern_test_kernels::expect::fault;
use tern_test_kernels::expect::vector::{GP, NM, UD};
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

use super::extended_state::{SSE, X87, set_cr4_osxsave, write_xcr0};

const AVX: u32 = 4;
/// AVX's component of an XSAVE area.
const COMPONENT: u64 = 576;

fn enable(g: &mut Long) -> Emit {
    set_cr4_osxsave(g)?;
    write_xcr0(g, X87 | SSE | AVX)
}

/// Every lane of a register is this word.
fn fill(g: &mut Long, register: AsmRegisterYmm, value: u64) -> Emit {
    g.mov(rax, value)?;
    g.push(rax)?;
    g.vpbroadcastq(register, qword_ptr(rsp))?;
    g.pop(rax)
}

/// All four words of a register must be this.
#[track_caller]
fn expect_all(g: &mut Long, register: AsmRegisterYmm, value: u64) -> Emit {
    g.vmovdqu(ymmword_ptr(frame(7)), register)?;
    for n in 0..4 {
        g.expect_memory(frame(7) + 8 * n, value)?;
    }
    Ok(())
}

#[test]
fn avx_is_undefined_until_the_system_enables_it() {
    long_with_v3(|g| {
        g.expect_fault(fault(UD), |g| g.vaddps(ymm0, ymm1, ymm2))?;
        set_cr4_osxsave(g)?;
        g.expect_fault(fault(UD), |g| g.vaddps(ymm0, ymm1, ymm2))?;
        write_xcr0(g, X87 | SSE)?;
        g.expect_fault(fault(UD), |g| g.vzeroupper())?;
        g.mov(eax, X87 | AVX)?;
        g.expect_fault(fault(GP), |g| g.xsetbv())?;
        write_xcr0(g, X87 | SSE | AVX)?;
        g.vaddps(ymm0, ymm1, ymm2)?;
        g.user(|g| g.vpxor(ymm0, ymm0, ymm0))?;
        // CR0.EM does not matter, CR0.TS does.
        g.mov(rbx, cr0)?;
        g.mov(rax, rbx)?;
        g.or(eax, 1 << 2)?;
        g.mov(cr0, rax)?;
        g.vzeroupper()?;
        g.mov(rax, rbx)?;
        g.or(eax, 1 << 3)?;
        g.mov(cr0, rax)?;
        g.expect_fault(fault(NM), |g| g.vzeroupper())?;
        // Those on general registers need none of it.
        g.mov(ecx, 0b1100)?;
        g.blsr(rax, rcx)?;
        g.expect(rax, 0b1000)?;
        g.mov(cr0, rbx)
    });
}

#[test]
fn cpuid_tells_how_large_the_area_is() {
    long_with_v3(|g| {
        enable(g)?;
        for (components, size) in [(X87 | SSE, 576), (X87 | SSE | AVX, 832)] {
            write_xcr0(g, components)?;
            for index in 0..2 {
                g.mov(eax, 0xd)?;
                g.mov(ecx, index)?;
                g.cpuid()?;
                g.expect(rbx, size)?;
            }
        }
        g.mov(eax, 0xd)?;
        g.mov(ecx, 2)?;
        g.cpuid()?;
        g.expect(rax, 256)?;
        g.expect(rbx, COMPONENT)
    });
}

#[test]
fn neither_avx_512_nor_what_the_default_model_lacks_exists() {
    const EVEX_VADDPS: [u8; 6] = [0x62, 0xf1, 0x74, 0x48, 0x58, 0xc1];
    long_with_v3(|g| {
        enable(g)?;
        g.mov(eax, 7)?;
        g.xor(ecx, ecx)?;
        g.cpuid()?;
        g.expect_such(rbx, |bits| bits >> 16 & 1 == 0 && bits >> 5 & 1 == 1)?;
        g.expect_fault(fault(UD), |g| g.db(&EVEX_VADDPS))?;
        // LZCNT and TZCNT are what they are.
        g.mov(ecx, 16)?;
        g.lzcnt(eax, ecx)?;
        g.expect(rax, 27)
    });
    long(|g| {
        set_cr4_osxsave(g)?;
        g.mov(eax, X87 | SSE | AVX)?;
        g.xor(ecx, ecx)?;
        g.xor(edx, edx)?;
        if !on_a_host_with_avx() {
            g.expect_fault(fault(GP), |g| g.xsetbv())?;
            g.expect_fault(fault(UD), |g| g.vzeroupper())?;
            g.expect_fault(fault(UD), |g| g.andn(eax, ecx, edx))?;
            g.expect_fault(fault(UD), |g| g.aesenc(xmm0, xmm1))?;
            g.expect_fault(fault(UD), |g| g.movbe(eax, dword_ptr(frame(0))))?;
            // To a processor without LZCNT it is BSR.
            g.mov(ecx, 16)?;
            g.lzcnt(eax, ecx)?;
            g.expect(rax, 4)?;
        }
        Ok(())
    });
}

/// Where instructions are the hardware's, those that CPUID does not show work all the same.
fn on_a_host_with_avx() -> bool {
    tern_test_kernels::engines().iter().any(|engine| engine.name() != "soft")
}

#[test]
fn prefixes_that_vex_replaces_are_refused_before_it() {
    long_with_v3(|g| {
        enable(g)?;
        for prefix in [0x66, 0xf2, 0xf3, 0xf0, 0x48] {
            g.expect_fault(fault(UD), |g| g.db(&[prefix, 0xc5, 0xf4, 0x58, 0xc1]))?;
        }
        // A mask that is its own destination.
        g.expect_fault(fault(UD), |g| g.db(&[0xc4, 0xe2, 0x7d, 0x90, 0x04, 0x08]))
    });
}

#[test]
fn upper_halves_are_saved_and_restored() {
    long_with_v3(|g| {
        enable(g)?;
        fill(g, ymm3, 0x1111)?;
        fill(g, ymm12, 0x2222)?;
        g.mov(eax, X87 | SSE | AVX)?;
        g.xor(edx, edx)?;
        g.xsave64(ptr(frame(0)))?;
        g.expect_memory(frame(0) + 512, 6)?;
        g.expect_memory(frame(0) + COMPONENT + 16 * 3, 0x1111)?;
        g.vzeroall()?;
        g.mov(eax, X87 | SSE | AVX)?;
        g.xrstor64(ptr(frame(0)))?;
        expect_all(g, ymm3, 0x1111)?;
        expect_all(g, ymm12, 0x2222)?;
        // SSE keeps the upper half, VEX clears it.
        g.pxor(xmm3, xmm3)?;
        g.vextracti128(xmm0, ymm3, 1)?;
        g.movq(rax, xmm0)?;
        g.expect(rax, 0x1111)?;
        g.vmovaps(xmm12, xmm12)?;
        g.mov(eax, X87 | SSE | AVX)?;
        g.xor(edx, edx)?;
        g.xsavec64(ptr(frame(1)))?;
        g.expect_memory(frame(1) + 520, 1 << 63 | 7)?;
        g.expect_memory(frame(1) + COMPONENT + 16 * 3, 0x1111)?;
        g.expect_memory(frame(1) + COMPONENT + 16 * 12, 0)?;
        g.vzeroupper()?;
        g.mov(ecx, 1)?;
        g.xgetbv()?;
        g.expect_such(rax, |in_use| in_use & 6 == 2)?;
        g.mov(eax, AVX)?;
        g.xor(edx, edx)?;
        g.xrstor64(ptr(frame(1)))?;
        g.vextracti128(xmm0, ymm3, 1)?;
        g.movq(rax, xmm0)?;
        g.expect(rax, 0x1111)
    });
}

#[test]
fn only_aligned_moves_demand_alignment() {
    long_with_v3(|g| {
        enable(g)?;
        g.expect_fault(fault(GP), |g| g.vmovdqa(ymm0, ymmword_ptr(frame(0) + 16)))?;
        g.expect_fault(fault(GP), |g| g.vmovntps(ymmword_ptr(frame(0) + 16), ymm0))?;
        g.vmovdqa(xmm0, xmmword_ptr(frame(0) + 16))?;
        g.vmovdqu(ymm0, ymmword_ptr(frame(0) + 1))?;
        g.vpaddq(ymm0, ymm0, ymmword_ptr(frame(0) + 1))?;
        g.expect_fault(fault(GP), |g| g.paddq(xmm0, xmmword_ptr(frame(0) + 1)))
    });
}

#[test]
fn elements_that_are_not_selected_are_not_accessed() {
    long_with_v3(|g| {
        enable(g)?;
        // The second of two pages does not exist: only the first two of eight words may be touched.
        g.map(0, frame(3) | 3);
        g.vpxor(ymm1, ymm1, ymm1)?;
        g.mov(rax, 0x8000_0000_8000_0000_u64)?;
        g.vmovq(xmm1, rax)?;
        g.mov(rbx, WINDOW + 0x1000 - 8)?;
        fill(g, ymm0, 0x5555_6666)?;
        g.vpmaskmovd(ymmword_ptr(rbx), ymm1, ymm0)?;
        g.expect_memory(frame(3) + 0x1000 - 8, 0x5555_6666)?;
        g.vmaskmovps(ymm2, ymm1, ymmword_ptr(rbx))?;
        g.vmovq(rax, xmm2)?;
        g.expect(rax, 0x5555_6666)?;
        // Indices 0 and -1, and others that lead nowhere.
        fill(g, ymm3, 0x7fff_ffff_7fff_ffff)?;
        g.mov(rax, 0xffff_ffff_0000_0000_u64)?;
        g.vmovq(xmm4, rax)?;
        g.vpblendd(ymm3, ymm3, ymm4, 3)?;
        // vpgatherdd ymm2, [rbx + ymm3 * 4], ymm1
        g.db(&[0xc4, 0xe2, 0x75, 0x90, 0x14, 0x9b])?;
        g.vmovq(rax, xmm2)?;
        g.expect_such(rax, |value| value as u32 == 0x5555_6666)?;
        g.vptest(ymm1, ymm1)?;
        g.setz(al)?;
        g.movzx(eax, al)?;
        g.expect(rax, 1)
    });
}

#[test]
fn hot_code_computes_with_whole_registers() {
    long_with_v3(|g| {
        enable(g)?;
        fill(g, ymm0, 1)?;
        fill(g, ymm15, 3)?;
        g.vpxor(ymm1, ymm1, ymm1)?;
        g.mov(r13d, HOT)?;
        g.mov(r9d, 5)?;
        g.xor(r10d, r10d)?;
        let mut again = g.create_label();
        g.place(&mut again)?;
        g.vpaddq(ymm1, ymm1, ymm0)?;
        g.vmovdqu(ymmword_ptr(frame(2) + 8), ymm1)?;
        g.vpaddq(ymm1, ymm15, ymmword_ptr(frame(2) + 8))?;
        g.vmovdqa(ymmword_ptr(frame(2) + 64), ymm1)?;
        g.movdqa(xmm5, xmm1)?;
        g.mulx(r11, r10, r9)?;
        g.rorx(r11, r9, 1)?;
        g.shlx(r11, r9, r13)?;
        g.dec(r13d)?;
        g.jnz(again)?;
        expect_all(g, ymm1, u64::from(HOT) * 4)?;
        g.movq(rax, xmm5)?;
        g.expect(rax, u64::from(HOT) * 4)
    });
}

#[test]
fn hot_code_crosses_pages_and_switches_between_avx_and_sse() {
    long_with_v3(|g| {
        enable(g)?;
        g.map(0, frame(3) | 3);
        g.map(1, frame(5) | 3);
        g.mov(rdi, WINDOW)?;
        g.mov(ecx, 0x2000 / 8)?;
        g.mov(eax, 1)?;
        g.rep().stosq()?;
        g.vpxor(ymm1, ymm1, ymm1)?;
        g.mov(r13d, 64)?;
        let (mut round, mut inner) = (g.create_label(), g.create_label());
        g.place(&mut round)?;
        g.mov(rbx, WINDOW + 16)?;
        g.mov(ecx, (0x2000 - 32) / 32)?;
        g.place(&mut inner)?;
        g.vpaddq(ymm1, ymm1, ymmword_ptr(rbx))?;
        g.add(rbx, 32)?;
        g.dec(ecx)?;
        g.jnz(inner)?;
        // Between, the interpreter, and SSE.
        g.mov(eax, 0x8000_0000_u32)?;
        g.cpuid()?;
        g.paddq(xmm6, xmm1)?;
        g.dec(r13d)?;
        g.jnz(round)?;
        expect_all(g, ymm1, 64 * (0x2000 - 32) / 32)
    });
}

#[test]
fn code_of_32_bits_clears_the_registers_that_it_has() {
    const ROUNDS: i32 = 100;
    const POINTER: u64 = DATA;
    long_with_v3(|g| {
        enable(g)?;
        // VZEROALL, and a far RET.
        g.narrow_code(POINTER, [0xc5, 0xfc, 0x77, 0xcb])?;
        fill(g, ymm9, 9)?;
        let mut again = g.create_label();
        g.mov(ecx, ROUNDS)?;
        g.place(&mut again)?;
        fill(g, ymm1, 1)?;
        g.call(fword_ptr(POINTER))?;
        g.dec(ecx)?;
        g.jnz(again)?;
        expect_all(g, ymm1, 0)?;
        expect_all(g, ymm9, 9)
    });
}
