//! Returns go where the stack says, wherever their calls were.

use iced_x86::code_asm::*;
use tern_test_kernels::long::*;

/// Enough rounds for every way that an engine has to execute them.
const ROUNDS: u32 = 3000;

#[test]
fn a_return_goes_where_its_address_says_by_now() {
    long(|g| {
        let mut elsewhere = g.create_label();
        let function = g.out_of_line(|g| {
            let mut unchanged = g.create_label();
            g.test(r13d, 3)?;
            g.jnz(unchanged)?;
            g.lea(rax, ptr(elsewhere))?;
            g.mov(qword_ptr(rsp), rax)?;
            g.place(&mut unchanged)?;
            g.ret()
        })?;
        for register in [r8, r9, r10] {
            g.xor(register, register)?;
        }
        g.rounds(ROUNDS, |g| {
            let mut next = g.create_label();
            g.call(function)?;
            g.inc(r8)?;
            g.call(function)?;
            g.inc(r9)?;
            g.jmp(next)?;
            g.place(&mut elsewhere)?;
            g.inc(r10)?;
            g.place(&mut next)?;
            g.nop()
        })?;
        let unchanged = u64::from(ROUNDS / 4 * 3);
        g.expect(r8, unchanged)?;
        g.expect(r9, unchanged)?;
        g.expect(r10, u64::from(ROUNDS) - unchanged)
    });
}

#[test]
fn every_call_of_many_is_returned_from() {
    // More than are remembered anywhere, by two calls in turn.
    const DEPTH: u64 = 1500;
    const TIMES: u32 = 50;
    long(|g| {
        let mut function = g.create_label();
        let function = g.out_of_line(|g| {
            let (mut odd, mut end) = (g.create_label(), g.create_label());
            g.place(&mut function)?;
            g.dec(ecx)?;
            g.jz(end)?;
            g.push(rcx)?;
            g.test(cl, 1)?;
            g.jnz(odd)?;
            g.call(function)?;
            g.pop(rdx)?;
            g.add(r8, rdx)?;
            g.ret()?;
            g.place(&mut odd)?;
            g.call(function)?;
            g.pop(rdx)?;
            g.add(r9, rdx)?;
            g.place(&mut end)?;
            g.ret()
        })?;
        g.xor(r8d, r8d)?;
        g.xor(r9d, r9d)?;
        g.mov(r14, rsp)?;
        g.mov(rsp, frame(8))?;
        g.rounds(TIMES, |g| {
            g.mov(ecx, DEPTH as u32)?;
            g.call(function)
        })?;
        g.mov(rsp, r14)?;
        // Of all numbers below the depth, which is even.
        let half = DEPTH / 2;
        g.expect(r8, u64::from(TIMES) * (half - 1) * half)?;
        g.expect(r9, u64::from(TIMES) * half * half)
    });
}

#[test]
fn an_address_may_be_zero_and_no_call_have_been_made() {
    long(|g| {
        let mut back = g.create_label();
        g.xor(r8d, r8d)?;
        // JMP RBX.
        g.mov(word_ptr(r8), 0xe3ff)?;
        g.lea(rbx, ptr(back))?;
        g.rounds(ROUNDS, |g| {
            g.push(0)?;
            g.ret()?;
            g.place(&mut back)?;
            g.inc(r8)
        })?;
        g.expect(r8, ROUNDS.into())
    });
}
