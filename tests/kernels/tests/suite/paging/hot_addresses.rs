//! Loops that access memory by addresses of every sort: what they are made of lies in different places in an engine, and what they lead
//! to must not depend on it.

use iced_x86::code_asm::*;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

/// Enough rounds for an engine to find out that most of the time is spent there.
const HOT: u32 = 60_000;
/// From one access to the next: often in the same page, and now and then in two.
const STEP: u64 = 12;
/// Where the first access would leave what is mapped.
const END: u64 = 0x2000 - 8;
/// Of the pages that are written.
const WRITTEN: u64 = WINDOW + 0x2000;
/// What is at the window's start, two pages.
const WORDS: u64 = 1024;

const fn word(n: u64) -> u64 {
    (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The offsets of all accesses.
fn offsets() -> impl Iterator<Item = u64> {
    (0..END.div_ceil(STEP)).map(|n| n * STEP).cycle().take(HOT as usize)
}

/// The sum of what lies at all offsets.
fn sum() -> u64 {
    let at = |offset: u64| {
        let (n, shift) = (offset / 8, offset % 8 * 8);
        let high = if shift == 0 { 0 } else { word(n + 1) << (64 - shift) };
        word(n) >> shift | high
    };
    offsets().fold(0, |sum, offset| sum.wrapping_add(at(offset)))
}

/// In a loop, `access` adds what is at the offset in R8 to RDX. RSI is the window's address and RDI that of what may be written; RSP may
/// be changed, and R14 keeps it.
fn hot(g: &mut Long, access: impl FnOnce(&mut Long) -> Emit) -> Emit {
    g.mov(rsi, WINDOW)?;
    g.mov(rdi, WRITTEN)?;
    g.mov(r14, rsp)?;
    g.xor(r15, r15)?;
    g.xor(r8, r8)?;
    g.xor(edx, edx)?;
    g.rounds(HOT, |g| {
        access(g)?;
        g.mov(rsp, r14)?;
        g.add(r8, STEP as i32)?;
        g.cmp(r8, END as i32)?;
        g.cmovae(r8, r15)
    })
}

/// The loop in the environment's own code, on one of so many processors.
fn supervisor_finds(cpus: u32, expected: u64, access: impl FnOnce(&mut Long) -> Emit) {
    long_with(cpus, |g| {
        prepare(g);
        hot(g, access)?;
        g.expect(rdx, expected)
    });
}

/// By one processor, by one of two, and by a user's program.
fn finds(expected: u64, access: impl Fn(&mut Long) -> Emit + Copy) {
    supervisor_finds(1, expected, access);
    supervisor_finds(2, expected, access);
    long(|g| {
        prepare(g);
        g.user(|g| hot(g, access))?;
        g.expect(rdx, expected)
    });
}

/// Maps pages whose frames do not follow each other, two with words.
fn prepare(g: &mut Long) {
    for (n, of) in [(0, 5), (1, 2), (2, 9), (3, 7)] {
        g.map(n, frame(of) | P | RW | US);
    }
    for (first, of) in [(0, 5), (WORDS / 2, 2)] {
        g.put(frame(of), &(first..first + WORDS / 2).map(word).collect::<Vec<_>>());
    }
}

#[test]
fn registers_add_up_wherever_they_are() {
    finds(sum(), |g| {
        g.lea(rbx, ptr(rsi + r8))?;
        g.add(rdx, qword_ptr(rbx))
    });
    finds(sum(), |g| {
        g.mov(rcx, r8)?;
        g.add(rdx, qword_ptr(rsi + rcx))
    });
    finds(sum(), |g| {
        g.lea(r9, ptr(rsi + r8))?;
        g.add(rdx, qword_ptr(r9))
    });
    finds(sum(), |g| {
        g.mov(r10, r8)?;
        g.add(rdx, qword_ptr(rsi + r10))
    });
    finds(sum(), |g| {
        g.mov(r11, r8)?;
        g.mov(r9, rsi)?;
        g.add(rdx, qword_ptr(r9 + r11))
    });
}

#[test]
fn an_index_is_scaled_and_a_displacement_counts_both_ways() {
    finds(sum(), |g| {
        g.mov(rcx, r8)?;
        g.shr(rcx, 2)?;
        g.add(rdx, qword_ptr(rsi + rcx * 4))
    });
    finds(sum(), |g| {
        g.mov(r9, r8)?;
        g.shr(r9, 2)?;
        g.add(rdx, qword_ptr(rsi + r9 * 4))
    });
    finds(sum(), |g| {
        g.lea(rbx, ptr(rsi - 0x12_3456))?;
        g.mov(rcx, r8)?;
        g.shr(rcx, 1)?;
        g.add(rdx, qword_ptr(rbx + rcx * 2 + 0x12_3456))
    });
    finds(sum(), |g| {
        g.lea(r10, ptr(rsi + r8 + 0x70))?;
        g.add(rdx, qword_ptr(r10 - 0x70))
    });
    finds(sum(), |g| {
        g.lea(r11, ptr(rsi + 0x1000))?;
        g.lea(r9, ptr(r8 * 1))?;
        g.add(rdx, qword_ptr(r11 + r9 - 0x1000))
    });
}

#[test]
fn what_is_loaded_may_replace_a_part_of_its_address() {
    finds(sum(), |g| {
        g.lea(rbx, ptr(rsi + r8))?;
        g.mov(rbx, qword_ptr(rbx))?;
        g.add(rdx, rbx)
    });
    finds(sum(), |g| {
        g.mov(rcx, r8)?;
        g.mov(rcx, qword_ptr(rsi + rcx))?;
        g.add(rdx, rcx)
    });
    finds(sum(), |g| {
        g.mov(r9, r8)?;
        g.mov(r9, qword_ptr(rsi + r9))?;
        g.add(rdx, r9)
    });
    finds(sum(), |g| {
        g.mov(r10, rdx)?;
        g.mov(r9, r8)?;
        g.add(r10, qword_ptr(rsi + r9))?;
        g.mov(rdx, r10)
    });
    finds(sum(), |g| {
        g.lea(rsp, ptr(rsi + r8))?;
        g.pop(rbx)?;
        g.add(rdx, rbx)
    });
}

#[test]
fn flags_outlive_the_access() {
    let with_carries = sum().wrapping_add(HOT.into());
    finds(with_carries, |g| {
        g.mov(rcx, r8)?;
        g.stc()?;
        g.mov(rbx, qword_ptr(rsi + rcx))?;
        g.adc(rdx, rbx)
    });
    finds(with_carries, |g| {
        g.mov(r9, r8)?;
        g.stc()?;
        g.mov(r10, qword_ptr(rsi + r9))?;
        g.adc(rdx, r10)
    });
}

#[test]
fn what_is_written_is_found_there() {
    let threefold = offsets().map(|offset| 3 * offset).sum();
    finds(threefold, |g| {
        g.lea(rax, ptr(r8 + r8 * 2))?;
        g.lea(rbx, ptr(rdi + r8))?;
        g.mov(qword_ptr(rbx), rax)?;
        g.mov(r9, r8)?;
        g.add(rdx, qword_ptr(rdi + r9))
    });
    finds(threefold, |g| {
        g.lea(r10, ptr(r8 + r8 * 2))?;
        g.mov(r9, r8)?;
        g.mov(qword_ptr(rdi + r9), r10)?;
        g.mov(rcx, r8)?;
        g.add(rdx, qword_ptr(rdi + rcx))
    });
    finds(threefold, |g| {
        g.lea(rax, ptr(r8 + r8 * 2))?;
        g.lea(rsp, ptr(rdi + r8 + 8))?;
        g.push(rax)?;
        g.mov(rcx, r8)?;
        g.add(rdx, qword_ptr(rdi + rcx))
    });
}

#[test]
fn a_base_that_is_exchanged_with_what_it_leads_to_was_the_address() {
    let both = offsets().map(|offset| 7 + WRITTEN + offset).fold(0, u64::wrapping_add);
    finds(both, |g| {
        g.lea(rbx, ptr(rdi + r8))?;
        g.mov(qword_ptr(rbx), 7)?;
        g.lea(rbx, ptr(rdi + r8))?;
        g.xchg(qword_ptr(rbx), rbx)?;
        g.add(rdx, rbx)?;
        g.mov(rcx, r8)?;
        g.add(rdx, qword_ptr(rdi + rcx))
    });
}

#[test]
fn an_access_between_those_of_a_group_disturbs_neither() {
    finds(sum().wrapping_add(16 * u64::from(HOT)), |g| {
        g.mov(qword_ptr(rdi + 16), 5)?;
        g.mov(qword_ptr(rdi + 24), 11)?;
        g.mov(rax, qword_ptr(rdi + 16))?;
        g.mov(rcx, r8)?;
        g.add(rdx, qword_ptr(rsi + rcx))?;
        g.add(rax, qword_ptr(rdi + 24))?;
        g.add(rdx, rax)
    });
}

#[test]
fn an_address_of_32_bits_counts_among_longer_ones() {
    supervisor_finds(1, sum().wrapping_add(9 * u64::from(HOT)), |g| {
        g.mov(dword_ptr(DATA), 9)?;
        g.mov(ebx, DATA as u32 - 64)?;
        g.mov(eax, dword_ptr(ebx + 64))?;
        g.mov(rcx, r8)?;
        g.add(rax, qword_ptr(rsi + rcx))?;
        g.add(rdx, rax)
    });
}
