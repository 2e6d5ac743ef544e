//! From a decoded instruction to the handler that executes it.
//!
//! [`lower`] resolves what all instructions share (memory operand, prefixes), then asks one room after another: system
//! instructions, control flow, strings, integers, and at last the vector unit. What nobody knows is #UD.

mod bit_fields;
mod control;
mod integer;
mod string;
mod vector_state;

use iced_x86::{Instruction, OpKind, Register};

use super::lower_system;
use super::{Op, OpFlags};
use crate::cpu::Mode;
use crate::cpu::word::{BLOCK, HIGH_BYTE, ZERO};
use crate::environment::Environment;
use crate::exec;
use crate::state::SegmentRegister;
use crate::vector;

/// Chooses a handler by operand size in bytes; its further parameters come before the operand's type.
macro_rules! sized {
    ($size:expr, $f:ident $(:: <$($g:tt),*>)?) => {
        match $size {
            1 => $f::<$($($g,)*)? u8, E>,
            2 => $f::<$($($g,)*)? u16, E>,
            4 => $f::<$($($g,)*)? u32, E>,
            _ => $f::<$($($g,)*)? u64, E>,
        }
    };
}

/// Chooses a handler by condition code; the parameters before `;` come before the code, the others behind it.
macro_rules! by_condition {
    ($code:expr, $f:ident :: <$($a:ty),* ; $($b:ty),*>) => {
        match $code & 15 {
            0 => $f::<$($a,)* 0, $($b),*>,
            1 => $f::<$($a,)* 1, $($b),*>,
            2 => $f::<$($a,)* 2, $($b),*>,
            3 => $f::<$($a,)* 3, $($b),*>,
            4 => $f::<$($a,)* 4, $($b),*>,
            5 => $f::<$($a,)* 5, $($b),*>,
            6 => $f::<$($a,)* 6, $($b),*>,
            7 => $f::<$($a,)* 7, $($b),*>,
            8 => $f::<$($a,)* 8, $($b),*>,
            9 => $f::<$($a,)* 9, $($b),*>,
            10 => $f::<$($a,)* 10, $($b),*>,
            11 => $f::<$($a,)* 11, $($b),*>,
            12 => $f::<$($a,)* 12, $($b),*>,
            13 => $f::<$($a,)* 13, $($b),*>,
            14 => $f::<$($a,)* 14, $($b),*>,
            _ => $f::<$($a,)* 15, $($b),*>,
        }
    };
}

pub(super) use {by_condition, sized};

/// Fills `op` for `instruction`, whose encoding is `bytes`.
pub fn lower<E: Environment>(
    instruction: &Instruction,
    bytes: &[u8],
    mode: Mode,
    env: &mut E,
    op: &mut Op<E>,
) {
    memory_operand(instruction, mode, op);
    op.flags.set(OpFlags::LOCK, instruction.has_lock_prefix());
    if !env.instruction_sets().offer(instruction) {
        op.run = exec::undefined;
        op.flags |= OpFlags::ENDS_BLOCK;
        return;
    }
    let known = lower_system::lower(instruction, op)
        || control::lower(instruction, mode, op)
        || string::lower(instruction, op)
        || integer::lower(instruction, op)
        || bit_fields::lower(instruction, op)
        || vector_state::lower(instruction, op);
    if known {
        return;
    }
    let prepared =
        vector::classify(instruction).and_then(|info| Some((info, env.prepare_vector(instruction, &info)?)));
    match prepared {
        Some((info, handle)) => exec::vector::lower(&info, bytes, handle, op),
        None => {
            op.run = exec::undefined;
            op.flags |= OpFlags::ENDS_BLOCK;
        }
    }
}

/// The condition an instruction depends on, as opcodes encode it.
pub fn condition(instruction: &Instruction) -> u8 {
    (instruction.condition_code() as u8).wrapping_sub(1) & 15
}

/// The slot of a general-purpose register, with [`HIGH_BYTE`] for AH, CH, DH and BH.
pub fn slot(register: Register) -> u8 {
    match register {
        Register::AH => HIGH_BYTE,
        Register::CH => HIGH_BYTE | 1,
        Register::DH => HIGH_BYTE | 2,
        Register::BH => HIGH_BYTE | 3,
        Register::None => ZERO as u8,
        Register::RIP | Register::EIP => BLOCK as u8,
        gpr => (gpr.full_register().number() & 15) as u8,
    }
}

/// The size of operand `n` in bytes.
fn operand_size(instruction: &Instruction, n: u32) -> usize {
    match instruction.op_kind(n) {
        OpKind::Register => instruction.op_register(n).size(),
        _ => instruction.memory_size().size(),
    }
}

fn segment(register: Register) -> SegmentRegister {
    match register {
        Register::ES => SegmentRegister::Es,
        Register::CS => SegmentRegister::Cs,
        Register::SS => SegmentRegister::Ss,
        Register::FS => SegmentRegister::Fs,
        Register::GS => SegmentRegister::Gs,
        _ => SegmentRegister::Ds,
    }
}

/// The width of the instruction's effective addresses in bits, if it has a memory operand.
fn address_bits(instruction: &Instruction) -> Option<usize> {
    (0..instruction.op_count()).find_map(|n| match instruction.op_kind(n) {
        OpKind::MemorySegSI | OpKind::MemorySegDI | OpKind::MemoryESDI => Some(16),
        OpKind::MemorySegESI | OpKind::MemorySegEDI | OpKind::MemoryESEDI => Some(32),
        OpKind::MemorySegRSI | OpKind::MemorySegRDI | OpKind::MemoryESRDI => Some(64),
        OpKind::Memory => Some(match (instruction.memory_base(), instruction.memory_index()) {
            (Register::None, index) if index == Register::None || index.is_vector_register() => {
                8 * instruction.memory_displ_size() as usize
            }
            (Register::None, index) => 8 * index.size(),
            (base, _) => 8 * base.size(),
        }),
        _ => None,
    })
}

fn memory_operand<E>(instruction: &Instruction, mode: Mode, op: &mut Op<E>) {
    let Some(bits) = address_bits(instruction) else { return };
    op.flags |= match bits {
        16 => OpFlags::ADDRESS16,
        32 => OpFlags::ADDRESS32,
        _ if mode.contains(Mode::LONG) => OpFlags::PLAIN,
        _ => OpFlags::ADDRESS32,
    };
    op.base = slot(instruction.memory_base());
    op.index = slot(instruction.memory_index());
    op.scale = instruction.memory_index_scale().trailing_zeros() as u8;
    op.displacement = instruction.memory_displacement64();
    op.segment = match instruction.memory_segment() {
        Register::FS | Register::GS => segment(instruction.memory_segment()),
        // 64-bit code ignores the other prefixes (APM volume 3, section 1.2.4).
        _ if mode.contains(Mode::LONG) => match instruction.memory_base() {
            Register::RSP | Register::RBP | Register::ESP | Register::EBP => SegmentRegister::Ss,
            _ => SegmentRegister::Ds,
        },
        register => segment(register),
    };
}
