//! Translations that were remembered, and how a system gets rid of them.
//!
//! Whether an old translation is still used before it is invalidated is the processor's affair; these tests only demand
//! what the manual promises afterwards.

use iced_x86::code_asm::*;
use tern_test_kernels::expect::vector::GP;
use tern_test_kernels::expect::{fault, page_fault};
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;

use super::{PCIDE, PGE, clear_cr4, reload_cr3, set_cr4, store};

/// Page 0 leads to a frame that holds 10, is read, is made to lead to one that holds 11; after `invalidate` that is seen.
fn remapped(rights: u64, invalidate: impl FnOnce(&mut Long) -> Emit) {
    long(|g| {
        g.put(frame(0), &[10]);
        g.put(frame(1), &[11]);
        g.map(0, frame(0) | rights);
        set_cr4(g, PGE)?;
        g.mov(rbx, WINDOW)?;
        g.mov(rax, qword_ptr(rbx))?;
        g.expect(rax, 10)?;
        store(g, WINDOW_TABLE, frame(1) | rights)?;
        invalidate(g)?;
        g.mov(rax, qword_ptr(rbx))?;
        g.expect(rax, 11)?;
        g.mov(qword_ptr(rbx), 12)?;
        g.expect_memory(frame(1), 12)?;
        g.expect_memory(frame(0), 10)
    });
}

/// INVPCID of `kind` with this PCID and address. The descriptor is pushed; RCX is lost.
fn invpcid(g: &mut Long, kind: u64, pcid: i32, address: u64) -> Emit {
    g.mov(rcx, address)?;
    g.push(rcx)?;
    g.push(pcid)?;
    g.mov(rcx, kind)?;
    g.invpcid(rcx, xmmword_ptr(rsp))?;
    g.add(rsp, 16)
}

#[test]
fn invlpg_drops_one_page_also_a_global_one() {
    remapped(P | RW, |g| g.invlpg(ptr(rbx)));
    remapped(P | RW | G, |g| g.invlpg(ptr(rbx + 0xfff)));
}

#[test]
fn writing_cr3_drops_pages_that_are_not_global() {
    remapped(P | RW, reload_cr3);
}

#[test]
fn changing_cr4_pge_drops_global_pages_too() {
    remapped(P | RW | G, |g| clear_cr4(g, PGE));
}

#[test]
fn every_kind_of_invpcid_drops_what_it_names() {
    for kind in 0..4 {
        remapped(P | RW, |g| invpcid(g, kind, 0, WINDOW));
    }
    remapped(P | RW | G, |g| invpcid(g, 2, 0, 0));
}

#[test]
fn invpcid_refuses_what_it_does_not_know() {
    long(|g| {
        g.mov(rax, frame(0))?;
        g.mov(ecx, 4)?;
        g.expect_fault(fault(GP), |g| g.invpcid(rcx, xmmword_ptr(rax)))?;
        g.mov(ecx, 2)?;
        g.mov(qword_ptr(rax), 0x1000)?;
        g.expect_fault(fault(GP), |g| g.invpcid(rcx, xmmword_ptr(rax)))?;
        // Without CR4.PCIDE there is only PCID 0.
        g.mov(ecx, 1)?;
        g.mov(qword_ptr(rax), 1)?;
        g.expect_fault(fault(GP), |g| g.invpcid(rcx, xmmword_ptr(rax)))?;
        g.xor(ecx, ecx)?;
        g.mov(qword_ptr(rax), 0)?;
        g.mov(rdx, 1_u64 << 63)?;
        g.mov(qword_ptr(rax + 8), rdx)?;
        g.expect_fault(fault(GP), |g| g.invpcid(rcx, xmmword_ptr(rax)))?;
        g.expect_user_fault(fault(GP), |g| g.invpcid(rcx, xmmword_ptr(rax)))
    });
}

#[test]
fn address_spaces_with_their_own_pcids_are_kept_apart() {
    long(|g| {
        // Another topmost table: as the first, but with another window.
        let (other, pointers, directory) = (frame(10), frame(11), frame(12));
        let table = P | RW | US;
        g.put(frame(0), &[10]);
        g.put(frame(1), &[11]);
        g.map(0, frame(0) | P | RW);
        g.put(SPARE_TABLE, &[frame(1) | P | RW]);
        set_cr4(g, PCIDE)?;
        g.mov(rax, qword_ptr(PML4))?;
        g.mov(qword_ptr(other), rax)?;
        store(g, other + 8, pointers | table)?;
        store(g, pointers, directory | table)?;
        store(g, directory, SPARE_TABLE | table)?;
        g.mov(rbx, WINDOW)?;
        for _ in 0..2 {
            for (space, value) in [(PML4, 10), (other | 1, 11)] {
                g.mov(rax, space | 1 << 63)?;
                g.mov(cr3, rax)?;
                g.mov(rax, qword_ptr(rbx))?;
                g.expect(rax, value)?;
            }
        }
        g.mov(rax, cr3)?;
        g.expect(rax, other | 1)
    });
}

#[test]
fn pcids_are_enabled_in_pcid_0_of_long_mode_only() {
    long(|g| {
        g.mov(rax, PML4 | 1 << 63)?;
        g.expect_fault(fault(GP), |g| g.mov(cr3, rax))?;
        g.mov(rax, PML4 | 0x18)?;
        g.mov(cr3, rax)?;
        g.mov(rax, cr4)?;
        g.or(eax, PCIDE)?;
        g.expect_fault(fault(GP), |g| g.mov(cr4, rax))
    });
}

#[test]
fn a_page_that_becomes_present_needs_no_invalidation() {
    long(|g| {
        g.put(frame(0), &[10]);
        g.mov(rbx, WINDOW)?;
        g.expect_fault(page_fault(0, WINDOW), |g| g.mov(rax, qword_ptr(rbx)))?;
        store(g, WINDOW_TABLE, frame(0) | P)?;
        g.mov(rax, qword_ptr(rbx))?;
        g.expect(rax, 10)?;
        // More rights need none either: the fault of an old translation is not repeated.
        g.expect_fault(page_fault(3, WINDOW), |g| g.mov(qword_ptr(rbx), 12))?;
        store(g, WINDOW_TABLE, frame(0) | P | RW)?;
        g.mov(qword_ptr(rbx), 12)?;
        g.expect_memory(frame(0), 12)
    });
}

#[test]
fn rights_that_are_taken_away_are_gone_after_invlpg() {
    long(|g| {
        g.map(0, frame(0) | P | RW | US);
        g.mov(rbx, WINDOW)?;
        g.user(|g| g.mov(qword_ptr(rbx), 1))?;
        g.mov(qword_ptr(rbx), 1)?;
        store(g, WINDOW_TABLE, frame(0) | P)?;
        g.invlpg(ptr(rbx))?;
        g.expect_fault(page_fault(3, WINDOW), |g| g.mov(qword_ptr(rbx), 2))?;
        g.expect_user_fault(page_fault(5, WINDOW), |g| g.mov(rax, qword_ptr(rbx)))?;
        store(g, WINDOW_TABLE, 0)?;
        g.invlpg(ptr(rbx))?;
        g.expect_fault(page_fault(0, WINDOW), |g| g.mov(rax, qword_ptr(rbx)))
    });
}

#[test]
fn code_is_fetched_through_new_translations_after_invlpg() {
    long(|g| {
        // MOV EAX, imm32; RET.
        g.put_bytes(frame(0), [0xb8, 10, 0, 0, 0, 0xc3]);
        g.put_bytes(frame(1), [0xb8, 11, 0, 0, 0, 0xc3]);
        g.map(0, frame(0) | P);
        g.mov(rbx, WINDOW)?;
        g.call(rbx)?;
        g.expect(rax, 10)?;
        store(g, WINDOW_TABLE, frame(1) | P)?;
        g.invlpg(ptr(rbx))?;
        g.call(rbx)?;
        g.expect(rax, 11)?;
        store(g, WINDOW_TABLE, 0)?;
        g.invlpg(ptr(rbx))?;
        g.expect_fault(page_fault(0x10, WINDOW).elsewhere(), |g| g.jmp(rbx))
    });
}

#[test]
fn hot_code_goes_on_where_its_second_page_is_now() {
    long(|g| {
        // NOPs, MOV EAX, imm32 whose last three bytes lie in the second page, RET.
        g.put_bytes(frame(0) + 0xff0, [0x90; 14]);
        g.put_bytes(frame(0) + 0xffe, [0xb8, 0]);
        g.put_bytes(frame(1), [1, 0, 0, 0xc3]);
        g.put_bytes(frame(2), [2, 0, 0, 0xc3]);
        g.map(0, frame(0) | P);
        g.map(1, frame(1) | P);
        g.mov(rbx, WINDOW + 0xff0)?;
        for (place, value) in [(frame(1), 0x100), (frame(2), 0x200), (frame(1), 0x100)] {
            store(g, WINDOW_TABLE + 8, place | P)?;
            g.invlpg(ptr(rbx + 16))?;
            let mut again = g.create_label();
            g.xor(r12d, r12d)?;
            g.mov(ecx, 500)?;
            g.place(&mut again)?;
            g.call(rbx)?;
            g.add(r12, rax)?;
            g.dec(ecx)?;
            g.jnz(again)?;
            g.expect(r12, 500 * value)?;
        }
        store(g, WINDOW_TABLE + 8, 0)?;
        g.invlpg(ptr(rbx + 16))?;
        g.expect_fault(page_fault(0x10, WINDOW + 0x1000).elsewhere(), |g| g.jmp(rbx))?;
        g.expect_frame(0, WINDOW + 0xffe)
    });
}

/// A function is called from a page that `invalidate` tells, in that function, to be another one.
fn returns_to_another_page(invalidate: impl FnOnce(&mut Long) -> Emit) {
    const TIMES: u32 = 2000;
    long(|g| {
        for n in [0, 1] {
            // CALL RSI; ADD R8, imm8; RET.
            g.put_bytes(frame(n), [0xff, 0xd6, 0x49, 0x83, 0xc0, n as u8, 0xc3]);
        }
        let change = g.out_of_line(|g| {
            g.mov(qword_ptr(WINDOW_TABLE), r12)?;
            invalidate(g)?;
            g.ret()
        })?;
        g.lea(rsi, ptr(change))?;
        g.mov(rbx, WINDOW)?;
        g.mov(r12, frame(0) | P)?;
        g.map(0, frame(0) | P);
        g.xor(r8d, r8d)?;
        g.rounds(TIMES, |g| {
            // Seldom enough for the page to become hot in between.
            let mut same = g.create_label();
            g.test(r13d, 0x7f)?;
            g.jnz(same)?;
            g.mov(rax, frame(0) ^ frame(1))?;
            g.xor(r12, rax)?;
            g.place(&mut same)?;
            g.call(rbx)
        })?;
        let changes = |round: u32| TIMES / 0x80 - (round - 1) / 0x80;
        let second = (1..=TIMES).filter(|&round| changes(round) % 2 == 1).count();
        g.expect(r8, second as u64)
    });
}

#[test]
fn a_return_goes_on_in_the_page_that_is_there_now() {
    returns_to_another_page(|g| g.invlpg(ptr(rbx)));
    returns_to_another_page(reload_cr3);
}

#[test]
fn code_goes_on_in_its_own_page_after_another_was_there_for_a_while() {
    /// CMP EAX, 1; JE 0x100; RET.
    const FUNCTION: [u8; 10] = [0x83, 0xf8, 0x01, 0x0f, 0x84, 0xf7, 0, 0, 0, 0xc3];
    const TIMES: u32 = 5000;
    long(|g| {
        for n in 0..2 {
            g.put_bytes(frame(n), FUNCTION);
            // MOV EDX, imm32; RET.
            g.put_bytes(frame(n) + 0x100, [0xba, n as u8, 0, 0, 0, 0xc3]);
        }
        g.put_bytes(frame(2), [0xc3]);
        g.map(0, frame(0) | P);
        g.map(128, frame(2) | P);
        g.mov(rbx, WINDOW)?;
        g.mov(r13, WINDOW + 0x8_0000)?;
        for (leads, taken) in [(0, 0), (1, 1)] {
            // Without an invalidation the old page may be used or the new one; an engine may have forgotten where it is.
            store(g, WINDOW_TABLE, frame(leads) | P)?;
            g.call(r13)?;
            let mut again = g.create_label();
            g.mov(ecx, TIMES)?;
            g.place(&mut again)?;
            g.mov(eax, taken)?;
            g.call(rbx)?;
            g.dec(ecx)?;
            g.jnz(again)?;
        }
        store(g, WINDOW_TABLE, frame(0) | P)?;
        g.invlpg(ptr(rbx))?;
        g.mov(edx, 2)?;
        g.mov(eax, 1)?;
        g.call(rbx)?;
        g.expect(rdx, 0)
    });
}
