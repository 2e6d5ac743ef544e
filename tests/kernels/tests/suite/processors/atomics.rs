//! Locked instructions are atomic among processors.

use iced_x86::code_asm::*;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

/// Processors besides the first.
const OTHERS: u32 = 3;
/// What each processor does so often.
const ROUNDS: u32 = 10_000;
const TOTAL: u64 = ROUNDS as u64 * (OTHERS as u64 + 1);
/// The counter, and where processors tell that they are done.
const COUNTER: u64 = DATA;
const FINISHED: u64 = DATA + 0x100;

/// All processors run `step` [`ROUNDS`] times, with the counter's address in RSI; then the counter must have the sum.
fn counted(step: fn(&mut Long) -> Emit) {
    long_with(OTHERS + 1, |g| {
        let rounds = |g: &mut Long| {
            let mut again = g.create_label();
            g.mov(esi, COUNTER as u32)?;
            g.mov(ebp, ROUNDS)?;
            g.place(&mut again)?;
            step(g)?;
            g.dec(ebp)?;
            g.jnz(again)?;
            g.lock().inc(qword_ptr(FINISHED))
        };
        g.on_others(rounds)?;
        g.start_others(OTHERS)?;
        rounds(g)?;
        g.wait_for(FINISHED, OTHERS as i32 + 1)?;
        g.expect_memory(COUNTER, TOTAL)
    });
}

#[test]
fn three_processors_start_and_halt() {
    long_with(OTHERS + 1, |g| {
        g.on_others(|g| g.lock().bts(qword_ptr(COUNTER), rdi))?;
        g.start_others(OTHERS)?;
        g.wait_for(COUNTER, 0b1110)?;
        g.expect_memory(COUNTER, 0b1110)
    });
}

#[test]
fn increments_are_exact() {
    counted(|g| g.lock().inc(qword_ptr(rsi)));
}

#[test]
fn exchange_and_add_is_exact() {
    counted(|g| {
        g.mov(eax, 1)?;
        g.lock().xadd(dword_ptr(rsi), eax)
    });
}

#[test]
fn compare_and_exchange_is_exact() {
    counted(|g| {
        let mut again = g.create_label();
        g.mov(rax, qword_ptr(rsi))?;
        g.place(&mut again)?;
        g.lea(rbx, ptr(rax + 1))?;
        g.lock().cmpxchg(qword_ptr(rsi), rbx)?;
        g.jnz(again)
    });
}

#[test]
fn compare_and_exchange_of_16_bytes_is_exact_in_both_halves() {
    counted(|g| {
        let mut again = g.create_label();
        g.mov(rax, qword_ptr(rsi))?;
        g.mov(rdx, qword_ptr(rsi + 8))?;
        g.place(&mut again)?;
        g.lea(rbx, ptr(rax + 1))?;
        // The upper half is always three times the lower one; if it were not, the sum would never come out.
        g.lea(rcx, ptr(rdx + 3))?;
        g.lock().cmpxchg16b(xmmword_ptr(rsi))?;
        g.jnz(again)
    });
    long_with(2, |g| {
        g.on_others(|g| g.lock().inc(qword_ptr(FINISHED)))?;
        g.start_others(1)?;
        g.wait_for(FINISHED, 1)?;
        g.mov(esi, COUNTER as u32)?;
        g.mov(eax, 5)?;
        g.xor(edx, edx)?;
        g.lock().cmpxchg16b(xmmword_ptr(rsi))?;
        g.setz(bl)?;
        g.movzx(ebx, bl)?;
        g.expect(rbx, 0)?;
        g.expect(rax, 0)
    });
}

#[test]
fn an_exchange_is_a_lock_without_prefix() {
    counted(|g| {
        // A spin lock around a plain increment.
        let (mut take, mut wait) = (g.create_label(), g.create_label());
        g.place(&mut take)?;
        g.mov(eax, 1)?;
        g.xchg(dword_ptr(rsi + 64), eax)?;
        g.test(eax, eax)?;
        let mut taken = g.create_label();
        g.jz(taken)?;
        g.place(&mut wait)?;
        g.pause()?;
        g.cmp(dword_ptr(rsi + 64), 0)?;
        g.jne(wait)?;
        g.jmp(take)?;
        g.place(&mut taken)?;
        g.inc(qword_ptr(rsi))?;
        g.mov(dword_ptr(rsi + 64), 0)
    });
}

#[test]
fn bits_are_claimed_once() {
    // Each bit of a kilobyte is set by exactly one processor.
    const BITS: u32 = 8192;
    long_with(OTHERS + 1, |g| {
        let claim = |g: &mut Long| {
            let (mut next, mut taken) = (g.create_label(), g.create_label());
            g.xor(ebx, ebx)?;
            g.xor(ebp, ebp)?;
            g.place(&mut next)?;
            g.lock().bts(dword_ptr(DATA + 0x1000), ebx)?;
            g.jc(taken)?;
            g.inc(ebp)?;
            g.place(&mut taken)?;
            g.inc(ebx)?;
            g.cmp(ebx, BITS)?;
            g.jb(next)?;
            g.lock().add(qword_ptr(COUNTER), rbp)?;
            g.lock().inc(qword_ptr(FINISHED))
        };
        g.on_others(claim)?;
        g.start_others(OTHERS)?;
        claim(g)?;
        g.wait_for(FINISHED, OTHERS as i32 + 1)?;
        g.expect_memory(COUNTER, BITS.into())
    });
}
