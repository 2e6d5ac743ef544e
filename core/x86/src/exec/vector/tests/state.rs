//! The management of x87 and SSE state, through memory.

use super::bench::{MAPPED, processor, read, real_mode, run, write};
use super::idle;
use crate::exception::Vector;
use crate::state::{Efer, FpuState, SegmentRegister};

const RAX: usize = 0;
const RSI: usize = 6;
const RDI: usize = 7;
const FNSAVE: &[u8] = &[0xdd, 0x36];
const FXSAVE: &[u8] = &[0x0f, 0xae, 0x06];
const FXSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x06];
const FXRSTOR64: &[u8] = &[0x48, 0x0f, 0xae, 0x0e];
const XSAVE64: &[u8] = &[0x48, 0x0f, 0xae, 0x26];
const XSAVEOPT64: &[u8] = &[0x48, 0x0f, 0xae, 0x36];
const XSAVEC64: &[u8] = &[0x48, 0x0f, 0xc7, 0x26];
const XRSTOR64: &[u8] = &[0x48, 0x0f, 0xae, 0x2e];
const MASKMOVDQU: &[u8] = &[0x66, 0x0f, 0xf7, 0xca];

fn sample() -> FpuState {
    let mut fpu = FpuState::new();
    fpu.set_fcw(0x027f);
    fpu.set_fsw(5 << 11);
    fpu.set_ftw(0xe0);
    fpu.set_xmm(0, 11);
    fpu.set_xmm(15, 77);
    fpu
}

#[test]
fn what_one_instruction_saves_its_counterpart_restores() {
    for (save, restore) in
        [(FXSAVE64, FXRSTOR64), (XSAVE64, XRSTOR64), (XSAVEOPT64, XRSTOR64), (XSAVEC64, XRSTOR64)]
    {
        let mut p = processor(idle);
        p.cpu.gpr[RSI] = 0x1f40;
        p.cpu.gpr[RAX] = u64::MAX;
        write(&mut p, 0x1f40, &[0; 576]);
        p.cpu.fpu = sample();
        assert_eq!(run(&mut p, save), Ok(()));
        p.cpu.fpu = FpuState::new();
        assert_eq!(run(&mut p, restore), Ok(()));
        assert_eq!(p.cpu.fpu, sample(), "{save:02x?}");
    }
}

#[test]
fn areas_must_be_aligned() {
    for (bytes, alignment) in [(FXSAVE, 16), (FXRSTOR64, 16), (XSAVE64, 64), (XSAVEC64, 64), (XRSTOR64, 64)] {
        let mut p = processor(idle);
        write(&mut p, 0x2000, &[0; 0x400]);
        p.cpu.gpr[RSI] = 0x2000 + alignment / 2;
        assert_eq!(run(&mut p, bytes), Err(Vector::Gp), "{bytes:02x?}");
        p.cpu.gpr[RSI] = 0x2000 + alignment;
        assert_eq!(run(&mut p, bytes), Ok(()), "{bytes:02x?}");
    }
}

#[test]
fn an_area_that_reaches_into_an_unmapped_page_is_not_begun() {
    // In the last two only bytes that are not stored, and the header, are in the second page.
    for (bytes, before) in
        [(FNSAVE, 0x40), (XSAVE64, 0x100), (XSAVEC64, 0x100), (FXSAVE, 0x1c0), (XSAVE64, 0x200)]
    {
        let mut p = processor(idle);
        p.cpu.fpu = sample();
        p.cpu.gpr[RAX] = 3;
        p.cpu.gpr[RSI] = MAPPED.end - before;
        assert_eq!(run(&mut p, bytes), Err(Vector::Pf), "{bytes:02x?}");
        assert_eq!((p.cpu.exception.payload & !0xfff, p.cpu.exception.error_code), (MAPPED.end, Some(2)));
        assert!(read(&mut p, MAPPED.end - before, before as usize).iter().all(|&byte| byte == 0xcc));
        assert_eq!(p.cpu.fpu, sample(), "{bytes:02x?}");
    }
}

#[test]
fn fast_fxsave_leaves_the_xmm_registers_out_at_privilege_level_0() {
    for (cpl, stored) in [(0, false), (3, true)] {
        let mut p = processor(idle);
        p.cpu.fpu = sample();
        p.cpu.efer |= Efer::FFXSR;
        p.cpu.cpl = cpl;
        p.cpu.gpr[RSI] = 0x2000;
        assert_eq!(run(&mut p, FXSAVE), Ok(()));
        assert_eq!(read(&mut p, 0x20a0, 1) == [11], stored);
    }
}

#[test]
fn xsave_takes_the_components_of_edx_and_eax() {
    let mut p = processor(idle);
    p.cpu.fpu = sample();
    p.cpu.gpr[RAX] = 0xffff_ffff_0000_0002;
    p.cpu.gpr[RSI] = 0x2000;
    write(&mut p, 0x2200, &[0; 64]);
    assert_eq!(run(&mut p, XSAVE64), Ok(()));
    assert_eq!(read(&mut p, 0x2000, 2), [0xcc, 0xcc]);
    assert_eq!(read(&mut p, 0x20a0, 1), [11]);
    assert_eq!(read(&mut p, 0x2200, 1), [2]);
}

#[test]
fn the_x87_environment_follows_operand_size_and_mode() {
    for (real, bytes, size) in [
        (false, &[0xd9, 0x36][..], 28),
        (false, &[0x66, 0xd9, 0x36], 14),
        (true, &[0xd9, 0x34], 14),
        (true, &[0x66, 0xd9, 0x34], 28),
    ] {
        let mut p = processor(idle);
        if real {
            real_mode(&mut p);
        }
        p.cpu.gpr[RSI] = 0x2000;
        // An instruction pointer of more than 16 bits shows the difference between the modes.
        p.cpu.fpu.image_mut()[8..12].copy_from_slice(&0x0001_2345u32.to_le_bytes());
        p.cpu.fpu.set_fcw(0x0340);
        assert_eq!(run(&mut p, bytes), Ok(()));
        let field = size / 7;
        let high = read(&mut p, 0x2000 + 4 * field, 2).to_vec();
        assert_eq!(high == [0x00, 0x10], real, "{bytes:02x?}");
        assert_eq!(read(&mut p, 0x2000 + size, 1), [0xcc]);
        assert_eq!(p.cpu.fpu.fcw(), 0x037f, "exceptions are masked behind it");
    }
}

#[test]
fn fnsave_starts_afresh_and_frstor_brings_the_state_back() {
    for prefix in [&[][..], &[0x66]] {
        let instruction = |opcode: &[u8]| [prefix, opcode].concat();
        let mut p = processor(idle);
        p.cpu.gpr[RSI] = 0x1fd0;
        p.cpu.fpu = sample();
        p.cpu.fpu.image_mut()[32..42].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 0x80, 0xff, 0x3f]);
        let before = p.cpu.fpu;
        assert_eq!(run(&mut p, &instruction(FNSAVE)), Ok(()));
        assert_eq!((p.cpu.fpu.fcw(), p.cpu.fpu.fsw(), p.cpu.fpu.ftw()), (0x037f, 0, 0));
        assert_eq!(run(&mut p, &instruction(&[0xdd, 0x26])), Ok(()));
        assert_eq!(p.cpu.fpu, before);
    }
}

#[test]
fn control_words_travel_through_memory() {
    let mut p = processor(idle);
    p.cpu.gpr[RSI] = 0x2000;
    write(&mut p, 0x2000, &[0x7f, 0x02, 0, 0]);
    assert_eq!(run(&mut p, &[0xd9, 0x2e]), Ok(())); // fldcw
    assert_eq!(p.cpu.fpu.fcw(), 0x027f);
    p.cpu.fpu.set_fsw(0x3801);
    assert_eq!(run(&mut p, &[0xdd, 0x3e]), Ok(())); // fnstsw
    assert_eq!(read(&mut p, 0x2000, 4), [0x01, 0x38, 0, 0]);
    p.cpu.gpr[RAX] = 0x1111_2222;
    assert_eq!(run(&mut p, &[0xdf, 0xe0]), Ok(())); // fnstsw ax
    assert_eq!(p.cpu.gpr[RAX], 0x1111_3801);
    assert_eq!(run(&mut p, &[0xdb, 0xe2]), Ok(())); // fnclex
    assert_eq!(p.cpu.fpu.fsw(), 0x3800);
    assert_eq!(run(&mut p, &[0xd9, 0x3e]), Ok(())); // fnstcw
    assert_eq!(read(&mut p, 0x2000, 2), [0x7f, 0x02]);
    assert_eq!(run(&mut p, &[0xdb, 0xe3]), Ok(())); // fninit
    assert_eq!((p.cpu.fpu.fcw(), p.cpu.fpu.fsw()), (0x037f, 0));
    write(&mut p, 0x2000, &[0, 0, 1, 0]);
    assert_eq!(run(&mut p, &[0x0f, 0xae, 0x16]), Err(Vector::Gp)); // ldmxcsr
    assert_eq!(run(&mut p, &[0x0f, 0xae, 0x1e]), Ok(())); // stmxcsr
    assert_eq!(read(&mut p, 0x2000, 4), [0x80, 0x1f, 0, 0]);
}

#[test]
fn a_masked_move_stores_the_selected_bytes_at_rdi() {
    let mut p = processor(idle);
    p.cpu.address_base[SegmentRegister::Gs as usize] = 0x100;
    p.cpu.gpr[RDI] = 0xffff_ffff_0000_1ef8;
    p.cpu.fpu.set_xmm(1, u128::from_le_bytes(*b"abcdefghijklmnop"));
    p.cpu.fpu.set_xmm(2, 0x80 | 0x80 << 120);
    assert_eq!(run(&mut p, &[&[0x65, 0x67], MASKMOVDQU].concat()), Ok(()));
    assert_eq!(read(&mut p, 0x1ff8, 2), [b'a', 0xcc]);
    assert_eq!(read(&mut p, 0x2006, 2), [0xcc, b'p']);
}

#[test]
fn a_masked_move_is_all_or_nothing_and_also_what_is_not_selected_must_be_writable() {
    let mut p = processor(idle);
    p.cpu.gpr[RDI] = MAPPED.end - 4;
    for mask in [0x80 | 0x80 << 120, 0x80, 0] {
        p.cpu.fpu.set_xmm(2, mask);
        assert_eq!(run(&mut p, MASKMOVDQU), Err(Vector::Pf));
        assert_eq!(read(&mut p, MAPPED.end - 4, 1), [0xcc]);
    }
}

#[test]
fn maskmovq_stores_eight_bytes_and_enters_mmx() {
    let mut p = processor(idle);
    p.cpu.gpr[RDI] = 0x2000;
    p.cpu.fpu.image_mut()[32..40].copy_from_slice(b"abcdefgh");
    p.cpu.fpu.image_mut()[48..56].copy_from_slice(&[0, 0x80, 0, 0, 0, 0, 0, 0xff]);
    assert_eq!(run(&mut p, &[0x0f, 0xf7, 0xc1]), Ok(()));
    assert_eq!(read(&mut p, 0x2000, 9), b"\xccb\xcc\xcc\xcc\xcc\xcch\xcc");
    assert_eq!((p.cpu.fpu.fsw(), p.cpu.fpu.ftw()), (0, 0xff));
}
