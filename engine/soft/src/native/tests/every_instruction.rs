//! The comparison over the whole set of native instructions.

use iced_x86::{Code, EncodingKind, Instruction, Mnemonic};
use tern_x86::state::Mxcsr;
use tern_x86::vector::{MemoryAccess, VectorClass, classify};

use super::super::{NativeUnit, Outcome, instruction_sets, stub};
use super::bytes::native_instructions;
use super::hardware::{Block, Hardware};
use super::random::Random;

const STATUS: u64 = 0x8d5;
const SEED: u64 = 0x7e57;
/// States per choice of operands; an instruction has 2 to 16 of those.
const STATES: usize = 48;

/// Everything that must agree, by name: not the exception pointers, MXCSR_MASK and the bytes that FXSAVE ignores.
fn visible(block: &Block) -> Vec<(String, u128)> {
    let image = block.fpu.image();
    let wide = |bytes: &[u8]| bytes.iter().rev().fold(0, |value, &byte| value << 8 | u128::from(byte));
    let mut parts = vec![
        ("FCW".to_owned(), u128::from(block.fpu.fcw())),
        ("FSW".to_owned(), u128::from(block.fpu.fsw())),
        ("FTW".to_owned(), u128::from(block.fpu.ftw())),
        ("MXCSR".to_owned(), u128::from(block.fpu.mxcsr().bits())),
        ("flags".to_owned(), u128::from(block.flags & STATUS)),
    ];
    parts.extend((0..8).map(|n| (format!("ST{n}"), wide(&image[32 + 16 * n..][..16]))));
    parts.extend((0..16).map(|n| (format!("XMM{n}"), block.fpu.xmm(n))));
    parts.extend((0..16).map(|n| (format!("YMM{n}, upper half"), wide(&block.fpu.ymm()[16 * n..][..16]))));
    parts.extend((0..4).map(|n| (format!("memory {n}"), wide(&block.memory[16 * n..][..16]))));
    parts.extend((0..16).map(|n| (format!("register {n}"), u128::from(block.gpr[n]))));
    parts
}

/// The parts in which two blocks differ: before, on the hardware, by the stub.
fn differences(start: &Block, hardware: &Block, stub: &Block) -> Vec<String> {
    visible(start)
        .into_iter()
        .zip(visible(hardware))
        .zip(visible(stub))
        .filter(|((_, hardware), stub)| hardware != stub)
        .map(|(((name, start), (_, hardware)), (_, stub))| {
            format!("{name} {start:x}: {hardware:x}, {stub:x}")
        })
        .collect()
}

#[test]
fn stubs_do_what_the_processor_does() {
    let mut random = Random(SEED);
    let mut unit = NativeUnit::new().expect("executable memory");
    let mut hardware = Hardware::new();
    let mut failures = Vec::new();
    for (code, variants) in native_instructions(&mut random) {
        for (instruction, info) in variants {
            let stub = unit.prepare(&instruction, &info).expect("native instructions can be prepared");
            let harness = hardware.prepare(&instruction);
            for _ in 0..STATES {
                let mut start = Block::new(random.fpu());
                if matches!(
                    instruction.mnemonic(),
                    Mnemonic::Dpps | Mnemonic::Dppd | Mnemonic::Vdpps | Mnemonic::Vdppd
                ) {
                    // Their intermediate results are not looked at; see `Trial::finish`.
                    start.fpu.set_mxcsr(start.fpu.mxcsr() | Mxcsr::MASKS);
                }
                for quarter in start.memory[..64].chunks_mut(16) {
                    quarter.copy_from_slice(&random.vector().to_le_bytes());
                }
                if info.class == VectorClass::X87 && random.below(2) == 0 {
                    start.memory[..10].copy_from_slice(&random.extended());
                }
                // Small numbers are lengths to PCMPESTRI.
                start.gpr = std::array::from_fn(|_| random.next() >> (random.below(8) * 8));
                start.flags = random.next() & STATUS;

                let mut expected = start.clone();
                let faulted = hardware.run(&harness, &mut expected);

                let mut actual = start.clone();
                let mut gpr = [0; 32];
                gpr[..16].copy_from_slice(&actual.gpr);
                let memory = actual.memory.as_mut_ptr();
                // SAFETY: the block's memory has more bytes than any operand and is aligned to 64.
                let outcome = unsafe { unit.run(stub, &mut actual.fpu, &mut gpr, &mut actual.flags, memory) };
                actual.gpr.copy_from_slice(&gpr[..16]);
                if outcome == Outcome::SimdException {
                    // Whoever called does not store it then.
                    actual.memory = start.memory;
                }

                if info.simd_exceptions
                    && overflow_or_underflow_unmasked(start.fpu.mxcsr(), expected.fpu.mxcsr())
                {
                    // PE may differ here; see `Trial::finish`.
                    for block in [&mut expected, &mut actual] {
                        block.fpu.set_mxcsr(block.fpu.mxcsr() - Mxcsr::from_bits_truncate(0x20));
                    }
                }
                let differences = differences(&start, &expected, &actual);
                if !differences.is_empty() || faulted != (outcome == Outcome::SimdException) {
                    let controls = (start.fpu.fcw(), start.fpu.fsw(), start.fpu.mxcsr().bits());
                    failures.push(format!(
                        "{code:?} {:?} {controls:x?} {faulted} {outcome:?} {differences:?}",
                        [instruction.op0_register(), instruction.op1_register()],
                    ));
                    break;
                }
                if let Outcome::X87Exception { stored } = outcome
                    && info.memory.is_some_and(|m| m.access == MemoryAccess::Write)
                    && !stored
                {
                    assert_eq!(actual.memory, start.memory, "{code:?}: stored nothing");
                }
            }
        }
    }
    let shown = failures.iter().take(20).fold(String::new(), |text, failure| text + "\n" + failure);
    assert!(
        failures.is_empty(),
        "{} differences (before: hardware, stub) with seed {SEED:#x}:{shown}",
        failures.len()
    );
}

fn overflow_or_underflow_unmasked(before: Mxcsr, after: Mxcsr) -> bool {
    after.bits() & 0x18 & !(before.bits() >> 7) != 0
}

#[test]
fn the_comparison_meets_every_instruction_that_is_accepted() {
    let met = native_instructions(&mut Random(SEED));
    let missed: Vec<_> = Code::values()
        .filter(|code| matches!(code.encoding(), EncodingKind::Legacy | EncodingKind::VEX))
        .filter(|&code| {
            let mut instruction = Instruction::new();
            instruction.set_code(code);
            instruction_sets().offer(&instruction) && classify(&instruction).is_some()
        })
        .filter(|code| !met.contains_key(code))
        .collect();
    assert_eq!(missed, []);
    assert!(met.len() > 400, "{} kinds of instructions", met.len());
}

#[test]
fn no_stub_is_longer_than_the_room_that_is_promised() {
    for (instruction, info) in native_instructions(&mut Random(SEED)).into_values().flatten() {
        let size = stub::assemble(&instruction, &info).expect("encodable").len().next_multiple_of(32);
        assert!(size <= stub::MAX_SIZE, "{:?}: {size}", instruction.code());
    }
}
