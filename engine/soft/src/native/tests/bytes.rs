//! Every legacy and VEX encoding of the opcode maps that hold vector and x87 instructions.

use std::collections::BTreeMap;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction};
use tern_x86::vector::{VectorInfo, classify};

use super::super::instruction_sets;
use super::random::Random;

/// Instructions that are executed natively, each with some choices of operands, by iced's code. Memory operands are
/// `[rdi + disp32]` with the displacement 0x11111111; RSP and RDI are no data operands.
pub(super) fn native_instructions(random: &mut Random) -> BTreeMap<Code, Vec<(Instruction, VectorInfo)>> {
    let mut found: BTreeMap<Code, Vec<_>> = BTreeMap::new();
    let mut add = |bytes: &[u8]| {
        let instruction = Decoder::new(64, bytes, DecoderOptions::NONE).decode();
        if instruction_sets().offer(&instruction)
            && let Some(info) = classify(&instruction)
            && (info.gpr_read | info.gpr_written) & (1 << 4 | 1 << 7) == 0
        {
            found.entry(instruction.code()).or_default().push((instruction, info));
        }
    };
    for opcode in 0xd8..=0xdf {
        for modrm in (0xc0..=0xff).chain((0..8).map(|reg| 0x87 | reg << 3)) {
            add(&[opcode, modrm, 0x11, 0x11, 0x11, 0x11]);
        }
    }
    for prefix in [None, Some(0x66), Some(0xf3), Some(0xf2)] {
        for wide in [0x40, 0x48] {
            for escape in [&[0x0f][..], &[0x0f, 0x38], &[0x0f, 0x3a]] {
                for opcode in 0..=0xff {
                    for field in 0..8 {
                        for rm in [0x87, 0xc0 | random.byte() & 7] {
                            let rex = wide | random.byte() & if rm == 0x87 { 4 } else { 5 };
                            let modrm = rm | field << 3;
                            let mut bytes = Vec::from_iter(prefix);
                            bytes.push(rex);
                            bytes.extend_from_slice(escape);
                            bytes.extend_from_slice(&[opcode, modrm]);
                            if rm == 0x87 {
                                bytes.extend_from_slice(&[0x11; 4]);
                            }
                            bytes.push(random.byte());
                            add(&bytes);
                        }
                    }
                }
            }
        }
    }
    for map in 1..=3 {
        for last in (0..4).flat_map(|prefix| [prefix, prefix | 4, prefix | 0x80, prefix | 0x84]) {
            for opcode in 0..=0xff {
                // Groups of shifts are told apart by the field of the first register.
                let fields = if map == 1 && matches!(opcode, 0x71..=0x73) { 0..8 } else { 0..1 };
                for field in fields {
                    for rm in [0x87, 0xc0 | random.byte() & 7] {
                        for register in [0x78, random.byte() & 0x78] {
                            let high = if rm == 0x87 { 0x60 } else { 0x40 | random.byte() & 0x20 };
                            let other = *[0, 1, 2, 3, 5, 6].get(random.below(6) as usize).unwrap_or(&0);
                            let modrm = rm | (if field != 0 { field } else { other }) << 3;
                            let mut bytes =
                                vec![0xc4, high | random.byte() & 0x80 | map, last | register, opcode, modrm];
                            if rm == 0x87 {
                                bytes.extend_from_slice(&[0x11; 4]);
                            }
                            bytes.push(random.byte());
                            add(&bytes);
                        }
                    }
                }
            }
        }
    }
    found
}
