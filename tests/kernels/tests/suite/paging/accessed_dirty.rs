//! The bits that the processor sets in table entries.

use iced_x86::code_asm::*;
use tern_test_kernels::expect::page_fault;
use tern_test_kernels::long::*;

const TABLE: u64 = P | RW | US;

#[test]
fn a_read_sets_accessed_at_every_level_and_a_write_dirty_in_the_page() {
    long(|g| {
        g.map(0, frame(0) | P | RW);
        g.expect_memory(WINDOW_TABLE, frame(0) | P | RW)?;
        g.mov(rbx, WINDOW)?;
        g.mov(eax, dword_ptr(rbx))?;
        g.expect_memory(WINDOW_TABLE, frame(0) | P | RW | A)?;
        g.expect_memory(WINDOW_DIRECTORY, WINDOW_TABLE | TABLE | A)?;
        g.expect_memory(WINDOW_POINTERS, WINDOW_DIRECTORY | TABLE | A)?;
        g.expect_memory(PML4 + 8, WINDOW_POINTERS | TABLE | A)?;
        // The translation is known now; Dirty is set all the same.
        g.mov(dword_ptr(rbx), eax)?;
        g.expect_memory(WINDOW_TABLE, frame(0) | P | RW | A | D)?;
        g.expect_memory(WINDOW_DIRECTORY, WINDOW_TABLE | TABLE | A)
    });
}

#[test]
fn large_pages_have_a_dirty_bit_of_their_own() {
    long(|g| {
        let entry = 0x20_0000 | P | RW | PS;
        g.put(WINDOW_DIRECTORY + 8, &[entry]);
        g.mov(rbx, WINDOW + (2 << 20))?;
        g.mov(eax, dword_ptr(rbx))?;
        g.expect_memory(WINDOW_DIRECTORY + 8, entry | A)?;
        g.mov(dword_ptr(rbx), eax)?;
        g.expect_memory(WINDOW_DIRECTORY + 8, entry | A | D)
    });
}

#[test]
fn an_access_that_faults_sets_no_dirty_bit() {
    long(|g| {
        g.map(0, frame(0) | P | US);
        g.mov(rbx, WINDOW)?;
        g.expect_user_fault(page_fault(7, WINDOW), |g| g.mov(dword_ptr(rbx), 1))?;
        g.mov(rax, qword_ptr(WINDOW_TABLE))?;
        g.and(eax, D as u32)?;
        g.expect(rax, 0)
    });
}

#[test]
fn a_bit_that_was_cleared_is_set_again_after_invlpg() {
    long(|g| {
        g.map(0, frame(0) | P | RW);
        g.mov(rbx, WINDOW)?;
        for _ in 0..3 {
            g.mov(dword_ptr(rbx), 1)?;
            g.expect_memory(WINDOW_TABLE, frame(0) | P | RW | A | D)?;
            g.mov(rax, frame(0) | P | RW)?;
            g.mov(qword_ptr(WINDOW_TABLE), rax)?;
            g.invlpg(ptr(rbx))?;
        }
        g.expect_memory(WINDOW_TABLE, frame(0) | P | RW)
    });
}

#[test]
fn execution_sets_accessed_and_not_dirty() {
    long(|g| {
        g.put_bytes(frame(0), [0xc3]); // RET
        g.map(0, frame(0) | P | RW);
        g.mov(rbx, WINDOW)?;
        g.call(rbx)?;
        g.expect_memory(WINDOW_TABLE, frame(0) | P | RW | A)
    });
}
