//! x87 and MMX in hot code: the registers are the same wherever an instruction is executed (APM volumes 1, chapters 5 and 6, and 5).

use iced_x86::code_asm::*;
use tern_test_kernels::expect::fault;
use tern_test_kernels::expect::vector::{MF, NM};
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

/// FCW after FNINIT.
const NEAREST: u32 = 0x037f;
/// The same, rounding towards zero.
const TRUNCATE: u32 = 0x0f7f;
/// The same with division by zero unmasked.
const ZERO_DIVIDE_UNMASKED: u32 = 0x037b;

/// ST(0) is this integer, and is dropped.
#[track_caller]
fn expect_popped(g: &mut Long, value: u64) -> Emit {
    g.fistp(qword_ptr(frame(7)))?;
    g.expect_memory(frame(7), value)
}

#[test]
fn ten_bytes_go_to_memory_and_come_back_across_pages() {
    long(|g| {
        g.map(0, frame(3) | 3);
        g.map(1, frame(5) | 3);
        g.mov(rbx, WINDOW + 0x1000 - 5)?;
        g.mov(rcx, WINDOW + 0x1000 - 10)?;
        g.fldz()?;
        g.fstp(tbyte_ptr(rbx))?;
        g.fldz()?;
        g.fstp(tbyte_ptr(rcx - 96))?;
        g.rounds(HOT, |g| {
            g.fld(tbyte_ptr(rbx))?;
            g.fld1()?;
            g.faddp(st1, st0)?;
            g.fstp(tbyte_ptr(rbx))?;
            g.fld(tbyte_ptr(rcx - 96))?;
            g.fld1()?;
            g.fsubp(st1, st0)?;
            g.fst(st3)?;
            g.fstp(tbyte_ptr(rcx - 96))?;
            g.ffree(st2)
        })?;
        g.fld(tbyte_ptr(rbx))?;
        expect_popped(g, u64::from(HOT))?;
        g.fld(tbyte_ptr(rcx - 96))?;
        expect_popped(g, u64::from(HOT).wrapping_neg())
    });
}

#[test]
fn comparisons_set_flags_and_status() {
    long(|g| {
        g.xor(ebx, ebx)?;
        g.xor(r9d, r9d)?;
        g.fld1()?;
        g.fldz()?;
        g.rounds(WARM, |g| {
            // 0 is below 1.
            g.fcomi(st0, st1)?;
            g.adc(rbx, 0)?;
            g.fcom_2(st0, st1)?;
            g.fnstsw(ax)?;
            g.and(eax, 0x4500)?;
            g.add(r9, rax)?;
            g.fnstsw(word_ptr(frame(1)))?;
            g.stc()?;
            g.fld(st1)?;
            g.fcmovb(st0, st1)?;
            g.fstp(st0)
        })?;
        g.expect(rbx, u64::from(WARM))?;
        g.expect(r9, 0x100 * u64::from(WARM))
    });
}

#[test]
fn control_words_change_in_hot_code() {
    long(|g| {
        g.mov(dword_ptr(frame(0)), NEAREST)?;
        g.mov(dword_ptr(frame(0) + 4), TRUNCATE)?;
        g.mov(rax, 1.5f64.to_bits())?;
        g.mov(qword_ptr(frame(0) + 8), rax)?;
        g.mov(rsi, frame(0))?;
        g.xor(ebx, ebx)?;
        g.rounds(HOT, |g| {
            g.fld(qword_ptr(rsi + 8))?;
            g.fldcw(word_ptr(rsi + 4))?;
            g.fist(dword_ptr(rsi + 16))?;
            g.fldcw(word_ptr(rsi))?;
            g.fistp(dword_ptr(rsi + 20))?;
            g.fnstcw(word_ptr(rsi + 24))?;
            g.mov(eax, dword_ptr(rsi + 16))?;
            g.add(rbx, rax)?;
            g.mov(eax, dword_ptr(rsi + 20))?;
            g.add(rbx, rax)?;
            g.movzx(eax, word_ptr(rsi + 24))?;
            g.add(rbx, rax)
        })?;
        g.expect(rbx, u64::from(HOT) * u64::from(1 + 2 + NEAREST))
    });
}

#[test]
fn an_exception_that_becomes_unmasked_in_hot_code_is_raised() {
    long(|g| {
        g.mov(ecx, ZERO_DIVIDE_UNMASKED)?;
        g.expect_fault(fault(MF).elsewhere(), |g| {
            g.rounds(WARM, |g| {
                g.mov(eax, NEAREST)?;
                g.cmp(r13d, 1)?;
                g.cmove(eax, ecx)?;
                g.mov(dword_ptr(frame(0)), eax)?;
                g.fldcw(word_ptr(frame(0)))?;
                g.fnclex()?;
                g.fld1()?;
                g.fldz()?;
                g.fdivp(st1, st0)?;
                g.fstp(st0)
            })
        })?;
        g.expect(r13, 1)?;
        g.fnstsw(ax)?;
        g.and(eax, 0x84)?;
        g.expect(rax, 0x84)?;
        g.fnclex()?;
        // And masked again.
        g.fstp(st0)?;
        g.mov(dword_ptr(frame(0)), NEAREST)?;
        g.fldcw(word_ptr(frame(0)))?;
        g.rounds(WARM, |g| {
            g.fld1()?;
            g.fldz()?;
            g.fdivp(st1, st0)?;
            g.fstp(st0)
        })
    });
}

#[test]
fn mmx_registers_are_the_same_to_every_instruction() {
    long(|g| {
        g.mov(rax, 0x0000_0001_0000_0002_u64)?;
        g.mov(qword_ptr(frame(0)), rax)?;
        g.xor(ebx, ebx)?;
        g.movq(mm1, qword_ptr(frame(0)))?;
        g.pxor(mm0, mm0)?;
        g.pxor(xmm2, xmm2)?;
        g.rounds(HOT, |g| {
            g.paddd(mm0, mm1)?;
            g.movq(qword_ptr(frame(1)), mm0)?;
            g.movq2dq(xmm1, mm0)?;
            g.paddd(xmm2, xmm1)?;
            g.movdq2q(mm0, xmm1)?;
            g.movd(r9d, mm1)?;
            g.add(rbx, r9)?;
            g.pinsrw(mm3, r9d, 1)
        })?;
        g.expect_memory(frame(1), u64::from(HOT) << 32 | u64::from(2 * HOT))?;
        g.expect(rbx, 2 * u64::from(HOT))?;
        // All registers are in use, and none after EMMS.
        g.fxsave(ptr(frame(2)))?;
        g.movzx(eax, byte_ptr(frame(2) + 4))?;
        g.expect(rax, 0xff)?;
        g.rounds(WARM, |g| {
            g.paddd(mm0, mm1)?;
            g.emms()?;
            g.fld1()?;
            g.fstp(st0)
        })?;
        g.fxsave(ptr(frame(2)))?;
        g.movzx(eax, byte_ptr(frame(2) + 4))?;
        g.expect(rax, 0)
    });
}

#[test]
fn what_saves_and_restores_the_registers_finds_those_of_hot_code() {
    long(|g| {
        g.xor(ebx, ebx)?;
        g.fldz()?;
        g.rounds(WARM, |g| {
            g.fld1()?;
            g.faddp(st1, st0)?;
            g.fxsave(ptr(frame(0)))?;
            g.fstp(st0)?;
            g.fninit()?;
            g.fld1()?;
            g.fxrstor(ptr(frame(0)))?;
            g.fnsave(ptr(frame(1)))?;
            g.frstor(ptr(frame(1)))?;
            g.fist(dword_ptr(frame(2)))?;
            g.mov(eax, dword_ptr(frame(2)))?;
            g.add(rbx, rax)?;
            // Between, something else that is left to the interpreter.
            g.push(rbx)?;
            g.xor(eax, eax)?;
            g.cpuid()?;
            g.pop(rbx)
        })?;
        expect_popped(g, u64::from(WARM))?;
        g.expect(rbx, u64::from(WARM) * (u64::from(WARM) + 1) / 2)
    });
}

#[test]
fn no_address_of_the_host_is_found_where_instructions_are_noted() {
    // Hardware notes the guest's own.
    if tern_test_kernels::engines().iter().any(|engine| engine.name() != "soft") {
        return;
    }
    long(|g| {
        g.rounds(HOT, |g| {
            g.fld(qword_ptr(frame(3)))?;
            g.fstp(qword_ptr(frame(3)))?;
            g.fxsave64(ptr(frame(0)))?;
            g.fnstenv(ptr(frame(1)))
        })?;
        g.movzx(eax, word_ptr(frame(0) + 6))?;
        g.expect(rax, 0)?;
        g.expect_memory(frame(0) + 8, 0)?;
        g.expect_memory(frame(0) + 16, 0)?;
        g.expect_memory(frame(1) + 12, 0)?;
        g.expect_memory(frame(1) + 20, 0xffff_0000_0000_0000)
    });
}

#[test]
fn hot_code_without_the_unit_is_told_so() {
    const TS: i32 = 1 << 3;
    long(|g| {
        g.mov(rcx, cr0)?;
        g.mov(rdx, rcx)?;
        g.or(edx, TS)?;
        g.fldz()?;
        g.expect_fault(fault(NM).elsewhere(), |g| {
            g.rounds(WARM, |g| {
                g.cmp(r13d, 1)?;
                g.mov(rax, rcx)?;
                g.cmove(rax, rdx)?;
                g.mov(cr0, rax)?;
                g.fld1()?;
                g.faddp(st1, st0)
            })
        })?;
        g.expect(r13, 1)?;
        g.clts()?;
        expect_popped(g, u64::from(WARM) - 1)
    });
}

#[test]
fn a_handler_that_uses_the_unit_between_takes_nothing_away() {
    const VECTOR: u8 = 0x30;
    long(|g| {
        g.handler(VECTOR, |g| {
            g.fnsave(ptr(frame(4)))?;
            g.fld1()?;
            g.fadd_2(st0, st0)?;
            g.fstp(qword_ptr(frame(5)))?;
            g.frstor(ptr(frame(4)))?;
            g.iretq()
        })?;
        g.fldz()?;
        g.rounds(WARM, |g| {
            g.fld1()?;
            g.int(i32::from(VECTOR))?;
            g.faddp(st1, st0)
        })?;
        expect_popped(g, u64::from(WARM))?;
        g.expect_memory(frame(5), 2f64.to_bits())
    });
}
