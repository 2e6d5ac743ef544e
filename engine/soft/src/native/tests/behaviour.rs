//! What callers rely on, case by case.

use std::arch::asm;

use iced_x86::{Decoder, DecoderOptions};
use tern_x86::state::{FpuState, Mxcsr};
use tern_x86::vector::{classify, x87_exception_pending};

use super::super::{NativeUnit, Outcome, PrepareError, StubId};
use super::bytes::native_instructions;
use super::random::Random;

const IE: u32 = 0x01;
const ZE: u32 = 0x04;
const UE: u32 = 0x10;

/// A unit with the state that its instructions work on.
struct Guest {
    unit: NativeUnit,
    fpu: FpuState,
    gpr: [u64; 32],
    flags: u64,
    memory: [u128; 4],
}

impl Guest {
    fn new() -> Self {
        let unit = NativeUnit::new().expect("executable memory");
        Self { unit, fpu: FpuState::new(), gpr: [0; 32], flags: 0, memory: [0; 4] }
    }

    fn prepare(&mut self, bytes: &[u8]) -> StubId {
        let instruction = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
        let info = classify(&instruction).expect("native");
        self.unit.prepare(&instruction, &info).expect("room")
    }

    fn run(&mut self, bytes: &[u8]) -> Outcome {
        let stub = self.prepare(bytes);
        let memory = self.memory.as_mut_ptr().cast();
        // SAFETY: the memory has more bytes than any operand and is aligned to 16.
        unsafe { self.unit.run(stub, &mut self.fpu, &mut self.gpr, &mut self.flags, memory) }
    }

    fn unmask(&mut self, flag: u32) {
        self.fpu.set_mxcsr(Mxcsr::from_bits_truncate(0x1f80 & !(flag << 7)));
    }
}

#[test]
fn an_unmasked_invalid_operation_leaves_the_destination_alone() {
    let mut guest = Guest::new();
    guest.unmask(IE);
    guest.fpu.set_xmm(0, 0x1234);
    guest.fpu.set_xmm(1, u128::from((-1f32).to_bits()));
    assert_eq!(guest.run(&[0xf3, 0x0f, 0x51, 0xc1]), Outcome::SimdException); // sqrtss xmm0, xmm1
    assert_eq!((guest.fpu.xmm(0), guest.fpu.mxcsr().bits()), (0x1234, 0x1f01));
}

#[test]
fn a_masked_division_by_zero_is_infinite_and_leaves_a_flag() {
    let mut guest = Guest::new();
    guest.fpu.set_xmm(0, u128::from(1f32.to_bits()));
    assert_eq!(guest.run(&[0xf3, 0x0f, 0x5e, 0xc1]), Outcome::Completed); // divss xmm0, xmm1
    assert_eq!(guest.fpu.xmm(0), u128::from(f32::INFINITY.to_bits()));
    assert_eq!(guest.fpu.mxcsr().bits(), 0x1f80 | ZE);
}

#[test]
fn a_tiny_exact_result_raises_underflow_only_when_unmasked() {
    let addss = [0xf3, 0x0f, 0x58, 0xc1];
    let mut guest = Guest::new();
    guest.fpu.set_xmm(0, 5);
    assert_eq!(guest.run(&addss), Outcome::Completed);
    assert_eq!(guest.fpu.mxcsr().bits() & UE, 0);
    guest.unmask(UE);
    assert_eq!(guest.run(&addss), Outcome::SimdException);
    assert_eq!((guest.fpu.mxcsr().bits() & UE, guest.fpu.xmm(0)), (UE, 5));
}

#[test]
fn comparisons_set_the_arithmetic_flags_and_keep_the_others() {
    let mut guest = Guest::new();
    guest.flags = 0x0000_0001_0000_0a95;
    assert_eq!(guest.run(&[0x0f, 0x2f, 0xc1]), Outcome::Completed); // comiss xmm0, xmm1: equal
    assert_eq!(guest.flags, 0x0000_0001_0000_0240);
    guest.unmask(IE);
    guest.fpu.set_xmm(0, 0x7f80_0001);
    assert_eq!(guest.run(&[0x0f, 0x2f, 0xc1]), Outcome::SimdException);
    assert_eq!(guest.flags, 0x0000_0001_0000_0240);
}

#[test]
fn a_32_bit_result_clears_the_upper_half_of_its_register() {
    let mut guest = Guest::new();
    guest.gpr[11] = u64::MAX;
    guest.fpu.set_xmm(3, 0x8765_4321);
    assert_eq!(guest.run(&[0x66, 0x41, 0x0f, 0x7e, 0xdb]), Outcome::Completed); // movd r11d, xmm3
    assert_eq!(guest.gpr[11], 0x8765_4321);
}

#[test]
fn nothing_executes_while_an_x87_exception_is_pending() {
    for waiting in [&[0xd9, 0xe8][..], &[0x0f, 0x77], &[0x0f, 0x2a, 0xc1]] {
        let mut guest = Guest::new();
        guest.fpu.set_fcw(0x037e);
        guest.fpu.set_fsw(0x0001);
        let before = guest.fpu;
        assert_eq!(guest.run(waiting), Outcome::X87Pending);
        assert_eq!(guest.fpu, before);
    }
}

#[test]
fn integers_from_memory_are_converted_without_a_look_at_the_x87_registers() {
    // cvtpi2ps xmm0, [rsi]; cvtpi2pd xmm0, [rsi]
    for (convert, result) in [
        (&[0x0f, 0x2a, 0x06][..], u128::from(3f32.to_bits()) | u128::from(7f32.to_bits()) << 32),
        (&[0x66, 0x0f, 0x2a, 0x06], u128::from(3f64.to_bits()) | u128::from(7f64.to_bits()) << 64),
    ] {
        let mut guest = Guest::new();
        // One register is in use, the top of the stack is 5, and an exception is pending.
        guest.fpu.set_ftw(0x20);
        guest.fpu.set_fcw(0x037e);
        guest.fpu.set_fsw(5 << 11 | 1);
        guest.memory[0] = 7 << 32 | 3;
        let mut expected = guest.fpu;
        expected.set_xmm(0, result);
        assert_eq!(guest.run(convert), Outcome::Completed);
        assert_eq!(guest.fpu, expected);
        assert_eq!(host_tags(), 0, "the host's registers are free");
    }
}

/// Which of the host's x87 registers are in use.
fn host_tags() -> u8 {
    #[repr(align(16))]
    struct Image([u8; 512]);
    let mut image = Image([0; 512]);
    // SAFETY: the image is ours, as long and as aligned as it must be.
    unsafe { asm!("fxsave64 [{}]", in(reg) image.0.as_mut_ptr(), options(nostack, preserves_flags)) };
    image.0[4]
}

#[test]
fn an_unmasked_x87_exception_stays_pending_and_shows_no_host_address() {
    let mut guest = Guest::new();
    assert_eq!(guest.run(&[0xd9, 0xee]), Outcome::Completed); // fldz
    assert_eq!(guest.run(&[0xd9, 0xe8]), Outcome::Completed); // fld1
    guest.fpu.set_fcw(0x037b);
    guest.fpu.image_mut()[6..24].fill(0x05);
    assert_eq!(guest.run(&[0xd8, 0xf1]), Outcome::X87Exception { stored: false }); // fdiv st(0), st(1)
    assert!(x87_exception_pending(&guest.fpu));
    assert_eq!(guest.fpu.fsw() & 0x80ff, 0x8084);
    assert!(guest.fpu.image()[6..24].iter().all(|&byte| byte == 0x05));
    assert!(guest.fpu.image()[28..32].iter().all(|&byte| byte == 0));
}

#[test]
fn unmasked_exceptions_prevent_x87_stores_except_for_precision() {
    let mut guest = Guest::new();
    guest.fpu.set_fcw(0x037e);
    guest.memory[0] = 77;
    assert_eq!(guest.run(&[0xd9, 0x1f]), Outcome::X87Exception { stored: false }); // fstp m32 of an empty stack
    assert_eq!(guest.memory[0], 77);

    let mut guest = Guest::new();
    assert_eq!(guest.run(&[0xd9, 0xeb]), Outcome::Completed); // fldpi
    guest.fpu.set_fcw(0x035f);
    assert_eq!(guest.run(&[0xdf, 0x17]), Outcome::X87Exception { stored: true }); // fist m16
    assert_eq!(guest.memory[0], 3);
}

#[test]
fn images_that_fxrstor_would_refuse_are_loaded_without_a_fault() {
    let mut guest = Guest::new();
    guest.fpu.image_mut()[24..28].fill(0xff);
    guest.fpu.set_fsw(0x8080);
    assert_eq!(guest.run(&[0xd9, 0xe8]), Outcome::Completed);
    assert_eq!(guest.fpu.mxcsr().bits(), 0xffff);
    guest.fpu.image_mut()[24..28].fill(0xff);
    assert_eq!(guest.run(&[0x0f, 0x58, 0xc1]), Outcome::Completed);
}

#[test]
fn the_host_gets_its_own_control_words_and_an_empty_stack_back() {
    let mut guest = Guest::new();
    guest.fpu.set_mxcsr(Mxcsr::from_bits_truncate(0xff80));
    guest.fpu.set_fcw(0x0c40);
    guest.fpu.set_ftw(0x7f);
    guest.fpu.set_xmm(1, u128::from(3f32.to_bits()));
    // sqrtss, cvtps2pi, fldz, faddp; then fsqrt of a negative infinity, which leaves an exception pending.
    let negative_infinity = [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0xff];
    for instruction in
        [&[0xf3, 0x0f, 0x51, 0xc1][..], &[0x0f, 0x2d, 0xc1], &[0xd9, 0xee], &[0xde, 0xc1], &[0xd9, 0xfa]]
    {
        guest.fpu.image_mut()[32..42].copy_from_slice(&negative_infinity);
        let _ = guest.run(instruction);
        let mut mxcsr = 0u32;
        let mut environment = [0u16; 14];
        // SAFETY: the instructions store MXCSR and the x87 environment, and load the control word that they changed.
        unsafe {
            asm!("stmxcsr [{m}]", "fnstenv [{e}]", "fldcw [{e}]", m = in(reg) &raw mut mxcsr,
                e = in(reg) &raw mut environment);
        }
        assert_eq!((mxcsr & !0x3f, environment[0], environment[4]), (0x1f80, 0x037f, 0xffff));
        assert_eq!(environment[2] & 0x80, 0, "no exception is pending");
    }
    assert!(x87_exception_pending(&guest.fpu));
}

#[test]
fn instructions_that_differ_only_in_their_address_share_a_stub() {
    let mut guest = Guest::new();
    let id = guest.prepare(&[0x0f, 0x10, 0x00]); // movups xmm0, [rax]
    assert_eq!(guest.prepare(&[0x42, 0x0f, 0x10, 0x84, 0x8b, 1, 2, 3, 4]), id); // [rbx + r9 * 4 + disp32]
    assert_eq!(guest.prepare(&[0x64, 0x0f, 0x10, 0x05, 1, 2, 3, 4]), id); // fs:[rip + disp32]
    assert_eq!(guest.prepare(&[0x67, 0x0f, 0x10, 0x40, 8]), id); // [eax + 8]
    assert_ne!(guest.prepare(&[0x0f, 0x10, 0x08]), id); // movups xmm1, [rax]
}

#[test]
fn a_full_unit_says_so_and_serves_again_after_clearing() {
    let mut unit = NativeUnit::new().expect("executable memory");
    let (instruction, info) =
        native_instructions(&mut Random(1)).into_values().flatten().next().expect("some");
    let mut instruction = instruction;
    let mut shuffles = Decoder::new(64, &[0x66, 0x0f, 0x70, 0xc1, 0x00], DecoderOptions::NONE);
    let mut shuffle = shuffles.decode();
    let shuffle_info = classify(&shuffle).expect("native");
    let registers: Vec<_> = iced_x86::Register::values().filter(|r| r.is_xmm() && r.number() < 16).collect();
    let mut prepared = 0u32;
    'fill: for order in 0..=255u8 {
        for &to in &registers {
            for &from in &registers {
                shuffle.set_immediate8(order);
                shuffle.set_op0_register(to);
                shuffle.set_op1_register(from);
                let promised = unit.room() > 0;
                match unit.prepare(&shuffle, &shuffle_info) {
                    Ok(_) => prepared += 1,
                    Err(PrepareError::Full) => {
                        assert!(!promised);
                        break 'fill;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
    assert!(prepared > 10_000, "{prepared} stubs fit");
    unit.clear();
    instruction.set_len(0);
    assert_eq!(unit.prepare(&instruction, &info).expect("room"), StubId(0));
}

#[test]
fn a_unit_can_move_to_its_thread() {
    fn sendable<T: Send>() {}
    sendable::<NativeUnit>();
}
