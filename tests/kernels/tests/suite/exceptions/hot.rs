//! Hot code that turns on what must be looked at after each instruction: the trap flag and breakpoints (APM volume 2, section 13.1).

use iced_x86::code_asm::*;
use tern_test_kernels::expect::vector::DB;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

/// Enough rounds for the code to be hot.
const ROUNDS: u32 = 2000;
const TF: i32 = 1 << 8;
/// RFLAGS: resume, in its third byte.
const RF: i32 = 1 << 16;
/// DR7: breakpoint 0 is enabled.
const ENABLE_0: u32 = 1 << 1;
/// DR7, breakpoint 0: writes of 4 bytes.
const WRITE_4: u32 = 0xd << 16;

/// The handler counts in R8, has what is not as it should be in R12 (RIP is to be what R10 says), and clears the trap flag.
fn count_traps(g: &mut Long) -> Emit {
    g.handler(DB, |g| {
        g.inc(r8)?;
        g.push(rax)?;
        g.mov(rax, qword_ptr(rsp + 8))?;
        g.sub(rax, r10)?;
        g.or(r12, rax)?;
        g.pop(rax)?;
        g.and(dword_ptr(rsp + 16), !TF)?;
        g.or(dword_ptr(rsp + 16), RF)?;
        g.iretq()
    })?;
    g.xor(r8, r8)?;
    g.xor(r12, r12)
}

#[test]
fn popf_in_a_loop_steps_the_next_instruction() {
    long(|g| {
        count_traps(g)?;
        let mut behind = g.create_label();
        g.lea(r10, ptr(behind))?;
        g.xor(ebx, ebx)?;
        g.rounds(ROUNDS, |g| {
            g.pushfq()?;
            g.or(dword_ptr(rsp), TF)?;
            g.popfq()?;
            g.inc(ebx)?;
            g.place(&mut behind)?;
            g.inc(ebx)?;
            g.inc(ebx)
        })?;
        g.expect(r12, 0)?;
        g.expect(r8, ROUNDS.into())?;
        g.expect(rbx, (3 * ROUNDS).into())
    });
}

#[test]
fn iret_in_a_loop_steps_where_it_returns_to() {
    long(|g| {
        count_traps(g)?;
        let (mut target, mut behind) = (g.create_label(), g.create_label());
        g.lea(r10, ptr(behind))?;
        g.lea(r11, ptr(target))?;
        g.xor(ebx, ebx)?;
        g.rounds(ROUNDS, |g| {
            g.mov(rdx, rsp)?;
            g.mov(eax, ss)?;
            g.push(rax)?;
            g.push(rdx)?;
            g.pushfq()?;
            g.or(dword_ptr(rsp), TF)?;
            g.mov(eax, cs)?;
            g.push(rax)?;
            g.push(r11)?;
            g.iretq()?;
            g.place(&mut target)?;
            g.inc(ebx)?;
            g.place(&mut behind)?;
            g.inc(ebx)
        })?;
        g.expect(r12, 0)?;
        g.expect(r8, ROUNDS.into())?;
        g.expect(rbx, (2 * ROUNDS).into())
    });
}

#[test]
fn a_breakpoint_that_a_loop_sets_in_itself_is_hit_each_time() {
    long(|g| {
        count_traps(g)?;
        let mut here = g.create_label();
        g.lea(r10, ptr(here))?;
        g.mov(dr0, r10)?;
        g.xor(ebx, ebx)?;
        g.mov(r14d, ENABLE_0)?;
        g.rounds(ROUNDS, |g| {
            // In every other round.
            g.mov(eax, r13d)?;
            g.and(eax, 1)?;
            g.neg(rax)?;
            g.and(rax, r14)?;
            g.mov(dr7, rax)?;
            g.inc(ebx)?;
            g.place(&mut here)?;
            g.inc(ebx)?;
            g.inc(ebx)
        })?;
        g.expect(r12, 0)?;
        g.expect(r8, (ROUNDS / 2).into())?;
        g.expect(rbx, (3 * ROUNDS).into())
    });
}

#[test]
fn a_loop_whose_data_are_watched_only_now_and_then_traps_only_then() {
    long(|g| {
        count_traps(g)?;
        let mut behind = g.create_label();
        g.lea(r10, ptr(behind))?;
        g.mov(rbp, DATA + 0x20)?;
        g.mov(dr0, rbp)?;
        g.mov(r14d, ENABLE_0 | WRITE_4)?;
        g.mov(dword_ptr(rbp), 0)?;
        g.rounds(ROUNDS, |g| {
            g.xor(eax, eax)?;
            g.test(r13d, 0x3f)?;
            g.cmovz(eax, r14d)?;
            g.mov(dr7, rax)?;
            g.inc(dword_ptr(rbp))?;
            g.place(&mut behind)?;
            g.mov(dword_ptr(rbp + 4), ebx)
        })?;
        g.xor(eax, eax)?;
        g.mov(dr7, rax)?;
        g.expect(r12, 0)?;
        g.expect(r8, (ROUNDS / 0x40).into())?;
        g.mov(eax, dword_ptr(rbp))?;
        g.expect(rax, ROUNDS.into())
    });
}
