//! #NM, #MF and #XF (APM volume 2, sections 8.2.8, 8.2.17 and 8.2.20).

use iced_x86::code_asm::*;
use tern_test_kernels::expect::fault;
use tern_test_kernels::expect::vector::{GP, MF, NM, UD, XF};
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

/// CR0: monitor coprocessor.
const MP: u32 = 1 << 1;
/// CR0: emulate coprocessor.
const EM: u32 = 1 << 2;
/// CR0: task switched.
const TS: u32 = 1 << 3;
/// CR4: FXSAVE and SSE are enabled.
const OSFXSR: u32 = 1 << 9;
/// CR4: SSE exceptions are #XF.
const OSXMMEXCPT: u32 = 1 << 10;

/// Where FXSAVE writes.
const IMAGE: u64 = frame(0);
/// FCW and FSW: division by zero is unmasked and has happened, and the stack's top is 6. FTW: two registers are in use.
const PENDING: u64 = 0x037b | (0xb084 << 16) | (0xc0 << 32);

fn change_cr0(g: &mut Long, clear: u32, set: u32) -> Emit {
    g.mov(rax, cr0)?;
    g.and(eax, !clear)?;
    g.or(eax, set)?;
    g.mov(cr0, rax)
}

#[test]
fn task_switched_makes_the_unit_unavailable_until_clts() {
    long(|g| {
        change_cr0(g, 0, TS)?;
        g.expect_fault(fault(NM), |g| g.fld1())?;
        g.expect_fault(fault(NM), |g| g.movaps(xmm0, xmm1))?;
        g.expect_fault(fault(NM), |g| g.wait())?;
        g.expect_fault(fault(NM), |g| g.fxsave(ptr(frame(0))))?;
        g.expect_user_fault(fault(NM), |g| g.paddb(xmm0, xmm1))?;
        g.clts()?;
        g.fld1()?;
        g.movaps(xmm0, xmm1)?;
        // WAIT heeds it only together with MP.
        change_cr0(g, MP, TS)?;
        g.wait()?;
        g.expect_fault(fault(NM), |g| g.fld1())
    });
}

#[test]
fn emulation_hands_x87_to_a_handler_and_forbids_sse() {
    long(|g| {
        change_cr0(g, 0, EM)?;
        g.expect_fault(fault(NM), |g| g.fld1())?;
        g.expect_fault(fault(UD), |g| g.movaps(xmm0, xmm1))?;
        g.expect_fault(fault(UD), |g| g.pxor(mm0, mm1))
    });
}

#[test]
fn without_osfxsr_there_is_no_sse() {
    long(|g| {
        g.mov(rax, cr4)?;
        g.and(eax, !OSFXSR)?;
        g.mov(cr4, rax)?;
        g.expect_fault(fault(UD), |g| g.movaps(xmm0, xmm1))?;
        g.fld1()
    });
}

#[test]
fn an_unmasked_x87_exception_is_reported_by_the_next_waiting_instruction() {
    long(|g| {
        g.mov(word_ptr(frame(0)), 0x37b)?; // zero-divide unmasked
        g.fldcw(word_ptr(frame(0)))?;
        g.fld1()?;
        g.fldz()?;
        g.fdivp(st1, st0)?;
        g.expect_fault(fault(MF), |g| g.wait())?;
        g.expect_fault(fault(MF), |g| g.fld1())?;
        // Instructions that do not wait see it as status.
        g.fnstsw(ax)?;
        g.and(eax, 0x84)?;
        g.expect(rax, 0x84)?;
        g.fnclex()?;
        g.wait()
    });
}

#[test]
fn an_unmasked_sse_exception_is_a_fault_of_the_instruction() {
    long(|g| {
        g.mov(dword_ptr(frame(0)), 0x1d80)?; // zero-divide unmasked
        g.ldmxcsr(dword_ptr(frame(0)))?;
        g.mov(eax, 1)?;
        g.cvtsi2sd(xmm0, eax)?;
        g.xorps(xmm1, xmm1)?;
        g.expect_fault(fault(XF), |g| g.divsd(xmm0, xmm1))?;
        g.cvttsd2si(rbx, xmm0)?;
        g.expect(rbx, 1)?;
        g.stmxcsr(dword_ptr(frame(0)))?;
        g.expect_memory(frame(0), 0x1d84)?;
        g.mov(rax, cr4)?;
        g.and(eax, !OSXMMEXCPT)?;
        g.mov(cr4, rax)?;
        g.expect_fault(fault(UD), |g| g.divsd(xmm0, xmm1))
    });
}

#[test]
fn integers_from_memory_are_converted_without_a_look_at_the_x87_registers() {
    long(|g| {
        let mut again = g.create_label();
        g.put(frame(1), &[7 << 32 | 3]);
        // 1/0, which waits to be reported by an instruction that looks.
        g.mov(dword_ptr(frame(2)), 0x037b)?;
        g.fldcw(word_ptr(frame(2)))?;
        g.fld1()?;
        g.fldz()?;
        g.fdivp(st1, st0)?;
        g.mov(ecx, 100)?;
        g.place(&mut again)?;
        g.pxor(xmm0, xmm0)?;
        g.cvtpi2ps(xmm0, qword_ptr(frame(1)))?;
        g.cvtpi2pd(xmm1, qword_ptr(frame(1)))?;
        g.dec(ecx)?;
        g.jnz(again)?;
        g.fxsave(ptr(IMAGE))?;
        g.mov(rax, qword_ptr(IMAGE))?;
        g.shl(rax, 24)?;
        g.shr(rax, 24)?;
        g.expect(rax, PENDING)?;
        g.movq(rax, xmm0)?;
        g.expect(rax, u64::from(3f32.to_bits()) | u64::from(7f32.to_bits()) << 32)?;
        g.movq(rax, xmm1)?;
        g.expect(rax, 3f64.to_bits())?;
        // The same from a register enters MMX mode, and looks.
        g.expect_fault(fault(MF), |g| g.cvtpi2pd(xmm0, mm0))
    });
}

/// A loop in which MXCSR is `last` in the last of a hundred rounds, and before rounds up and down in turn; RBX is the sum of what 1.5
/// was rounded to.
fn mxcsr_in_hot_code(g: &mut Long, last: u32) -> Emit {
    let (up, down) = (0x5f80, 0x3f80);
    g.mov(rax, 1.5f64.to_bits())?;
    g.movq(xmm0, rax)?;
    g.xor(ebx, ebx)?;
    g.mov(r13d, 100)?;
    let mut again = g.create_label();
    g.place(&mut again)?;
    g.mov(eax, up)?;
    g.mov(ecx, down)?;
    g.test(r13d, 1)?;
    g.cmovz(eax, ecx)?;
    g.mov(ecx, last)?;
    g.cmp(r13d, 1)?;
    g.cmovz(eax, ecx)?;
    g.mov(dword_ptr(frame(0)), eax)?;
    g.ldmxcsr(dword_ptr(frame(0)))?;
    g.cvtsd2si(rax, xmm0)?;
    g.add(rbx, rax)?;
    g.stmxcsr(dword_ptr(frame(1)))?;
    g.dec(r13d)?;
    g.jnz(again)
}

#[test]
fn mxcsr_changes_in_hot_code() {
    const TRUNCATE: u32 = 0x7f80;
    const INEXACT_UNMASKED: u32 = 0x0f80;
    const RESERVED: u32 = 0x1_1f80;
    long(|g| {
        mxcsr_in_hot_code(g, TRUNCATE)?;
        g.expect(rbx, 50 + 2 * 49 + 1)?;
        g.mov(eax, dword_ptr(frame(1)))?;
        g.expect(rax, u64::from(TRUNCATE) | 0x20)?;
        g.expect_fault(fault(XF).elsewhere(), |g| mxcsr_in_hot_code(g, INEXACT_UNMASKED))?;
        g.expect(r13, 1)?;
        g.expect_fault(fault(GP).elsewhere(), |g| mxcsr_in_hot_code(g, RESERVED))?;
        g.expect(r13, 1)
    });
}
