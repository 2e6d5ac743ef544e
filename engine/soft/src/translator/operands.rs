//! What the translator asks about an instruction's operands.

use iced_x86::{Instruction, OpAccess, OpKind, Register};

/// Whether the memory operand of 64-bit code, if there is one and it counts from the instruction pointer, is less than 2 GiB from the
/// page's start, which is what the instruction pointer counts from here.
pub fn has_near_address(instruction: &Instruction) -> bool {
    !instruction.is_ip_rel_memory_operand()
        || i32::try_from(instruction.memory_displacement64() as i64).is_ok()
}

/// Whether the memory operand of 32-bit code, if there is one, is the sum of registers of 32 bits, in a segment that is all of memory
/// and may be written. FS and GS have bases and limits of their own, and CS is never written.
pub fn has_flat_address(instruction: &Instruction) -> bool {
    let narrow = |register: Register| register != Register::None && register.size() < 4;
    (0..instruction.op_count()).all(|n| instruction.op_kind(n) != OpKind::Memory)
        || !matches!(instruction.memory_segment(), Register::CS | Register::FS | Register::GS)
            && !narrow(instruction.memory_base())
            && !narrow(instruction.memory_index())
}

/// Whether the memory operand is in a segment that may have a base in 64-bit code.
pub fn has_segment_base(instruction: &Instruction) -> bool {
    matches!(instruction.memory_segment(), Register::FS | Register::GS)
}

/// Whether the memory operand's address has 32 bits, and wraps there.
pub fn has_narrow_address(instruction: &Instruction) -> bool {
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    let has_registers = base != Register::None || index != Register::None;
    base.size() == 4 || index.size() == 4 || !has_registers && instruction.memory_displ_size() == 4
}

/// Whether a non-canonical address is a stack fault.
pub fn by_stack(instruction: &Instruction) -> bool {
    let base = instruction.memory_base().full_register();
    !has_segment_base(instruction) && matches!(base, Register::RSP | Register::RBP)
}

/// Whether an operand that is accessed so may be written.
pub const fn writes(access: OpAccess) -> bool {
    matches!(access, OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite)
}

/// Operands in segment, control or debug registers.
pub fn has_other_registers(instruction: &Instruction) -> bool {
    (0..instruction.op_count())
        .any(|n| instruction.op_kind(n) == OpKind::Register && !instruction.op_register(n).is_gpr())
}

/// AH, CH, DH and BH cannot be named beside the registers that the translator puts in place of others.
pub fn needs_rewriting(instruction: &Instruction) -> bool {
    let registers = || (0..instruction.op_count()).filter(|&n| instruction.op_kind(n) == OpKind::Register);
    let high =
        |n| matches!(instruction.op_register(n), Register::AH | Register::CH | Register::DH | Register::BH);
    let memory = (0..instruction.op_count()).any(|n| instruction.op_kind(n) == OpKind::Memory);
    let stack = |n| instruction.op_register(n).full_register() == Register::RSP;
    registers().any(high) && (memory || registers().any(stack))
}

#[cfg(test)]
mod tests {
    use iced_x86::Decoder;

    use super::*;

    #[test]
    fn an_address_is_as_wide_as_its_registers_or_as_its_prefix_says() {
        for (bitness, bytes, narrow) in [
            (64, &[0x8b, 0x04, 0x25, 0, 0, 0, 0x80][..], false), // mov eax, [-0x80000000]
            (64, &[0x8b, 0x04, 0x25, 0, 0, 0, 0x40], false),
            (64, &[0x67, 0x8b, 0x04, 0x25, 0, 0, 0, 0x80], true),
            (64, &[0x67, 0x8b, 0x04, 0x25, 0, 0, 0, 0x40], true),
            (64, &[0x8b, 0x00], false),
            (64, &[0x67, 0x8b, 0x00], true),
            (64, &[0x67, 0x8b, 0x04, 0x45, 0, 0, 0, 0], true), // mov eax, [eax*2]
            (32, &[0x8b, 0x05, 0, 0, 0, 0x80], true),
            (32, &[0x8b, 0x00], true),
        ] {
            let instruction = Decoder::new(bitness, bytes, 0).decode();
            assert_eq!(has_narrow_address(&instruction), narrow, "{bitness} bits, {bytes:02x?}");
        }
    }
}
