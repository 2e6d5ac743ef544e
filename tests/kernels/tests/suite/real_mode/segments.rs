//! Segments of 64 KiB, and how code gets beyond them.

use iced_x86::code_asm::*;
use tern_test_kernels::expect::vector::{GP, SS};
use tern_test_kernels::real::{DATA, Real, real};

type Emit = tern_test_kernels::guest::Emit;

/// The handler of a fault notes its vector in EBP and goes on behind the instruction, which has `length` bytes.
fn skip(g: &mut Real, vector: u8, length: i32) -> Emit {
    g.handler(vector, |g| {
        g.push(bx)?;
        g.push(bp)?;
        g.mov(bp, sp)?;
        g.add(word_ptr(bp + 4), length)?;
        g.pop(bp)?;
        g.pop(bx)?;
        g.mov(ebp, u32::from(vector))?;
        g.iret()
    })
}

#[test]
fn an_address_is_the_selector_times_16_plus_the_offset() {
    real(|g| {
        g.mov(dword_ptr(u32::from(DATA) + 0x123), 0x1122_3344)?;
        g.mov(ax, 0x0212)?;
        g.mov(fs, ax)?;
        g.mov(eax, dword_ptr(0x3).fs())?;
        g.expect(eax, 0x1122_3344)
    });
}

#[test]
fn the_highest_segment_reaches_beyond_one_mebibyte() {
    real(|g| {
        g.mov(ax, -1)?;
        g.mov(fs, ax)?;
        g.mov(dword_ptr(0x10).fs(), 0x5566_7788)?;
        // It is not the memory at 0: there is no gate of address line 20.
        g.mov(eax, dword_ptr(0))?;
        g.expect(eax, 0)?;
        g.mov(eax, dword_ptr(0x10).fs())?;
        g.expect(eax, 0x5566_7788)
    });
}

#[test]
fn effective_addresses_wrap_at_64_kib() {
    real(|g| {
        g.mov(byte_ptr(u32::from(DATA)), 0x77)?;
        g.mov(bx, -2)?;
        g.mov(si, i32::from(DATA) + 2)?;
        g.mov(al, byte_ptr(bx + si))?;
        g.movzx(eax, al)?;
        g.expect(eax, 0x77)
    });
}

#[test]
fn a_word_across_the_end_of_a_segment_is_a_fault() {
    real(|g| {
        skip(g, GP, 2)?;
        skip(g, SS, 3)?;
        g.mov(bx, -1)?;
        g.mov(al, byte_ptr(bx))?;
        g.xor(ebp, ebp)?;
        g.mov(ax, word_ptr(bx))?;
        g.expect(ebp, u32::from(GP))?;
        g.xor(ebp, ebp)?;
        g.mov(ax, word_ptr(bx).ss())?;
        g.expect(ebp, u32::from(SS))
    });
}

#[test]
fn the_stack_pointer_wraps_at_64_kib() {
    real(|g| {
        g.mov(cx, sp)?;
        g.mov(ax, 0x3000)?;
        g.mov(ss, ax)?;
        g.xor(sp, sp)?;
        g.push(0x1234)?;
        g.movzx(edx, sp)?;
        g.xor(ax, ax)?;
        g.mov(ss, ax)?;
        g.mov(sp, cx)?;
        g.expect(edx, 0xfffe)?;
        g.mov(ax, 0x3000)?;
        g.mov(fs, ax)?;
        g.movzx(eax, word_ptr(0xfffe).fs())?;
        g.expect(eax, 0x1234)
    });
}

#[test]
fn string_instructions_wrap_their_pointers() {
    real(|g| {
        g.mov(ax, 0x3000)?;
        g.mov(es, ax)?;
        g.mov(di, -2)?;
        g.mov(al, 0x5a)?;
        g.mov(cx, 4)?;
        g.rep().stosb()?;
        g.movzx(edi, di)?;
        g.expect(edi, 2)?;
        g.movzx(eax, word_ptr(0).es())?;
        g.expect(eax, 0x5a5a)?;
        g.movzx(eax, word_ptr(0xfffe).es())?;
        g.expect(eax, 0x5a5a)
    });
}

#[test]
fn operands_and_addresses_of_32_bits_are_there_by_prefix() {
    real(|g| {
        g.mov(eax, 0x1234_5678)?;
        g.add(eax, 0x1111_1111)?;
        g.expect(eax, 0x2345_6789)?;
        g.mov(ebx, u32::from(DATA))?;
        g.mov(ecx, 4)?;
        g.mov(dword_ptr(ebx + ecx * 4), eax)?;
        g.mov(edx, dword_ptr(u32::from(DATA) + 16))?;
        g.expect(edx, 0x2345_6789)?;
        // A 32-bit address is still checked against the limit.
        skip(g, GP, 4)?;
        g.mov(ebx, 0x1_0000)?;
        g.xor(ebp, ebp)?;
        g.mov(eax, dword_ptr(ebx))?;
        g.expect(ebp, u32::from(GP))
    });
}

#[test]
fn limits_of_protected_mode_stay_after_the_return() {
    real(|g| {
        // "Unreal mode". The descriptor is flat data.
        let data = u32::from(DATA);
        for (offset, value) in [(8, 0x0000_ffff), (12, 0x00cf_9300), (16, 0x000f), (18, data)] {
            g.mov(dword_ptr(data + offset), value)?;
        }
        g.cli()?;
        g.lgdt(ptr(data + 16))?;
        g.mov(eax, cr0)?;
        g.or(al, 1)?;
        g.mov(cr0, eax)?;
        g.mov(bx, 8)?;
        g.mov(fs, bx)?;
        g.and(al, -2)?;
        g.mov(cr0, eax)?;
        g.mov(ebx, 0x20_0000)?;
        g.mov(dword_ptr(ebx).fs(), 0x99aa_bbcc_u32)?;
        g.mov(eax, dword_ptr(ebx).fs())?;
        g.expect(eax, 0x99aa_bbcc)?;
        // A new selector changes the base and keeps the limit.
        g.mov(ax, 0x1000)?;
        g.mov(fs, ax)?;
        g.sub(ebx, 0x1_0000)?;
        g.mov(eax, dword_ptr(ebx).fs())?;
        g.expect(eax, 0x99aa_bbcc)
    });
}

#[test]
fn far_calls_and_returns_change_the_code_segment() {
    real(|g| {
        let (there, over) = (g.mark(), g.mark());
        g.jmp(over.label)?;
        g.place(there)?;
        g.mov(ax, cs)?;
        g.retf()?;
        g.place(over)?;
        // The same place by another selector.
        let offset = g.address(there) - 0x1000;
        g.call_far(0x100, offset)?;
        g.movzx(eax, ax)?;
        g.expect(eax, 0x100)?;
        g.mov(ax, cs)?;
        g.movzx(eax, ax)?;
        g.expect(eax, 0)
    });
}
