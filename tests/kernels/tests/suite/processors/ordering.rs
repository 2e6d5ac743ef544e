//! The order in which processors see each other's accesses (APM volume 2, section 7.2).

use iced_x86::code_asm::*;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

const X: u64 = DATA;
const Y: u64 = DATA + 0x1000;
/// How far each side has come.
const TURNS: [u64; 2] = [DATA + 0x2000, DATA + 0x3000];
/// What each side read in the present turn.
const SEEN: [u64; 2] = [DATA + 0x4000, DATA + 0x5000];
const FINISHED: u64 = DATA + 0x6000;

#[test]
fn a_message_is_never_seen_before_what_was_written_before_it() {
    const MESSAGES: u32 = 200_000;
    long_with(2, |g| {
        g.on_others(|g| {
            let mut again = g.create_label();
            g.mov(eax, 1)?;
            g.place(&mut again)?;
            g.mov(dword_ptr(X), eax)?;
            g.mov(dword_ptr(Y), eax)?;
            g.inc(eax)?;
            g.cmp(eax, MESSAGES)?;
            g.jbe(again)
        })?;
        g.start_others(1)?;
        let (mut again, mut fine) = (g.create_label(), g.create_label());
        g.xor(ebx, ebx)?;
        g.place(&mut again)?;
        g.mov(eax, dword_ptr(Y))?;
        g.mov(ecx, dword_ptr(X))?;
        g.cmp(ecx, eax)?;
        g.jae(fine)?;
        g.inc(ebx)?;
        g.place(&mut fine)?;
        g.cmp(eax, MESSAGES)?;
        g.jne(again)?;
        g.expect(rbx, 0)
    });
}

/// Both sides write their word, do `between`, and read the other's, in many turns. R12 counts turns in which neither saw
/// the other's write, on the first processor.
fn store_buffers(between: fn(&mut Long) -> Emit, expect: fn(&mut Long) -> Emit) {
    const LAST: u32 = 800;
    long_with(2, |g| {
        // EBP is the turn. The turn begins when both have come to it.
        let side = |g: &mut Long, me: usize| {
            let (mine, other) = if me == 0 { (X, Y) } else { (Y, X) };
            let mut meet = g.create_label();
            g.mov(dword_ptr(TURNS[me]), ebp)?;
            g.place(&mut meet)?;
            g.cmp(dword_ptr(TURNS[1 - me]), ebp)?;
            g.jb(meet)?;
            g.mov(dword_ptr(mine), ebp)?;
            between(g)?;
            g.mov(eax, dword_ptr(other))?;
            g.mov(dword_ptr(SEEN[me]), eax)
        };
        // The second half of a turn: both have read, and the first side judges before the next turn begins.
        let meet_again = |g: &mut Long, me: usize| {
            let mut meet = g.create_label();
            g.inc(ebp)?;
            g.mov(dword_ptr(TURNS[me]), ebp)?;
            g.place(&mut meet)?;
            g.cmp(dword_ptr(TURNS[1 - me]), ebp)?;
            g.jb(meet)
        };
        g.on_others(|g| {
            let mut again = g.create_label();
            g.mov(ebp, 2)?;
            g.place(&mut again)?;
            side(g, 1)?;
            meet_again(g, 1)?;
            g.inc(ebp)?;
            g.cmp(ebp, LAST)?;
            g.jb(again)
        })?;
        g.start_others(1)?;
        let (mut again, mut seen) = (g.create_label(), g.create_label());
        g.xor(r12d, r12d)?;
        g.mov(ebp, 2)?;
        g.place(&mut again)?;
        side(g, 0)?;
        meet_again(g, 0)?;
        g.lea(ebx, ptr(rbp - 1))?;
        g.cmp(dword_ptr(SEEN[0]), ebx)?;
        g.je(seen)?;
        g.cmp(dword_ptr(SEEN[1]), ebx)?;
        g.je(seen)?;
        g.inc(r12d)?;
        g.place(&mut seen)?;
        g.inc(ebp)?;
        g.cmp(ebp, LAST)?;
        g.jb(again)?;
        expect(g)
    });
}

#[test]
fn stores_may_be_late_without_a_fence() {
    // Any number is right; what counts is that both sides come to the end.
    store_buffers(|_| Ok(()), |g| g.expect_such(r12, |late| late < 800));
}

#[test]
fn a_fence_or_a_locked_instruction_makes_stores_visible() {
    store_buffers(|g| g.mfence(), |g| g.expect(r12, 0));
    store_buffers(|g| g.lock().or(dword_ptr(rsp - 64), 0), |g| g.expect(r12, 0));
    store_buffers(|g| g.xchg(dword_ptr(rsp - 64), edx), |g| g.expect(r12, 0));
    store_buffers(
        |g| {
            g.xor(eax, eax)?;
            g.cpuid()
        },
        |g| g.expect(r12, 0),
    );
    store_buffers(
        |g| {
            g.mov(rax, cr3)?;
            g.mov(cr3, rax)
        },
        |g| g.expect(r12, 0),
    );
}

#[test]
fn a_compare_and_exchange_that_fails_makes_stores_visible_too() {
    store_buffers(
        |g| {
            g.mov(qword_ptr(rsp - 64), 0)?;
            g.mov(eax, 1)?;
            g.lock().cmpxchg(dword_ptr(rsp - 64), edx)
        },
        |g| g.expect(r12, 0),
    );
    store_buffers(
        |g| {
            g.mov(qword_ptr(rsp - 64), 0)?;
            g.mov(eax, 1)?;
            g.lock().cmpxchg8b(qword_ptr(rsp - 64))
        },
        |g| g.expect(r12, 0),
    );
}

#[test]
fn aligned_words_are_never_torn() {
    const WRITES: u32 = 100_000;
    long_with(2, |g| {
        g.on_others(|g| {
            let mut again = g.create_label();
            g.mov(ecx, WRITES)?;
            g.mov(rax, u64::MAX)?;
            g.place(&mut again)?;
            g.mov(qword_ptr(X), rax)?;
            g.not(rax)?;
            g.dec(ecx)?;
            g.jnz(again)?;
            g.mov(qword_ptr(FINISHED), 1)
        })?;
        g.start_others(1)?;
        let (mut again, mut whole) = (g.create_label(), g.create_label());
        g.xor(ebx, ebx)?;
        g.place(&mut again)?;
        g.mov(rax, qword_ptr(X))?;
        g.lea(rcx, ptr(rax + 1))?;
        g.cmp(rcx, 1)?;
        g.jbe(whole)?;
        g.inc(ebx)?;
        g.place(&mut whole)?;
        g.cmp(qword_ptr(FINISHED), 0)?;
        g.je(again)?;
        g.expect(rbx, 0)
    });
}
