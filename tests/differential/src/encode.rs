//! Random machine code: of a given kind of instruction, or of any.

use iced_x86::{
    Code, ConstantOffsets, Decoder, DecoderOptions, EncodingKind, Instruction, MandatoryPrefix, OpCodeInfo,
    OpCodeOperandKind, OpCodeTableKind,
};

use crate::codes::{is_compared, mode};
use crate::random::Random;

/// One encoded instruction.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What they mean to the guest; invalid where it is no instruction.
    pub instruction: Instruction,
    /// Where displacement and immediates lie in the bytes.
    pub constants: ConstantOffsets,
}

/// How many random encodings are tried before a kind of instruction is given up.
const ATTEMPTS: usize = 4000;

/// A random encoding of `code`; `None` if none was found.
pub fn of_code(code: Code, random: &mut Random) -> Option<Encoded> {
    (0..ATTEMPTS).find_map(|_| {
        let bytes = guess(code.op_code(), random);
        meaning(&bytes).filter(|encoded| encoded.instruction.code() == code)
    })
}

/// Random bytes with random prefixes. One in sixteen of the instructions does not exist.
pub fn of_anything(random: &mut Random) -> Encoded {
    loop {
        let mut bytes = Vec::with_capacity(32);
        while random.one_in(4) {
            bytes.push(*random.pick(&PREFIXES));
        }
        if random.one_in(64) {
            let prefix = *random.pick(&PREFIXES);
            bytes.extend(std::iter::repeat_n(prefix, random.below(14) as usize));
        }
        if random.one_in(3) {
            bytes.push(0x40 | random.byte() & 15);
        }
        bytes.extend_from_slice(match random.below(10) {
            0..=2 => &[],
            3 => &[0x0f, 0x38],
            4 => &[0x0f, 0x3a],
            5 => &[0xc4],
            6 => &[0xc5],
            _ => &[0x0f],
        });
        bytes.extend((0..16).map(|_| random.byte()));
        match meaning(&bytes) {
            Some(encoded) => return encoded,
            None if random.one_in(64) => {
                if let Some(encoded) = invalid(&bytes) {
                    return encoded;
                }
            }
            None => {}
        }
    }
}

const PREFIXES: [u8; 11] = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65, 0x66, 0x67, 0xf0, 0xf2, 0xf3];
const SEGMENTS: [u8; 6] = [0x26, 0x2e, 0x36, 0x3e, 0x64, 0x65];

/// The instruction at the start of `bytes`, if it is one that can be compared.
fn meaning(bytes: &[u8]) -> Option<Encoded> {
    let instruction = tern_x86::decode::decode(bytes, mode())?;
    let (host, constants) = decode_as_host(bytes);
    let same = is_compared(&instruction) && is_compared(&host) && instruction.len() == host.len();
    // An instruction of an extension that the guest lacks may be another one to it.
    (same && instruction.code() == host.code()).then(|| Encoded {
        bytes: bytes[..instruction.len()].to_vec(),
        instruction,
        constants,
    })
}

/// Bytes that are no instruction to the guest nor to any processor that is known.
fn invalid(bytes: &[u8]) -> Option<Encoded> {
    let instruction = tern_x86::decode::decode(bytes, mode())?;
    let anyone = [DecoderOptions::AMD, DecoderOptions::NONE, DecoderOptions::MPX | DecoderOptions::UDBG];
    let nobody = anyone.iter().all(|&options| Decoder::new(64, bytes, options).decode().is_invalid());
    // One that is too long is another matter, and how long this one is nobody says.
    let prefixes = bytes.iter().take_while(|byte| PREFIXES.contains(byte)).count();
    (nobody && instruction.is_invalid() && prefixes < 3).then(|| Encoded {
        bytes: bytes[..16.min(bytes.len())].to_vec(),
        instruction,
        constants: ConstantOffsets::default(),
    })
}

/// What the bytes mean to a host that has everything the guest has, and more.
fn decode_as_host(bytes: &[u8]) -> (Instruction, ConstantOffsets) {
    let mut decoder = Decoder::new(64, bytes, DecoderOptions::AMD | DecoderOptions::NO_PAUSE);
    let instruction = decoder.decode();
    let constants = decoder.get_constant_offsets(&instruction);
    (instruction, constants)
}

/// The same of an instruction that VEX encodes.
fn guess_vex(info: &OpCodeInfo, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(32);
    if random.one_in(10) {
        bytes.push(*random.pick(&SEGMENTS));
    }
    if random.one_in(10) {
        bytes.push(0x67);
    }
    let map = match info.table() {
        OpCodeTableKind::T0F => 1,
        OpCodeTableKind::T0F38 => 2,
        _ => 3,
    };
    let prefix = match info.mandatory_prefix() {
        MandatoryPrefix::P66 => 1,
        MandatoryPrefix::PF3 => 2,
        MandatoryPrefix::PF2 => 3,
        _ => 0,
    };
    let register = if random.one_in(2) { 0x78 } else { random.byte() & 0x78 };
    let last = register | random.byte() & 0x84 | prefix;
    if map == 1 && random.one_in(3) {
        bytes.extend_from_slice(&[0xc5, last]);
    } else {
        bytes.extend_from_slice(&[0xc4, random.byte() & 0xe0 | map, last]);
    }
    bytes.push(info.op_code() as u8);
    bytes.push(modrm(info, random));
    bytes.extend((0..15).map(|_| random.byte()));
    bytes
}

/// Bytes that probably are the wanted instruction: its opcode among random prefixes and operands.
fn guess(info: &OpCodeInfo, random: &mut Random) -> Vec<u8> {
    if info.encoding() == EncodingKind::VEX {
        return guess_vex(info, random);
    }
    let mut bytes = Vec::with_capacity(32);
    if random.one_in(10) {
        bytes.push(*random.pick(&SEGMENTS));
    }
    if info.address_size() == 32 || random.one_in(10) {
        bytes.push(0x67);
    }
    let may_repeat = info.can_use_rep_prefix() || info.can_use_repne_prefix();
    if may_repeat && random.one_in(2) || random.one_in(32) {
        bytes.push(0xf2 | random.byte() & 1);
    }
    if info.can_use_lock_prefix() && random.one_in(3) || random.one_in(64) {
        bytes.push(0xf0);
    }
    match info.mandatory_prefix() {
        MandatoryPrefix::P66 => bytes.push(0x66),
        MandatoryPrefix::PF2 => bytes.push(0xf2),
        MandatoryPrefix::PF3 => bytes.push(0xf3),
        _ => {}
    }
    if info.operand_size() == 16 || random.one_in(12) {
        bytes.push(0x66);
    }
    let wide = info.operand_size() == 64;
    if wide || random.one_in(2) {
        let w = if wide { 8 } else { random.byte() & if random.one_in(4) { 8 } else { 0 } };
        bytes.push(0x40 | w | random.byte() & 7);
    }
    bytes.extend_from_slice(match info.table() {
        OpCodeTableKind::T0F => &[0x0f],
        OpCodeTableKind::T0F38 => &[0x0f, 0x38],
        OpCodeTableKind::T0F3A => &[0x0f, 0x3a],
        _ => &[],
    });
    let in_opcode = info.op_kinds().iter().any(|kind| {
        use OpCodeOperandKind as K;
        matches!(kind, K::r8_opcode | K::r16_opcode | K::r32_opcode | K::r64_opcode | K::sti_opcode)
    });
    let register = if in_opcode { random.byte() & 7 } else { 0 };
    let [.., high, low] = info.op_code().to_be_bytes();
    if info.op_code_len() == 2 {
        bytes.push(high);
    }
    bytes.push(low.wrapping_add(register));
    bytes.push(modrm(info, random));
    bytes.extend((0..15).map(|_| random.byte()));
    bytes
}

/// A ModRM byte, or a random one where the instruction has none.
fn modrm(info: &OpCodeInfo, random: &mut Random) -> u8 {
    let field = |index: i32| u8::try_from(index).ok().map(|n| n & 7);
    let mut byte = random.byte();
    if random.one_in(3) {
        byte |= 0xc0;
    }
    if let Some(reg) = field(info.group_index()) {
        byte = byte & !0x38 | reg << 3;
    }
    if let Some(rm) = field(info.rm_group_index()) {
        byte = byte & !7 | 0xc0 | rm;
    }
    byte
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes::COMPARED;

    #[test]
    fn every_compared_instruction_has_an_encoding() {
        let mut random = Random::new(1, 1);
        let missing: Vec<_> = COMPARED.iter().filter(|&&code| of_code(code, &mut random).is_none()).collect();
        assert!(missing.is_empty(), "{missing:?}");
        assert!(COMPARED.len() > 1000, "{} kinds of instructions", COMPARED.len());
    }
}
