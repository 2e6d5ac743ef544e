//! Random operands that mean something: addresses that are mapped, branch targets near the code, counts that end.

use std::ops::Range;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use tern_x86::state::Rflags;

use super::has_repetition;
use crate::codes::mode;
use crate::encode::Encoded;
use crate::layout::{CODE, DATA, Memory, STACK, offset_of};
use crate::random::Random;
use crate::registers::{RAX, RBX, RCX, RDI, RDX, RSI, RSP, Registers, random_fpu, random_mxcsr};

/// Changes registers, memory and constants in the code for `encoded`, which will lie at `start`.
pub fn aim(
    encoded: &mut Encoded,
    start: u64,
    registers: &mut Registers,
    memory: &mut Memory,
    random: &mut Random,
) {
    branch(encoded, start, random);
    values(&encoded.instruction, registers, memory, random);
    // One in twenty operands is left where chance put it.
    if random.one_in(20) {
        return;
    }
    let operands = encoded.instruction.op_kinds();
    let kinds: Vec<OpKind> = operands.collect();
    for kind in kinds {
        match kind {
            OpKind::Memory => explicit(encoded, start, registers, memory, random),
            OpKind::MemorySegSI | OpKind::MemorySegESI | OpKind::MemorySegRSI => {
                registers.gpr[RSI] = random.address().wrapping_sub(base(&encoded.instruction, registers));
            }
            OpKind::MemorySegDI | OpKind::MemorySegEDI | OpKind::MemorySegRDI => {
                registers.gpr[RDI] = random.address().wrapping_sub(base(&encoded.instruction, registers));
            }
            OpKind::MemoryESDI | OpKind::MemoryESEDI | OpKind::MemoryESRDI => {
                registers.gpr[RDI] = random.address()
            }
            _ => {}
        }
    }
}

/// The base of the operand's segment.
fn base(instruction: &Instruction, registers: &Registers) -> u64 {
    match instruction.memory_segment() {
        Register::FS => registers.fs_base,
        Register::GS => registers.gs_base,
        _ => 0,
    }
}

fn patch(encoded: &mut Encoded, offset: usize, bytes: &[u8]) {
    encoded.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
    if let Some(instruction) = tern_x86::decode::decode(&encoded.bytes, mode()) {
        encoded.instruction = instruction;
    }
}

/// Half of the immediates become small or lie at an edge.
pub fn vary_immediates(encoded: &mut Encoded, random: &mut Random) {
    let constants = encoded.constants;
    // A vector is chosen with care already.
    let vector = encoded.instruction.mnemonic() == Mnemonic::Int;
    if !constants.has_immediate() || vector || random.one_in(2) {
        return;
    }
    let value = if random.one_in(2) { random.below(70) } else { random.integer() };
    patch(encoded, constants.immediate_offset(), &value.to_le_bytes()[..constants.immediate_size()]);
}

/// Most branches go to the code pages or shortly before and behind them.
fn branch(encoded: &mut Encoded, start: u64, random: &mut Random) {
    let is_near = matches!(encoded.instruction.op0_kind(), OpKind::NearBranch16 | OpKind::NearBranch64);
    let constants = encoded.constants;
    if !is_near || constants.immediate_size() < 4 || random.one_in(8) {
        return;
    }
    let end = start + encoded.bytes.len() as u64;
    let target = if random.one_in(8) {
        random.address()
    } else {
        CODE.linear + random.below(3 * CODE.size() as u64 / 2)
    };
    let displacement = target.wrapping_sub(end) as u32;
    patch(encoded, constants.immediate_offset(), &displacement.to_le_bytes());
}

/// Makes a branch that would go back into `sequence` go to the next instruction instead, so that it ends.
pub fn keep_out(encoded: &mut Encoded, start: u64, sequence: Range<u64>) {
    // It was decoded as an instruction at 0.
    let target = encoded.instruction.near_branch64().wrapping_add(start);
    if sequence.contains(&target) {
        let constants = encoded.constants;
        patch(encoded, constants.immediate_offset(), &[0; 8][..constants.immediate_size()]);
    }
}

/// Aims ModRM's memory operand and its kin at a random address, and puts something fitting there.
fn explicit(
    encoded: &mut Encoded,
    start: u64,
    registers: &mut Registers,
    memory: &mut Memory,
    random: &mut Random,
) {
    let linear = random.address();
    let address = aligned(&encoded.instruction, linear, random);
    let wanted = address.wrapping_sub(base(&encoded.instruction, registers));
    let constants = encoded.constants;
    let instruction = &encoded.instruction;
    match (slot(instruction.memory_base()), slot(instruction.memory_index())) {
        (None, None) if constants.has_displacement() => {
            let relative = instruction.is_ip_rel_memory_operand();
            let end = start + encoded.bytes.len() as u64;
            let value = if relative { wanted.wrapping_sub(end) } else { wanted };
            patch(
                encoded,
                constants.displacement_offset(),
                &value.to_le_bytes()[..constants.displacement_size()],
            );
        }
        (None, None) => {}
        (base, index) => {
            let displacement = instruction.memory_displacement64();
            let narrow = instruction.memory_base().size() == 4 || instruction.memory_index().size() == 4;
            let scale = u64::from(instruction.memory_index_scale());
            let rest = wanted.wrapping_sub(displacement);
            let small = index.map_or(0, |index| registers.gpr[index] % 64);
            // Only the low half counts for a 32-bit address.
            let mut set = |slot: usize, value: u64| {
                let high = if narrow { random.bits() & 0xffff_ffff_0000_0000 } else { 0 };
                registers.gpr[slot] = if narrow { value & 0xffff_ffff | high } else { value };
            };
            match (base, index) {
                (Some(base), Some(index)) if base == index => set(base, rest / (1 + scale)),
                (Some(base), Some(index)) => {
                    set(index, small);
                    set(base, rest.wrapping_sub(small * scale));
                }
                (Some(base), None) => set(base, rest),
                (None, Some(index)) => set(index, rest / scale),
                (None, None) => {}
            }
        }
    }
    contents(&encoded.instruction, address, registers, memory, random);
}

/// The register that counts in an address, by its number.
fn slot(register: Register) -> Option<usize> {
    (register.is_gpr()).then(|| register.full_register().number())
}

/// Large areas must be aligned and inside; most other operands may be anywhere.
fn aligned(instruction: &Instruction, address: u64, random: &mut Random) -> u64 {
    match instruction.mnemonic() {
        Mnemonic::Fxsave | Mnemonic::Fxsave64 | Mnemonic::Fxrstor | Mnemonic::Fxrstor64
            if !random.one_in(8) =>
        {
            DATA.linear + 16 * random.below((DATA.size() as u64 - 512) / 16)
        }
        _ => address,
    }
}

/// Puts into memory what makes the operand interesting.
fn contents(
    instruction: &Instruction,
    address: u64,
    registers: &Registers,
    memory: &mut Memory,
    random: &mut Random,
) {
    let mut put = |bytes: &[u8]| {
        if let Some(offset) = offset_of(address, bytes.len()) {
            memory[offset..offset + bytes.len()].copy_from_slice(bytes);
        }
    };
    let gpr = &registers.gpr;
    let equal = random.one_in(2);
    match instruction.mnemonic() {
        Mnemonic::Cmpxchg if equal => put(&gpr[RAX].to_le_bytes()),
        Mnemonic::Cmpxchg8b if equal => {
            put(&(gpr[RDX] << 32 | gpr[RAX] & 0xffff_ffff).to_le_bytes());
        }
        Mnemonic::Cmpxchg16b if equal => {
            put(&(u128::from(gpr[RDX]) << 64 | u128::from(gpr[RAX])).to_le_bytes())
        }
        Mnemonic::Fxrstor | Mnemonic::Fxrstor64 if !random.one_in(8) => put(random_fpu(random).image()),
        Mnemonic::Ldmxcsr | Mnemonic::Vldmxcsr => {
            // Bit 18 exists nowhere; bit 17 only on the host, if it is AMD's.
            let reserved = if random.one_in(8) { 1 << 18 } else { 0 };
            put(&(random_mxcsr(random) | reserved).to_le_bytes());
        }
        // Branch targets.
        Mnemonic::Jmp | Mnemonic::Call if !random.one_in(4) => put(&target(random).to_le_bytes()),
        _ if equal => put(&random.extended()),
        _ => put(&random.vector().to_le_bytes()),
    }
}

fn target(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.integer(),
        1 => 0x8000_0000_0000 + random.below(8) - 4,
        _ => CODE.linear + random.below(CODE.size() as u64),
    }
}

/// Gives implicit operands values that the instruction can work with.
fn values(instruction: &Instruction, registers: &mut Registers, memory: &mut Memory, random: &mut Random) {
    use Mnemonic as M;
    let gpr = &mut registers.gpr;
    match instruction.mnemonic() {
        // A dividend whose quotient often fits.
        M::Div | M::Idiv => match random.below(4) {
            0 => {}
            1 => gpr[RDX] = 0,
            2 => gpr[RDX] = (gpr[RAX] as i64 >> 63) as u64,
            _ => {
                gpr[RAX] = random.below(1 << 16);
                gpr[RDX] = random.below(4);
            }
        },
        M::Bt | M::Bts | M::Btr | M::Btc => {
            let bit = instruction.op1_register();
            if let Some(slot) = slot(bit)
                && !random.one_in(8)
            {
                gpr[slot] = random.below(4096).wrapping_sub(2048);
            }
        }
        M::Loop | M::Loope | M::Loopne | M::Jcxz | M::Jecxz | M::Jrcxz => gpr[RCX] = random.below(3),
        M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu => gpr[RDI] = random.address(),
        M::Xlatb => gpr[RBX] = random.address(),
        M::Vpcmpestri
        | M::Vpcmpestrm
        | M::Vpcmpestri64
        | M::Vpcmpestrm64
        | M::Pcmpestri
        | M::Pcmpestrm
        | M::Pcmpestri64
        | M::Pcmpestrm64 => {
            gpr[RAX] = random.below(40).wrapping_sub(20);
            gpr[RDX] = random.below(40).wrapping_sub(20);
        }
        M::Ret => {
            if let Some(offset) = offset_of(gpr[RSP], 8)
                && !random.one_in(8)
            {
                memory[offset..offset + 8].copy_from_slice(&target(random).to_le_bytes());
            }
        }
        M::Jmp | M::Call => {
            if let Some(slot) = slot(instruction.op0_register())
                && slot != RSP
            {
                gpr[slot] = target(random);
            }
        }
        M::Enter => gpr[RSP] = STACK.end() - 8 * random.below(128),
        M::Popf | M::Popfd | M::Popfq => {
            if let Some(offset) = offset_of(gpr[RSP], 8) {
                let rarely = if random.one_in(16) { 0 } else { (Rflags::AC | Rflags::TF).bits() };
                let flags = random.bits() & !rarely;
                memory[offset..offset + 8].copy_from_slice(&flags.to_le_bytes());
            }
        }
        M::Wrfsbase | M::Wrgsbase => {
            if let Some(slot) = slot(instruction.op0_register())
                && random.one_in(2)
            {
                gpr[slot] = random.bits() >> 17;
            }
        }
        _ => {}
    }
    if instruction.memory_index().is_vector_register() && !random.one_in(8) {
        near_indices(instruction, registers, random);
    }
    if has_repetition(instruction) && !random.one_in(16) {
        registers.gpr[RCX] = random.below(300) >> random.below(9);
    }
}

/// Gives a gather indices that lead near its base, most often.
fn near_indices(instruction: &Instruction, registers: &mut Registers, random: &mut Random) {
    let mut indices = [0; 32];
    let narrow = random.one_in(2);
    for lane in indices.chunks_mut(if narrow { 4 } else { 8 }) {
        let index = if random.one_in(24) { random.integer() } else { random.below(64).wrapping_sub(16) };
        let bytes = index.to_le_bytes();
        lane.copy_from_slice(&bytes[..lane.len()]);
    }
    registers.fpu.set_vector(instruction.memory_index().number(), &indices);
}
