//! Near branches to addresses that are not canonical: the branch itself is at fault, and has done nothing (SDM volume 2, JMP, CALL,
//! RET and Jcc; AMD's processors do the same).
//!
//! Each branch is met often enough to be executed in every way that an engine has.

use iced_x86::code_asm::*;
use tern_test_kernels::expect::vector::GP;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

/// How often each branch is met.
const TIMES: u32 = 200;
/// The last page of the lower half.
const LAST: u64 = 0x7fff_ffff_f000;
/// The first page of the upper half.
const FIRST: u64 = 0xffff_8000_0000_0000;
/// The first address that is not canonical.
const BEYOND: u64 = LAST + 0x1000;
/// Where in its page code is, if it is not at the end.
const HERE: u64 = 0x100;

/// Frames of the code's own pages.
const LAST_BUT_ONE_FRAME: u64 = 0;
const LAST_FRAME: u64 = 1;
const FIRST_FRAME: u64 = 2;

/// Maps the last two pages of the lower half and the first one of the upper half for user mode.
fn map(g: &mut Long) {
    let table = P | RW | US;
    let [pointers, directory, pages] = [8, 9, 10].map(frame);
    g.put(PML4 + 8 * 255, &[pointers | table]);
    g.put(pointers + 8 * 511, &[directory | table]);
    g.put(directory + 8 * 511, &[pages | table]);
    g.put(pages + 8 * 510, &[frame(LAST_BUT_ONE_FRAME) | table, frame(LAST_FRAME) | table]);
    let [pointers, directory, pages] = [11, 12, 13].map(frame);
    g.put(PML4 + 8 * 256, &[pointers | table]);
    g.put(pointers, &[directory | table]);
    g.put(directory, &[pages | table]);
    g.put(pages, &[frame(FIRST_FRAME) | table]);
}

/// A handler that compares the fault's RIP with R13 and its RSP with R14, and counts it in RDI. It goes on at R15.
fn handler(g: &mut Long) -> Emit {
    g.handler(GP, |g| {
        g.add(rsp, 8)?;
        g.xor(r13, qword_ptr(rsp))?;
        g.or(r12, r13)?;
        g.xor(r14, qword_ptr(rsp + 24))?;
        g.or(r12, r14)?;
        g.inc(edi)?;
        g.mov(qword_ptr(rsp), r15)?;
        g.iretq()
    })
}

/// Goes to `from` in user mode, [`TIMES`] times; `before` is done each time before. What is there must fault at `fault`, and leave
/// the stack as it is.
fn faults(g: &mut Long, from: u64, fault: u64, before: impl FnOnce(&mut Long) -> Emit) -> Emit {
    const NOTHING_PUSHED: u64 = 0x5555_6666_7777_8888;
    g.user(|g| {
        let (mut again, mut after) = (g.create_label(), g.create_label());
        g.mov(r8d, TIMES)?;
        g.mov(ecx, 2)?;
        g.xor(edi, edi)?;
        g.xor(r12, r12)?;
        g.lea(r15, ptr(after))?;
        g.mov(r9, NOTHING_PUSHED)?;
        g.place(&mut again)?;
        g.mov(rbx, from)?;
        g.mov(r13, fault)?;
        before(g)?;
        g.mov(r14, rsp)?;
        g.mov(qword_ptr(rsp - 8), r9)?;
        g.xor(eax, eax)?;
        g.jmp(rbx)?;
        g.place(&mut after)?;
        g.mov(rax, qword_ptr(rsp - 8))?;
        g.xor(rax, r9)?;
        g.or(r12, rax)?;
        g.mov(rsp, USER_STACK)?;
        g.dec(r8d)?;
        g.jnz(again)
    })?;
    g.expect(r12, 0)?;
    g.expect(rdi, TIMES.into())
}

/// `branch` at this place of this page, which is frame `n`, faults.
fn branch_faults(page: u64, n: u64, branch: &[u8], before: impl FnOnce(&mut Long) -> Emit) {
    long(|g| {
        map(g);
        handler(g)?;
        g.put_bytes(frame(n) + HERE, branch);
        faults(g, page + HERE, page + HERE, before)
    });
}

#[test]
fn a_relative_branch_out_of_the_lower_half_is_its_own_fault() {
    // jmp, je, call, 0x1000 bytes farther.
    for branch in [&[0xe9, 0, 0x10, 0, 0][..], &[0x0f, 0x84, 0, 0x10, 0, 0], &[0xe8, 0, 0x10, 0, 0]] {
        branch_faults(LAST, LAST_FRAME, branch, |_| Ok(()));
    }
    // The same as far as a branch reaches.
    branch_faults(LAST, LAST_FRAME, &[0xe9, 0xff, 0xff, 0xff, 0x7f], |_| Ok(()));
}

#[test]
fn a_relative_branch_out_of_the_upper_half_is_its_own_fault() {
    for branch in
        [&[0xe9, 0, 0xe0, 0xff, 0xff][..], &[0x0f, 0x84, 0, 0xe0, 0xff, 0xff], &[0xe8, 0, 0xe0, 0xff, 0xff]]
    {
        branch_faults(FIRST, FIRST_FRAME, branch, |_| Ok(()));
    }
    branch_faults(FIRST, FIRST_FRAME, &[0xe9, 0, 0, 0, 0x80], |_| Ok(()));
}

#[test]
fn a_short_branch_out_of_the_lower_half_is_its_own_fault() {
    // je and loop, 0x7f bytes farther.
    for branch in [[0x74, 0x7f], [0xe2, 0x7f]] {
        long(|g| {
            map(g);
            handler(g)?;
            g.put_bytes(frame(LAST_FRAME) + 0xff0, branch);
            faults(g, LAST + 0xff0, LAST + 0xff0, |_| Ok(()))
        });
    }
}

#[test]
fn a_branch_behind_a_comparison_is_at_fault_and_not_the_comparison() {
    // cmp eax, eax; je, 0x1000 bytes farther.
    let code = [0x39, 0xc0, 0x0f, 0x84, 0, 0x10, 0, 0];
    long(|g| {
        map(g);
        handler(g)?;
        g.put_bytes(frame(LAST_FRAME) + HERE, code);
        faults(g, LAST + HERE, LAST + HERE + 2, |_| Ok(()))
    });
}

#[test]
fn an_indirect_branch_to_an_address_that_is_none_is_its_own_fault() {
    // jmp rdx; call rdx
    for branch in [[0xff, 0xe2], [0xff, 0xd2]] {
        branch_faults(LAST, LAST_FRAME, &branch, |g| g.mov(rdx, BEYOND));
    }
    // jmp [rsp]; call [rsp]; ret; ret 8
    for branch in [&[0xff, 0x24, 0x24][..], &[0xff, 0x14, 0x24], &[0xc3], &[0xc2, 8, 0]] {
        branch_faults(LAST, LAST_FRAME, branch, |g| {
            g.mov(rdx, BEYOND)?;
            g.push(rdx)
        });
    }
}

#[test]
fn code_that_runs_out_of_the_lower_half_faults_there() {
    long(|g| {
        map(g);
        handler(g)?;
        g.put_bytes(frame(LAST_FRAME) + 0xffe, [0x90, 0x90]);
        faults(g, LAST + 0xffe, BEYOND, |_| Ok(()))
    });
}

#[test]
fn an_instruction_that_reaches_out_of_the_lower_half_is_its_own_fault() {
    long(|g| {
        map(g);
        handler(g)?;
        // mov eax, edx; ret: of these bytes the first is in the last page. Elsewhere the same pages are no fault, and there is a page
        // whose address differs from what would be fetched in the bits only that make it no address.
        g.put_bytes(frame(LAST_FRAME) + 0xfff, [0x89]);
        g.put_bytes(frame(FIRST_FRAME), [0xd0, 0xc3]);
        g.map(0, frame(LAST_FRAME) | P | RW | US);
        g.map(1, frame(FIRST_FRAME) | P | RW | US);
        g.user(|g| {
            let mut again = g.create_label();
            g.mov(ecx, TIMES)?;
            g.mov(rbx, WINDOW + 0xfff)?;
            g.place(&mut again)?;
            g.mov(edx, ecx)?;
            g.call(rbx)?;
            g.dec(ecx)?;
            g.jnz(again)
        })?;
        g.expect(rax, 1)?;
        faults(g, LAST + 0xfff, LAST + 0xfff, |_| Ok(()))
    });
}

#[test]
fn a_branch_near_the_end_of_the_lower_half_that_stays_there_is_none() {
    long(|g| {
        map(g);
        // call, 0xffb bytes behind itself, which is the next page's start; ret. There: inc esi; ret
        g.put_bytes(frame(LAST_BUT_ONE_FRAME), [0xe8, 0xfb, 0x0f, 0, 0, 0xc3]);
        g.put_bytes(frame(LAST_FRAME), [0xff, 0xc6, 0xc3]);
        g.user(|g| {
            let mut again = g.create_label();
            g.mov(ecx, TIMES)?;
            g.xor(esi, esi)?;
            g.mov(rbx, LAST - 0x1000)?;
            g.place(&mut again)?;
            g.call(rbx)?;
            g.dec(ecx)?;
            g.jnz(again)
        })?;
        g.expect(rsi, TIMES.into())
    });
}
