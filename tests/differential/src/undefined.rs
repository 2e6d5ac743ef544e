//! Which flags an instruction leaves undefined, by the "rFLAGS Affected" tables of APM volume 3. Everything else is
//! compared.

use iced_x86::{Instruction, Mnemonic, OpKind};
use tern_x86::state::Rflags;

/// The flags that are undefined after `instruction`. `cl` is the shift count in CL, if it is known.
#[must_use]
pub fn undefined_flags(instruction: &Instruction, cl: Option<u8>) -> Rflags {
    use Mnemonic as M;
    match instruction.mnemonic() {
        M::And | M::Or | M::Xor | M::Test => Rflags::AF,
        M::Shl | M::Sal | M::Shr | M::Sar => match count(instruction, 1, cl) {
            Some(0) => Rflags::empty(),
            Some(1) => Rflags::AF,
            // CF is undefined once everything is shifted out.
            Some(n) if n < operand_bits(instruction) => Rflags::AF | Rflags::OF,
            _ => Rflags::AF | Rflags::OF | Rflags::CF,
        },
        M::Rol | M::Ror | M::Rcl | M::Rcr => match count(instruction, 1, cl) {
            Some(0 | 1) => Rflags::empty(),
            _ => Rflags::OF,
        },
        M::Shld | M::Shrd => match count(instruction, 2, cl) {
            Some(0) => Rflags::empty(),
            Some(1) => Rflags::AF,
            Some(n) if n <= operand_bits(instruction) => Rflags::AF | Rflags::OF,
            _ => Rflags::STATUS,
        },
        M::Mul | M::Imul => Rflags::SF | Rflags::ZF | Rflags::AF | Rflags::PF,
        M::Div | M::Idiv => Rflags::STATUS,
        M::Bsf | M::Bsr => Rflags::STATUS - Rflags::ZF,
        M::Bt | M::Bts | M::Btr | M::Btc => Rflags::STATUS - Rflags::CF,
        M::Andn | M::Blsi | M::Blsmsk | M::Blsr | M::Bzhi => Rflags::AF | Rflags::PF,
        M::Bextr => Rflags::AF | Rflags::PF | Rflags::SF,
        M::Lzcnt | M::Tzcnt => Rflags::STATUS - Rflags::CF - Rflags::ZF,
        _ => Rflags::empty(),
    }
}

/// Whether the instruction leaves its destination undefined: BSWAP of 16 bits, SHLD and SHRD of 16 bits by more than 16.
#[must_use]
pub fn undefined_result(instruction: &Instruction, cl: Option<u8>) -> bool {
    match instruction.mnemonic() {
        Mnemonic::Bswap => operand_bits(instruction) == 16,
        Mnemonic::Shld | Mnemonic::Shrd => {
            count(instruction, 2, cl).is_none_or(|n| n > 16) && operand_bits(instruction) == 16
        }
        _ => false,
    }
}

/// The masked shift count in operand `n`.
fn count(instruction: &Instruction, n: u32, cl: Option<u8>) -> Option<u32> {
    let count = match instruction.op_kind(n) {
        OpKind::Register => cl?,
        _ => instruction.immediate8(),
    };
    Some(u32::from(count) & if operand_bits(instruction) == 64 { 63 } else { 31 })
}

/// The width of the first operand.
fn operand_bits(instruction: &Instruction) -> u32 {
    let bytes = match instruction.op0_kind() {
        OpKind::Register => instruction.op0_register().size(),
        _ => instruction.memory_size().size(),
    };
    8 * bytes as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions};

    fn decode(bytes: &[u8]) -> Instruction {
        Decoder::new(64, bytes, DecoderOptions::NONE).decode()
    }

    #[test]
    fn a_shift_by_one_leaves_only_af_undefined_and_by_zero_nothing() {
        let shl_eax_cl = decode(&[0xd3, 0xe0]);
        assert_eq!(undefined_flags(&shl_eax_cl, Some(1)), Rflags::AF);
        assert_eq!(undefined_flags(&shl_eax_cl, Some(32)), Rflags::empty());
        assert!(undefined_flags(&shl_eax_cl, None).contains(Rflags::CF | Rflags::OF));
    }

    #[test]
    fn a_count_of_32_shifts_64_bit_operands() {
        let shl_rax_32 = decode(&[0x48, 0xc1, 0xe0, 32]);
        assert_eq!(undefined_flags(&shl_rax_32, None), Rflags::AF | Rflags::OF);
    }

    #[test]
    fn a_16_bit_double_shift_by_17_has_no_result() {
        let shld_ax_bx_17 = decode(&[0x66, 0x0f, 0xa4, 0xd8, 17]);
        assert!(undefined_result(&shld_ax_bx_17, None));
        assert_eq!(undefined_flags(&shld_ax_bx_17, None), Rflags::STATUS);
    }
}
