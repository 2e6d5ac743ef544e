//! Hot code that turns on what must be looked at after each instruction: the trap flag and breakpoints (APM volume 2, section 13.1); and
//! hot code that has instructions that no processor of ours has.

use iced_x86::code_asm::*;
use tern_test_kernels::expect::vector::{DB, PF, UD};
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

/// No model has these, but some processors do, and names of them are also those of instructions that some models have.
#[test]
fn instructions_of_other_processors_stay_invalid_opcodes_in_a_loop() {
    let bytes: [&[u8]; 5] = [
        // BEXTR of TBM, encoded by XOP: EAX and a register, EAX and memory.
        &[0x8f, 0xea, 0x78, 0x10, 0xc0, 0x00, 0x01, 0x00, 0x00],
        &[0x8f, 0xea, 0x78, 0x10, 0x04, 0x24, 0x00, 0x01, 0x00, 0x00],
        // BLCFILL of TBM, VPHADDBW of XOP.
        &[0x8f, 0xe9, 0x78, 0x01, 0xc8],
        &[0x8f, 0xe9, 0x78, 0xc1, 0xc1],
        // CMPBXADD [RSP], EAX, ECX.
        &[0xc4, 0xe2, 0x71, 0xe2, 0x04, 0x24],
    ];
    long(|g| {
        // It counts in R8, and goes on where R11 says.
        g.handler(UD, |g| {
            g.inc(r8)?;
            g.mov(qword_ptr(rsp), r11)?;
            g.iretq()
        })?;
        g.xor(r8, r8)?;
        for bytes in bytes {
            let mut behind = g.create_label();
            g.lea(r11, ptr(behind))?;
            g.rounds(WARM, |g| {
                g.db(bytes)?;
                g.place(&mut behind)
            })?;
        }
        g.expect(r8, (5 * WARM).into())
    });
}

/// Nothing is there, and what is read are ones; they are no address that code could be at.
#[test]
fn what_is_furthest_behind_the_instruction_pointer_is_found_in_a_loop() {
    let operand = i32::MAX.to_le_bytes();
    long(|g| {
        // It counts in R8 what faults at the address of all ones, and goes on where R11 says, with the stack that was.
        g.handler(PF, |g| {
            g.pop(rax)?;
            g.mov(rax, cr2)?;
            g.inc(rax)?;
            g.cmp(rax, 1)?;
            g.adc(r8, 0)?;
            g.mov(qword_ptr(rsp), r11)?;
            g.mov(qword_ptr(rsp + 24), rbp)?;
            g.iretq()
        })?;
        g.mov(rbp, rsp)?;
        g.xor(r8, r8)?;
        g.xor(r12, r12)?;
        g.rounds(WARM, |g| {
            // PUSH, MOV RBX.
            g.db(&[0xff, 0x35])?;
            g.db(&operand)?;
            g.pop(rax)?;
            g.sub(r12, rax)?;
            g.db(&[0x48, 0x8b, 0x1d])?;
            g.db(&operand)?;
            g.sub(r12, rbx)
        })?;
        g.expect(r12, (2 * WARM).into())?;
        // JMP, CALL.
        for opcode in [[0xff, 0x25], [0xff, 0x15]] {
            let mut behind = g.create_label();
            g.lea(r11, ptr(behind))?;
            g.rounds(WARM, |g| {
                g.db(&opcode)?;
                g.db(&operand)?;
                g.place(&mut behind)
            })?;
        }
        g.expect(r8, (2 * WARM).into())
    });
}
