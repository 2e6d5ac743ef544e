//! The state management that `tern_x86::vector` writes out, against the processor's. Exception pointers are left out of
//! the comparison: what hosts keep of them differs.

use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions};
use tern_x86::state::{FpuState, Mxcsr, Xcr0};
use tern_x86::vector::{self, EnvironmentFormat, FxsaveLayout, StoreImage, XsaveForm};

use super::hardware::{Block, Hardware};
use super::random::Random;

const SEED: u64 = 0x57a7e;
const STATES: usize = 2000;
/// In an FXSAVE image.
const POINTERS: Range<usize> = 6..24;
const MXCSR_MASK: Range<usize> = 28..32;
const LONG: FxsaveLayout = FxsaveLayout { wide_pointers: true, xmm_registers: 16 };

/// Executes the instruction in `bytes` on random states, natively and by `model`, and compares what software sees.
/// `prepare` may change the state before; memory in `ignored` is not compared.
fn compare(
    bytes: &[u8],
    ignored: &[Range<usize>],
    prepare: impl Fn(&mut Random, &mut Block),
    model: impl Fn(&mut Block),
) {
    let instruction = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
    let mut hardware = Hardware::new();
    let harness = hardware.prepare(&instruction);
    let mut random = Random(SEED);
    for _ in 0..STATES {
        let mut expected = Block::new(random.fpu());
        expected.memory.fill_with(|| random.byte());
        expected.gpr[0] = 3;
        prepare(&mut random, &mut expected);
        let mut actual = expected.clone();
        assert!(!hardware.run(&harness, &mut expected), "{instruction:?} raises no exception");
        model(&mut actual);
        for block in [&mut expected, &mut actual] {
            block.fpu.image_mut()[6..24].fill(0);
            block.fpu.image_mut()[28..32].fill(0);
            for range in ignored {
                block.memory[range.clone()].fill(0);
            }
        }
        let controls = |fpu: &FpuState| [fpu.fcw(), fpu.fsw(), u16::from(fpu.ftw())];
        assert_eq!(controls(&actual.fpu), controls(&expected.fpu), "{bytes:02x?}");
        assert_eq!(actual.fpu.mxcsr(), expected.fpu.mxcsr(), "{bytes:02x?}");
        assert_eq!(actual.fpu.image()[..416], expected.fpu.image()[..416], "{bytes:02x?}");
        assert_eq!(actual.memory, expected.memory, "{bytes:02x?}");
    }
}

fn store(block: &mut Block, image: &StoreImage) {
    for (offset, bytes) in image.pieces() {
        let start = usize::try_from(offset).expect("within the area");
        block.memory[start..start + bytes.len()].copy_from_slice(bytes);
    }
}

/// Half of the states have an exception pending, which instructions that do not wait must cope with.
fn maybe_pending(random: &mut Random, block: &mut Block) {
    if random.below(2) == 0 {
        let flags = block.fpu.fsw() | u16::from(random.byte() & 0x3f);
        let pending = flags & !block.fpu.fcw() & 0x3f != 0;
        block.fpu.set_fsw(flags | if pending { 0x8080 } else { 0 });
    }
}

const FORMATS: [(EnvironmentFormat, &[u8]); 2] =
    [(EnvironmentFormat::Protected32, &[]), (EnvironmentFormat::Protected16, &[0x66])];

/// Where the exception pointers lie in an environment.
fn pointers(format: EnvironmentFormat) -> Range<usize> {
    format.environment_size() * 3 / 7..format.environment_size()
}

#[test]
fn fnstenv_and_fldenv_agree_with_the_processor() {
    for (format, prefix) in FORMATS {
        compare(&[prefix, &[0xd9, 0x37]].concat(), &[pointers(format)], maybe_pending, |block| {
            let image = vector::fnstenv(&block.fpu, format);
            store(block, &image);
            vector::mask_x87_exceptions(&mut block.fpu);
        });
        compare(
            &[prefix, &[0xd9, 0x27]].concat(),
            &[],
            |_, _| {},
            |block| {
                vector::fldenv(&mut block.fpu, format, &block.memory);
            },
        );
    }
}

#[test]
fn fnsave_and_frstor_agree_with_the_processor() {
    for (format, prefix) in FORMATS {
        compare(&[prefix, &[0xdd, 0x37]].concat(), &[pointers(format)], maybe_pending, |block| {
            let image = vector::fnsave(&block.fpu, format);
            store(block, &image);
            vector::fninit(&mut block.fpu);
        });
        compare(
            &[prefix, &[0xdd, 0x27]].concat(),
            &[],
            |_, _| {},
            |block| {
                vector::frstor(&mut block.fpu, format, &block.memory);
            },
        );
    }
}

#[test]
fn x87_control_agrees_with_the_processor() {
    compare(
        &[0xd9, 0x2f],
        &[],
        |_, _| {},
        |block| {
            let value = u16::from_le_bytes([block.memory[0], block.memory[1]]);
            vector::fldcw(&mut block.fpu, value);
        },
    );
    compare(&[0xdb, 0xe2], &[], maybe_pending, |block| vector::fnclex(&mut block.fpu));
    compare(&[0xdb, 0xe3], &[], maybe_pending, |block| vector::fninit(&mut block.fpu));
}

/// An area that can be loaded: MXCSR without reserved bits, no reserved bytes between the registers.
fn loadable(random: &mut Random, block: &mut Block) {
    let fpu = random.fpu();
    block.memory[..416].copy_from_slice(&fpu.image()[..416]);
    block.memory[..4].fill_with(|| random.byte());
}

#[test]
fn fxsave_agrees_with_the_processor() {
    // Processors may or may not write the reserved bytes behind the registers.
    compare(&[0x48, 0x0f, 0xae, 0x07], &[POINTERS, MXCSR_MASK, 416..464], maybe_pending, |block| {
        let image = vector::fxsave(&block.fpu, LONG);
        store(block, &image);
    });
}

#[test]
fn fxrstor_agrees_with_the_processor() {
    compare(&[0x48, 0x0f, 0xae, 0x0f], &[], loadable, |block| {
        let bytes = block.memory[..512].try_into().expect("512 bytes");
        vector::fxrstor(&mut block.fpu, LONG, bytes).expect("loadable");
    });
}

#[test]
fn xrstor_agrees_with_the_processor_in_both_forms() {
    if !is_x86_feature_detected!("xsavec") {
        return;
    }
    for compacted in [false, true] {
        let prepare = |random: &mut Random, block: &mut Block| {
            loadable(random, block);
            block.memory[512..].fill(0);
            block.memory[512] = random.byte() & 3;
            if compacted {
                block.memory[519 + 8] = 0x80;
                block.memory[520] = 3;
            }
            block.gpr[0] = random.below(4);
        };
        compare(&[0x48, 0x0f, 0xae, 0x2f], &[], prepare, |block| {
            let requested = Xcr0::from_bits_truncate(block.gpr[0]);
            vector::xrstor(&mut block.fpu, LONG, requested, Xcr0::X87 | Xcr0::SSE, &block.memory)
                .expect("loadable");
        });
    }
}

#[test]
fn xsave_and_xsavec_agree_with_the_processor() {
    if !is_x86_feature_detected!("xsavec") {
        return;
    }
    let model = |block: &mut Block, form| {
        let requested = Xcr0::from_bits_truncate(block.gpr[0]);
        let image = vector::xsave(&block.fpu, form, LONG, requested);
        store(block, &image);
    };
    let prepare = |random: &mut Random, block: &mut Block| {
        block.gpr[0] = random.below(4);
        // In use for sure: hosts may take an initial component for one in use.
        block.fpu.set_fcw(0x027f);
        block.fpu.set_xmm(0, 1);
        block.fpu.set_mxcsr(Mxcsr::from_bits_retain(0x1fa0));
    };
    compare(&[0x48, 0x0f, 0xae, 0x27], &[POINTERS, MXCSR_MASK], prepare, |block| {
        let xstate_bv = u64::from_le_bytes(block.memory[512..520].try_into().expect("eight bytes"));
        model(block, XsaveForm::Standard { xstate_bv });
    });
    compare(&[0x48, 0x0f, 0xc7, 0x27], &[POINTERS, MXCSR_MASK], prepare, |block| {
        model(block, XsaveForm::Compacted)
    });
}
