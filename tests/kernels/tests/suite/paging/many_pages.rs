//! Straight-line code that goes on with many pages at a time.

use iced_x86::code_asm::*;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

use super::clear_cr4;

/// How many pages there are: more than an engine is likely to keep anything for at a time.
const PAGES: u64 = 22;
/// How often they are read: often enough for every kind of translated code.
const TIMES: u32 = 50_000;
/// Where in its page the second word lies that is read.
const SECOND: u64 = 0xf8;

/// Reads a word of each page, then a second one of each, [`TIMES`] times; the sum of these is in RDX. Linear pages follow each other
/// in another order than their frames, so that no distance leads from one to the next. RAX, RBX and RCX are lost.
fn sum(g: &mut Long) -> Emit {
    let mut again = g.create_label();
    g.mov(rbx, WINDOW)?;
    g.mov(ecx, TIMES)?;
    g.xor(edx, edx)?;
    g.place(&mut again)?;
    for n in 0..PAGES {
        g.mov(rax, qword_ptr(rbx + 0x1000 * n as i32))?;
    }
    for n in 0..PAGES {
        g.add(rdx, qword_ptr(rbx + (0x1000 * n + SECOND) as i32))?;
    }
    g.dec(ecx)?;
    g.jnz(again)
}

fn reads_the_sum(read: impl FnOnce(&mut Long) -> Emit) {
    long(|g| {
        for n in 0..PAGES {
            g.map(n, frame(PAGES - n) | P | RW | US);
            let second = frame(PAGES - n) + SECOND;
            g.mov(dword_ptr(second), 1 << n)?;
        }
        read(g)?;
        g.expect(rdx, u64::from(TIMES) * ((1 << PAGES) - 1))
    });
}

#[test]
fn each_access_reaches_its_own_page() {
    reads_the_sum(sum);
    reads_the_sum(|g| g.user(sum));
}

#[test]
fn each_access_reaches_its_own_page_with_the_override_of_smap() {
    reads_the_sum(|g| {
        clear_cr4(g, super::SMAP)?;
        g.pushfq()?;
        g.or(dword_ptr(rsp), 1 << 18)?;
        g.popfq()?;
        sum(g)?;
        g.pushfq()?;
        g.and(dword_ptr(rsp), !(1 << 18))?;
        g.popfq()
    });
}

#[test]
fn accesses_may_lie_as_far_below_their_base_register_as_instructions_can_tell() {
    long(|g| {
        let mut again = g.create_label();
        g.map(0, frame(0) | P | RW);
        g.put(frame(0), &[3, 5]);
        g.mov(rbx, WINDOW + (1 << 31))?;
        g.mov(ecx, TIMES)?;
        g.xor(edx, edx)?;
        g.place(&mut again)?;
        g.add(rdx, qword_ptr(rbx + i32::MIN))?;
        g.add(rdx, qword_ptr(rbx + (i32::MIN + 8)))?;
        g.dec(ecx)?;
        g.jnz(again)?;
        g.expect(rdx, 8 * u64::from(TIMES))
    });
}
