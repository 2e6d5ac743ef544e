//! What happens around instructions that the environment executes.

use super::bench::{MAPPED, processor, read, run, write};
use super::idle;
use crate::cpu::Cpu;
use crate::cpu::word::BLOCK;
use crate::environment::VectorOperand;
use crate::exception::{Exception, Stop, Vector};
use crate::state::{Cr4, Mxcsr};

const RSI: usize = 6;
const MOVAPS_LOAD: &[u8] = &[0x0f, 0x28, 0x06];
const MOVUPS_LOAD: &[u8] = &[0x0f, 0x10, 0x06];
const MOVUPS_STORE: &[u8] = &[0x0f, 0x11, 0x06];
const FLD_M80: &[u8] = &[0xdb, 0x2e];
const FSTP_M64: &[u8] = &[0xdd, 0x1e];
const FSTP_M80: &[u8] = &[0xdb, 0x3e];
const MOVQ_STORE_MMX: &[u8] = &[0x0f, 0x7f, 0x06];

/// A store of 1, 2, 3…
fn count(_: &mut Cpu, operand: &mut VectorOperand) -> Result<(), Stop> {
    for (n, byte) in (1..).zip(&mut operand.0[..16]) {
        *byte = n;
    }
    Ok(())
}

/// Keeps the operand in XMM0.
fn keep(cpu: &mut Cpu, operand: &mut VectorOperand) -> Result<(), Stop> {
    cpu.fpu.image_mut()[160..176].copy_from_slice(&operand.0[..16]);
    Ok(())
}

#[test]
fn only_operands_that_must_be_aligned_fault_when_they_are_not() {
    for (bytes, address, expected) in [
        (MOVAPS_LOAD, 0x2008, Err(Vector::Gp)),
        (MOVAPS_LOAD, 0x2010, Ok(())),
        (MOVUPS_LOAD, 0x2008, Ok(())),
        (MOVUPS_STORE, 0x2001, Ok(())),
        (FSTP_M80, 0x2003, Ok(())),
    ] {
        let mut p = processor(idle);
        p.cpu.gpr[RSI] = address;
        assert_eq!(run(&mut p, bytes), expected, "{bytes:02x?} at {address:#x}");
    }
}

#[test]
fn operands_of_every_size_arrive_whole_also_across_a_page() {
    let content: [u8; 16] = core::array::from_fn(|n| n as u8 + 1);
    let cases: [(&[u8], usize); 6] = [
        (&[0x66, 0x0f, 0x3a, 0x20, 0x06, 0], 1), // pinsrb
        (&[0x66, 0x0f, 0xc4, 0x06, 0], 2),       // pinsrw
        (&[0x66, 0x0f, 0x6e, 0x06], 4),          // movd
        (&[0xf3, 0x0f, 0x7e, 0x06], 8),          // movq
        (FLD_M80, 10),
        (MOVUPS_LOAD, 16),
    ];
    for (bytes, size) in cases {
        for address in [0x1ff0, 0x1fff] {
            let mut p = processor(keep);
            p.cpu.gpr[RSI] = address;
            write(&mut p, address, &content);
            assert_eq!(run(&mut p, bytes), Ok(()));
            let mut expected = [0; 16];
            expected[..size].copy_from_slice(&content[..size]);
            assert_eq!(p.cpu.fpu.xmm(0).to_le_bytes(), expected, "{bytes:02x?} at {address:#x}");
        }
    }
}

#[test]
fn stores_of_every_size_write_their_operand_and_nothing_behind_it() {
    let cases: [(&[u8], usize); 6] = [
        (&[0x66, 0x0f, 0x3a, 0x14, 0x06, 0], 1), // pextrb
        (&[0x66, 0x0f, 0x3a, 0x15, 0x06, 0], 2), // pextrw
        (&[0x66, 0x0f, 0x7e, 0x06], 4),          // movd
        (FSTP_M64, 8),
        (FSTP_M80, 10),
        (MOVUPS_STORE, 16),
    ];
    for (bytes, size) in cases {
        for address in [0x1f00, 0x1fff] {
            let mut p = processor(count);
            p.cpu.gpr[RSI] = address;
            assert_eq!(run(&mut p, bytes), Ok(()));
            let expected: [u8; 17] = core::array::from_fn(|n| if n < size { n as u8 + 1 } else { 0xcc });
            assert_eq!(read(&mut p, address, 17), expected, "{bytes:02x?} at {address:#x}");
        }
    }
}

#[test]
fn a_store_that_faults_leaves_memory_and_registers_alone() {
    /// Pops, or enters MMX: both change the register stack.
    fn disturb(cpu: &mut Cpu, operand: &mut VectorOperand) -> Result<(), Stop> {
        cpu.fpu.set_fsw(1 << 11);
        cpu.fpu.set_ftw(0xff);
        cpu.fpu.image_mut()[32..160].fill(7);
        count(cpu, operand)
    }
    for bytes in [FSTP_M64, FSTP_M80, MOVQ_STORE_MMX] {
        let mut p = processor(disturb);
        p.cpu.gpr[RSI] = MAPPED.end - 4;
        let before = p.cpu.fpu;
        assert_eq!(run(&mut p, bytes), Err(Vector::Pf));
        assert_eq!((p.cpu.fpu, p.cpu.exception.payload), (before, MAPPED.end), "{bytes:02x?}");
        assert_eq!(read(&mut p, MAPPED.end - 4, 4), [0xcc; 4]);
    }
    let mut p = processor(count);
    p.cpu.gpr[RSI] = MAPPED.end - 8;
    assert_eq!(run(&mut p, MOVUPS_STORE), Err(Vector::Pf));
    assert_eq!(read(&mut p, MAPPED.end - 8, 8), [0xcc; 8]);
}

#[test]
fn an_unmasked_x87_exception_calls_a_store_off_unless_it_is_inexact() {
    for (flag, stored) in [(0x01, false), (0x02, false), (0x08, false), (0x10, false), (0x20, true)] {
        let mut p = processor(match flag {
            0x01 => |cpu, operand| raise(cpu, operand, 0x01),
            0x02 => |cpu, operand| raise(cpu, operand, 0x02),
            0x08 => |cpu, operand| raise(cpu, operand, 0x08),
            0x10 => |cpu, operand| raise(cpu, operand, 0x10),
            _ => |cpu, operand| raise(cpu, operand, 0x20),
        });
        p.cpu.gpr[RSI] = 0x2000;
        p.cpu.fpu.set_fcw(0x0340);
        assert_eq!(run(&mut p, FSTP_M64), Ok(()));
        assert_eq!(read(&mut p, 0x2000, 1)[0] == 1, stored, "flag {flag:#x}");
    }
}

fn raise(cpu: &mut Cpu, operand: &mut VectorOperand, flag: u16) -> Result<(), Stop> {
    cpu.fpu.set_fsw(0x8080 | flag);
    count(cpu, operand)
}

#[test]
fn an_unmasked_x87_exception_leaves_its_place_and_a_masked_one_does_not() {
    let divide_by_zero = |cpu: &mut Cpu, operand: &mut VectorOperand| raise(cpu, operand, 0x04);
    // FOP has three bits of the first opcode byte; FDP does not include the segment's base.
    for (control, opcode, instruction, operand) in [(0x037b, 0x0436, 0x4000, 0x2010), (0x037f, 0, 0, 0)] {
        let mut p = processor(divide_by_zero);
        p.cpu.gpr[BLOCK] = 0x4000;
        p.cpu.gpr[RSI] = 0x2010;
        p.cpu.address_base[5] = 0x100;
        p.cpu.fpu.set_fcw(control);
        assert_eq!(run(&mut p, &[0x65, 0xdc, 0x36]), Ok(())); // fdiv qword [gs:rsi]
        let image = p.cpu.fpu.image();
        let word = |at: usize| u16::from_le_bytes([image[at], image[at + 1]]);
        assert_eq!((word(6), word(8), word(16)), (opcode, instruction, operand));
    }
}

#[test]
fn a_simd_exception_is_undefined_unless_the_system_said_that_it_handles_it() {
    fn inexact(cpu: &mut Cpu, _: &mut VectorOperand) -> Result<(), Stop> {
        cpu.fpu.set_mxcsr(Mxcsr::from_bits_retain(0x20));
        Err(cpu.raise(Exception::SIMD_FLOATING_POINT))
    }
    let mut p = processor(inexact);
    assert_eq!(run(&mut p, &[0x0f, 0x58, 0xc1]), Err(Vector::Xf));
    p.cpu.cr4 -= Cr4::OSXMMEXCPT;
    assert_eq!(run(&mut p, &[0x0f, 0x58, 0xc1]), Err(Vector::Ud));
}
