//! Who may do what to a page, and the error codes of those who may not.

use iced_x86::code_asm::*;
use tern_test_kernels::expect::vector::{GP, SS};
use tern_test_kernels::expect::{fault, page_fault};
use tern_test_kernels::long::*;

use super::{SMAP, SMEP, WP, set_cr4};

/// RET.
const RETURN: [u8; 1] = [0xc3];

#[test]
fn a_page_that_is_not_present_faults_with_the_kind_of_access() {
    long(|g| {
        let address = WINDOW + 0x1123;
        g.mov(rbx, address)?;
        g.expect_fault(page_fault(0, address), |g| g.mov(eax, dword_ptr(rbx)))?;
        g.expect_fault(page_fault(2, address), |g| g.mov(dword_ptr(rbx), eax))?;
        g.expect_fault(page_fault(2, address), |g| g.add(dword_ptr(rbx), 1))?;
        g.expect_fault(page_fault(0x10, address).elsewhere(), |g| g.jmp(rbx))?;
        g.expect_user_fault(page_fault(4, address), |g| g.mov(eax, dword_ptr(rbx)))?;
        g.expect_user_fault(page_fault(6, address), |g| g.mov(dword_ptr(rbx), eax))?;
        g.expect_user_fault(page_fault(0x14, address).elsewhere(), |g| g.jmp(rbx))
    });
}

#[test]
fn user_mode_may_not_touch_supervisor_pages() {
    long(|g| {
        g.map(1, frame(0) | P | RW);
        let address = WINDOW + 0x1000;
        g.mov(rbx, address)?;
        g.mov(dword_ptr(rbx), 5)?;
        g.expect_user_fault(page_fault(5, address), |g| g.mov(eax, dword_ptr(rbx)))?;
        g.expect_user_fault(page_fault(7, address), |g| g.mov(dword_ptr(rbx), eax))?;
        g.expect_user_fault(page_fault(0x15, address).elsewhere(), |g| g.jmp(rbx))?;
        g.expect_memory(frame(0), 5)
    });
}

#[test]
fn read_only_pages_bind_the_supervisor_only_with_wp() {
    long(|g| {
        g.map(0, frame(0) | P | US);
        g.mov(rbx, WINDOW)?;
        g.expect_fault(page_fault(3, WINDOW), |g| g.mov(qword_ptr(rbx), 1))?;
        g.expect_user_fault(page_fault(7, WINDOW), |g| g.mov(qword_ptr(rbx), 1))?;
        g.mov(rax, cr0)?;
        g.and(eax, !WP)?;
        g.mov(cr0, rax)?;
        g.mov(qword_ptr(rbx), 2)?;
        g.expect_user_fault(page_fault(7, WINDOW), |g| g.mov(qword_ptr(rbx), 3))?;
        g.expect_memory(frame(0), 2)?;
        g.mov(rax, cr0)?;
        g.or(eax, WP)?;
        g.mov(cr0, rax)?;
        g.expect_fault(page_fault(3, WINDOW), |g| g.mov(qword_ptr(rbx), 4))
    });
}

#[test]
fn every_level_must_permit_an_access() {
    for (table, withheld, reading, writing) in [
        (WINDOW_TABLE, US, 5, 7),
        (WINDOW_DIRECTORY, US, 5, 7),
        (WINDOW_POINTERS, US, 5, 7),
        (PML4 + 8, US, 5, 7),
        (WINDOW_DIRECTORY, RW, 0, 7),
        (WINDOW_POINTERS, RW, 0, 7),
        (PML4 + 8, RW, 0, 7),
    ] {
        long(|g| {
            g.map(0, frame(0) | P | RW | US);
            g.mov(rbx, WINDOW)?;
            g.user(|g| g.mov(dword_ptr(rbx), 1))?;
            g.and(qword_ptr(table), !(withheld as i32))?;
            g.invlpg(ptr(rbx))?;
            if reading != 0 {
                g.expect_user_fault(page_fault(reading, WINDOW), |g| g.mov(eax, dword_ptr(rbx)))?;
            } else {
                g.user(|g| g.mov(eax, dword_ptr(rbx)))?;
            }
            g.expect_user_fault(page_fault(writing, WINDOW), |g| g.mov(dword_ptr(rbx), eax))
        });
    }
}

#[test]
fn no_execute_holds_for_every_level_and_privilege() {
    long(|g| {
        g.put_bytes(frame(0), RETURN);
        g.map(0, frame(0) | P | RW | US | NX);
        g.map(1, frame(0) | P | RW | US);
        let executable = WINDOW + 0x1000;
        g.mov(rbx, WINDOW)?;
        g.mov(rcx, executable)?;
        g.call(rcx)?;
        g.expect_fault(page_fault(0x11, WINDOW).elsewhere(), |g| g.jmp(rbx))?;
        g.expect_user_fault(page_fault(0x15, WINDOW).elsewhere(), |g| g.jmp(rbx))?;
        g.user(|g| g.call(rcx))?;
        g.mov(rax, NX)?;
        g.or(qword_ptr(WINDOW_DIRECTORY), rax)?;
        g.invlpg(ptr(rcx))?;
        g.expect_fault(page_fault(0x11, executable).elsewhere(), |g| g.jmp(rcx))
    });
}

#[test]
fn without_nxe_the_no_execute_bit_is_reserved() {
    long(|g| {
        g.map(0, frame(0) | P | RW | NX);
        g.mov(rbx, WINDOW)?;
        g.mov(eax, dword_ptr(rbx))?;
        g.mov(ecx, 0xc000_0080_u32)?;
        g.rdmsr()?;
        g.and(eax, !0x800)?;
        g.wrmsr()?;
        g.invlpg(ptr(rbx))?;
        g.expect_fault(page_fault(9, WINDOW), |g| g.mov(eax, dword_ptr(rbx)))
    });
}

#[test]
fn reserved_bits_fault_at_every_level() {
    let too_high = 1 << 51;
    for (address, entry) in [
        (WINDOW_TABLE, frame(0) | P | RW | US | too_high),
        (WINDOW_DIRECTORY, WINDOW_TABLE | P | RW | US | too_high),
        (WINDOW_DIRECTORY, P | RW | US | PS | 1 << 13),
        (WINDOW_POINTERS, P | RW | US | PS | 1 << 13),
        (WINDOW_POINTERS, WINDOW_DIRECTORY | P | RW | US | too_high),
        (PML4 + 8, WINDOW_POINTERS | P | RW | US | PS),
        (PML4 + 8, WINDOW_POINTERS | P | RW | US | too_high),
    ] {
        long(|g| {
            g.put(address, &[entry]);
            g.mov(rbx, WINDOW)?;
            g.expect_fault(page_fault(9, WINDOW), |g| g.mov(eax, dword_ptr(rbx)))?;
            g.expect_fault(page_fault(0xb, WINDOW), |g| g.mov(dword_ptr(rbx), eax))?;
            g.expect_user_fault(page_fault(0xd, WINDOW), |g| g.mov(eax, dword_ptr(rbx)))
        });
    }
}

#[test]
fn smep_keeps_the_supervisor_from_executing_user_pages() {
    long(|g| {
        g.put_bytes(frame(0), RETURN);
        g.map(0, frame(0) | P | RW | US);
        g.mov(rbx, WINDOW)?;
        g.call(rbx)?;
        set_cr4(g, SMEP)?;
        g.expect_fault(page_fault(0x11, WINDOW).elsewhere(), |g| g.jmp(rbx))?;
        g.mov(eax, dword_ptr(rbx))?;
        g.user(|g| g.call(rbx))
    });
}

#[test]
fn smap_keeps_the_supervisor_from_user_data_unless_ac_is_set() {
    long(|g| {
        g.map(0, frame(0) | P | RW | US);
        g.map(1, frame(1) | P | RW);
        g.mov(rbx, WINDOW)?;
        g.mov(qword_ptr(rbx), 7)?;
        set_cr4(g, SMAP)?;
        g.expect_fault(page_fault(1, WINDOW), |g| g.mov(rax, qword_ptr(rbx)))?;
        g.expect_fault(page_fault(3, WINDOW), |g| g.mov(qword_ptr(rbx), rax))?;
        g.mov(qword_ptr(rbx + 0x1000), 1)?;
        g.stac()?;
        g.mov(rax, qword_ptr(rbx))?;
        g.mov(qword_ptr(rbx), 8)?;
        g.clac()?;
        g.expect(rax, 7)?;
        g.expect_fault(page_fault(3, WINDOW), |g| g.mov(qword_ptr(rbx), 9))?;
        g.user(|g| g.mov(rcx, qword_ptr(rbx)))?;
        g.expect(rcx, 8)
    });
}

#[test]
fn smap_guards_implicit_accesses_whatever_ac_says() {
    long(|g| {
        // A local descriptor table in a page for users.
        let selector = FREE_SELECTOR;
        let ldt_low = 0xfff | (WINDOW & 0xff_ffff) << 16 | 0x82 << 40 | (WINDOW >> 24 & 0xff) << 56;
        g.put(GDT + u64::from(selector), &[ldt_low, WINDOW >> 32]);
        g.map(0, frame(0) | P | RW | US);
        g.put(frame(0) + 8, &[0x00cf_9300_0000_ffff]);
        g.mov(eax, u32::from(selector))?;
        g.lldt(ax)?;
        g.mov(eax, 0xc)?;
        g.mov(fs, eax)?;
        set_cr4(g, SMAP)?;
        g.mov(eax, 0xc)?;
        g.stac()?;
        g.expect_fault(page_fault(1, WINDOW + 8), |g| g.mov(fs, eax))
    });
}

#[test]
fn addresses_that_are_not_canonical_are_protected_in_general_and_in_the_stack_segment() {
    long(|g| {
        g.mov(rbx, 0x0000_8000_0000_0000_u64)?;
        g.expect_fault(fault(GP), |g| g.mov(eax, dword_ptr(rbx)))?;
        g.expect_fault(fault(GP), |g| g.mov(dword_ptr(rbx - 2), eax))?;
        g.expect_fault(fault(GP), |g| g.jmp(rbx))?;
        g.mov(rbp, rbx)?;
        g.expect_fault(fault(SS), |g| g.mov(eax, dword_ptr(rbp)))?;
        g.expect_fault(fault(SS), |g| g.push(qword_ptr(rbp)))
    });
}
