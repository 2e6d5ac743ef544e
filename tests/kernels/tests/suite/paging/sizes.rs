//! Pages of every size, and accesses across them.

use iced_x86::code_asm::*;
use tern_test_kernels::expect::page_fault;
use tern_test_kernels::long::*;

const LARGE: u64 = 2 << 20;
const HUGE: u64 = 1 << 30;

#[test]
fn pages_of_every_size_lead_to_their_frames() {
    long(|g| {
        g.map(3, frame(7) | P | RW);
        g.put(WINDOW_DIRECTORY + 8, &[DATA | P | RW | PS]);
        g.put(WINDOW_POINTERS + 8, &[P | RW | PS]);
        g.put(frame(7) + 0x10, &[7]);
        g.mov(rax, 0x4444_u64)?;
        g.mov(qword_ptr(DATA + 0x1238), rax)?;
        g.mov(rbx, WINDOW)?;
        g.mov(rax, qword_ptr(rbx + 0x3010))?;
        g.expect(rax, 7)?;
        g.mov(rax, qword_ptr(rbx + (LARGE + 0x1238)))?;
        g.expect(rax, 0x4444)?;
        g.mov(rbx, WINDOW + HUGE + DATA)?;
        g.mov(rax, qword_ptr(rbx + 0x1238))?;
        g.expect(rax, 0x4444)?;
        g.mov(qword_ptr(rbx + 0x1238), 5)?;
        g.expect_memory(DATA + 0x1238, 5)
    });
}

#[test]
fn an_access_across_two_pages_reaches_both() {
    long(|g| {
        g.map(0, frame(5) | P | RW);
        g.map(1, frame(3) | P | RW);
        g.mov(rbx, WINDOW + 0xffd)?;
        g.mov(rax, 0x1122_3344_5566_7788_u64)?;
        g.mov(qword_ptr(rbx), rax)?;
        g.expect_memory(frame(5) + 0xff8, 0x6677_8800_0000_0000)?;
        g.expect_memory(frame(3), 0x11_2233_4455)?;
        g.xor(eax, eax)?;
        g.add(rax, qword_ptr(rbx))?;
        g.expect(rax, 0x1122_3344_5566_7788)?;
        g.mov(ecx, 1)?;
        g.lock().xadd(qword_ptr(rbx), rcx)?;
        g.mov(rax, qword_ptr(rbx))?;
        g.expect(rax, 0x1122_3344_5566_7789)
    });
}

#[test]
fn a_write_across_two_pages_that_faults_in_the_second_leaves_the_first() {
    long(|g| {
        g.map(0, frame(5) | P | RW);
        g.map(1, frame(3) | P);
        g.mov(rbx, WINDOW + 0xffc)?;
        g.mov(rax, u64::MAX)?;
        g.expect_fault(page_fault(3, WINDOW + 0x1000), |g| g.mov(qword_ptr(rbx), rax))?;
        g.expect_fault(page_fault(3, WINDOW + 0x1000), |g| g.lock().add(qword_ptr(rbx), 1))?;
        g.expect_memory(frame(5) + 0xff8, 0)?;
        g.mov(rcx, qword_ptr(rbx))?;
        g.expect(rcx, 0)
    });
}

#[test]
fn an_instruction_across_two_pages_faults_at_the_byte_that_is_missing() {
    long(|g| {
        // MOV EAX, imm32 whose last three bytes lie in the second page; RET.
        g.put_bytes(frame(0) + 0xffe, [0xb8, 0x55]);
        g.put_bytes(frame(1), [0, 0, 0, 0xc3]);
        g.map(0, frame(0) | P);
        g.mov(rbx, WINDOW + 0xffe)?;
        g.expect_fault(page_fault(0x10, WINDOW + 0x1000).elsewhere(), |g| g.jmp(rbx))?;
        g.expect_frame(0, WINDOW + 0xffe)?;
        g.mov(rax, frame(1) | P)?;
        g.mov(qword_ptr(WINDOW_TABLE + 8), rax)?;
        g.call(rbx)?;
        g.expect(rax, 0x55)
    });
}
