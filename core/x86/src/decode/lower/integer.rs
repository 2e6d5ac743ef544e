//! Integer instructions: operands in registers, memory and immediates.

use iced_x86::{Code, ConditionCode, EncodingKind, Instruction, Mnemonic, OpKind};

use super::{by_condition, condition, operand_size, sized, slot};
use crate::decode::{Op, is_pause};
use crate::environment::{Environment, Handler};
use crate::exec::alu::*;
use crate::exec::bits::*;
use crate::exec::bound::bound;
use crate::exec::flag::*;
use crate::exec::mov::*;
use crate::exec::multiply::*;
use crate::exec::shift::*;

/// Where the two operands of an instruction are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    RegisterRegister,
    RegisterMemory,
    MemoryRegister,
    RegisterImmediate,
    MemoryImmediate,
    Register,
    Memory,
    None,
}

/// Sets the handler if the instruction is an integer instruction.
pub fn lower<E: Environment>(instruction: &Instruction, op: &mut Op<E>) -> bool {
    let form = form(instruction, op);
    let handler = two_operands(instruction, form)
        .or_else(|| moves(instruction, form))
        .or_else(|| shifts(instruction, form, op))
        .or_else(|| bit_operations(instruction, form))
        .or_else(|| multiplications(instruction, form, op))
        .or_else(|| flags_and_decimal(instruction, op));
    if let Some(run) = handler {
        op.run = run;
    }
    handler.is_some()
}

/// Recognises the form and fills the register and immediate fields for it.
fn form<E>(instruction: &Instruction, op: &mut Op<E>) -> Form {
    use OpKind::{Memory, Register};
    if instruction.op_count() == 0 {
        return Form::None;
    }
    let first = instruction.op0_kind();
    if first == Register {
        op.reg = slot(instruction.op0_register());
    }
    if instruction.op_count() == 1 {
        return if first == Register { Form::Register } else { Form::Memory };
    }
    match (first, instruction.op1_kind()) {
        (Register, Register) => {
            op.rm = slot(instruction.op1_register());
            Form::RegisterRegister
        }
        (Register, Memory) => Form::RegisterMemory,
        (Memory, Register) => {
            op.reg = slot(instruction.op1_register());
            Form::MemoryRegister
        }
        (Register, _) => {
            op.immediate = instruction.immediate(1);
            Form::RegisterImmediate
        }
        (Memory, _) => {
            op.immediate = instruction.immediate(1);
            Form::MemoryImmediate
        }
        _ => Form::None,
    }
}

fn binary<A: Binary, E: Environment>(form: Form, size: usize) -> Option<Handler<E>> {
    Some(match form {
        Form::RegisterRegister => sized!(size, binary_rr::<A>),
        Form::RegisterMemory => sized!(size, binary_rm::<A>),
        Form::MemoryRegister => sized!(size, binary_mr::<A>),
        Form::RegisterImmediate => sized!(size, binary_ri::<A>),
        Form::MemoryImmediate => sized!(size, binary_mi::<A>),
        _ => return None,
    })
}

fn unary<A: Unary, E: Environment>(form: Form, size: usize) -> Option<Handler<E>> {
    Some(match form {
        Form::Register => sized!(size, unary_r::<A>),
        Form::Memory => sized!(size, unary_m::<A>),
        _ => return None,
    })
}

fn two_operands<E: Environment>(instruction: &Instruction, form: Form) -> Option<Handler<E>> {
    let size = || operand_size(instruction, 0);
    let memory = form == Form::MemoryRegister;
    match instruction.mnemonic() {
        Mnemonic::Add => binary::<Add, E>(form, size()),
        Mnemonic::Adc => binary::<Adc, E>(form, size()),
        Mnemonic::Sub => binary::<Sub, E>(form, size()),
        Mnemonic::Sbb => binary::<Sbb, E>(form, size()),
        Mnemonic::Cmp => binary::<Cmp, E>(form, size()),
        Mnemonic::And => binary::<And, E>(form, size()),
        Mnemonic::Or => binary::<Or, E>(form, size()),
        Mnemonic::Xor => binary::<Xor, E>(form, size()),
        Mnemonic::Test => binary::<Test, E>(form, size()),
        Mnemonic::Inc => unary::<Inc, E>(form, size()),
        Mnemonic::Dec => unary::<Dec, E>(form, size()),
        Mnemonic::Neg => unary::<Neg, E>(form, size()),
        Mnemonic::Not => unary::<Not, E>(form, size()),
        Mnemonic::Xadd if memory => Some(sized!(size(), xadd_mr)),
        Mnemonic::Xadd => Some(sized!(size(), xadd_rr)),
        Mnemonic::Cmpxchg if memory => Some(sized!(size(), cmpxchg_mr)),
        Mnemonic::Cmpxchg => Some(sized!(size(), cmpxchg_rr)),
        Mnemonic::Cmpxchg8b => Some(cmpxchg8b),
        Mnemonic::Cmpxchg16b => Some(cmpxchg16b),
        Mnemonic::Bound => Some(match instruction.op0_register().size() {
            2 => bound::<u16, E>,
            _ => bound::<u32, E>,
        }),
        _ => None,
    }
}

fn moves<E: Environment>(instruction: &Instruction, form: Form) -> Option<Handler<E>> {
    let size = operand_size(instruction, 0);
    Some(match instruction.mnemonic() {
        Mnemonic::Mov => match form {
            Form::RegisterRegister => sized!(size, mov_rr),
            Form::RegisterMemory => sized!(size, mov_rm),
            Form::MemoryRegister => sized!(size, mov_mr),
            Form::RegisterImmediate => sized!(size, mov_ri),
            Form::MemoryImmediate => sized!(size, mov_mi),
            _ => return None,
        },
        Mnemonic::Movnti => sized!(size, mov_mr),
        Mnemonic::Movzx => match (form, operand_size(instruction, 1)) {
            (Form::RegisterRegister, 1) => sized!(size, movzx_rr::<u8>),
            (Form::RegisterRegister, _) => sized!(size, movzx_rr::<u16>),
            (_, 1) => sized!(size, movzx_rm::<u8>),
            _ => sized!(size, movzx_rm::<u16>),
        },
        Mnemonic::Movsx | Mnemonic::Movsxd => match (form, operand_size(instruction, 1)) {
            (Form::RegisterRegister, 1) => sized!(size, movsx_rr::<u8>),
            (Form::RegisterRegister, 2) => sized!(size, movsx_rr::<u16>),
            (Form::RegisterRegister, _) => sized!(size, movsx_rr::<u32>),
            (_, 1) => sized!(size, movsx_rm::<u8>),
            (_, 2) => sized!(size, movsx_rm::<u16>),
            _ => sized!(size, movsx_rm::<u32>),
        },
        Mnemonic::Lea => sized!(size, lea),
        Mnemonic::Xchg => match form {
            Form::RegisterRegister => sized!(size, xchg_rr),
            _ => sized!(size, xchg_mr),
        },
        Mnemonic::Bswap => sized!(size, bswap),
        Mnemonic::Cbw => extend_accumulator::<u8, u16, E>,
        Mnemonic::Cwde => extend_accumulator::<u16, u32, E>,
        Mnemonic::Cdqe => extend_accumulator::<u32, u64, E>,
        Mnemonic::Cwd => extend_into_rdx::<u16, E>,
        Mnemonic::Cdq => extend_into_rdx::<u32, E>,
        Mnemonic::Cqo => extend_into_rdx::<u64, E>,
        Mnemonic::Xlatb => xlat,
        Mnemonic::Mfence | Mnemonic::Sfence | Mnemonic::Lfence => fence,
        // PREFETCH has no register form (APM volume 3, PREFETCH).
        Mnemonic::Reservednop if form == Form::RegisterRegister && is_prefetch_opcode(instruction) => {
            return None;
        }
        // What later processors do with a part of the space of reserved no-operations are no-operations here.
        Mnemonic::Rdsspd | Mnemonic::Rdsspq | Mnemonic::Cldemote => nop,
        Mnemonic::Nop if is_pause(instruction) => pause,
        Mnemonic::Nop
        | Mnemonic::Reservednop
        | Mnemonic::Prefetch
        | Mnemonic::Prefetchw
        | Mnemonic::Prefetchwt1
        | Mnemonic::Prefetchnta
        | Mnemonic::Prefetcht0
        | Mnemonic::Prefetcht1
        | Mnemonic::Prefetcht2
        | Mnemonic::Endbr32
        | Mnemonic::Endbr64 => nop,
        // SETcc with one operand, CMOVcc with two. CMPccXADD, which VEX encodes, is not among what any model has.
        _ if instruction.condition_code() != ConditionCode::None
            && instruction.code().encoding() == EncodingKind::Legacy =>
        {
            let code = condition(instruction);
            match form {
                Form::Register => by_condition!(code, set_r::<; E>),
                Form::Memory => by_condition!(code, set_m::<; E>),
                _ => conditional_move(code, form, size),
            }
        }
        _ => return None,
    })
}

/// Whether the opcode is 0F 0D.
fn is_prefetch_opcode(instruction: &Instruction) -> bool {
    matches!(
        instruction.code(),
        Code::Reservednop_rm16_r16_0F0D | Code::Reservednop_rm32_r32_0F0D | Code::Reservednop_rm64_r64_0F0D
    )
}

fn conditional_move<E: Environment>(code: u8, form: Form, size: usize) -> Handler<E> {
    match (form, size) {
        (Form::RegisterRegister, 2) => by_condition!(code, cmov_rr::<; u16, E>),
        (Form::RegisterRegister, 4) => by_condition!(code, cmov_rr::<; u32, E>),
        (Form::RegisterRegister, _) => by_condition!(code, cmov_rr::<; u64, E>),
        (_, 2) => by_condition!(code, cmov_rm::<; u16, E>),
        (_, 4) => by_condition!(code, cmov_rm::<; u32, E>),
        _ => by_condition!(code, cmov_rm::<; u64, E>),
    }
}

fn shift<S: Shift, E: Environment>(form: Form, size: usize) -> Option<Handler<E>> {
    Some(match form {
        Form::RegisterImmediate => sized!(size, shift_ri::<S>),
        Form::MemoryImmediate => sized!(size, shift_mi::<S>),
        Form::RegisterRegister => sized!(size, shift_rc::<S>),
        Form::MemoryRegister => sized!(size, shift_mc::<S>),
        _ => return None,
    })
}

fn shifts<E: Environment>(instruction: &Instruction, form: Form, op: &mut Op<E>) -> Option<Handler<E>> {
    let size = operand_size(instruction, 0);
    match instruction.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal => shift::<Shl, E>(form, size),
        Mnemonic::Shr => shift::<Shr, E>(form, size),
        Mnemonic::Sar => shift::<Sar, E>(form, size),
        Mnemonic::Rol => shift::<Rol, E>(form, size),
        Mnemonic::Ror => shift::<Ror, E>(form, size),
        Mnemonic::Rcl => shift::<Rcl, E>(form, size),
        Mnemonic::Rcr => shift::<Rcr, E>(form, size),
        Mnemonic::Shld | Mnemonic::Shrd => {
            let left = instruction.mnemonic() == Mnemonic::Shld;
            let by_cl = instruction.op2_kind() == OpKind::Register;
            if !by_cl {
                op.immediate = instruction.immediate(2);
            }
            op.rm = slot(instruction.op1_register());
            Some(match (form, left, by_cl) {
                (Form::RegisterRegister, true, false) => sized!(size, double_r::<true, false>),
                (Form::RegisterRegister, true, true) => sized!(size, double_r::<true, true>),
                (Form::RegisterRegister, false, false) => sized!(size, double_r::<false, false>),
                (Form::RegisterRegister, false, true) => sized!(size, double_r::<false, true>),
                (_, true, false) => sized!(size, double_m::<true, false>),
                (_, true, true) => sized!(size, double_m::<true, true>),
                (_, false, false) => sized!(size, double_m::<false, false>),
                (_, false, true) => sized!(size, double_m::<false, true>),
            })
        }
        _ => None,
    }
}

fn bit_test<B: BitChange, E: Environment>(form: Form, size: usize) -> Option<Handler<E>> {
    Some(match form {
        Form::RegisterRegister => sized!(size, bit_rr::<B>),
        Form::RegisterImmediate => sized!(size, bit_ri::<B>),
        Form::MemoryRegister => sized!(size, bit_mr::<B>),
        Form::MemoryImmediate => sized!(size, bit_mi::<B>),
        _ => return None,
    })
}

fn bit_operations<E: Environment>(instruction: &Instruction, form: Form) -> Option<Handler<E>> {
    let size = operand_size(instruction, 0);
    let registers = form == Form::RegisterRegister;
    Some(match instruction.mnemonic() {
        Mnemonic::Bt => return bit_test::<Bt, E>(form, size),
        Mnemonic::Bts => return bit_test::<Bts, E>(form, size),
        Mnemonic::Btr => return bit_test::<Btr, E>(form, size),
        Mnemonic::Btc => return bit_test::<Btc, E>(form, size),
        Mnemonic::Bsf if registers => sized!(size, scan_rr::<false>),
        Mnemonic::Bsf => sized!(size, scan_rm::<false>),
        Mnemonic::Bsr if registers => sized!(size, scan_rr::<true>),
        Mnemonic::Bsr => sized!(size, scan_rm::<true>),
        Mnemonic::Popcnt if registers => sized!(size, popcnt_rr),
        Mnemonic::Popcnt => sized!(size, popcnt_rm),
        Mnemonic::Crc32 if registers => sized!(operand_size(instruction, 1), crc32_rr),
        Mnemonic::Crc32 => sized!(operand_size(instruction, 1), crc32_rm),
        _ => return None,
    })
}

fn multiplications<E: Environment>(
    instruction: &Instruction,
    form: Form,
    op: &mut Op<E>,
) -> Option<Handler<E>> {
    let size = operand_size(instruction, 0);
    let register = form == Form::Register;
    Some(match instruction.mnemonic() {
        Mnemonic::Mul if register => sized!(size, multiply_r::<false>),
        Mnemonic::Mul => sized!(size, multiply_m::<false>),
        Mnemonic::Div if register => sized!(size, divide_r::<false>),
        Mnemonic::Div => sized!(size, divide_m::<false>),
        Mnemonic::Idiv if register => sized!(size, divide_r::<true>),
        Mnemonic::Idiv => sized!(size, divide_m::<true>),
        Mnemonic::Imul => match (instruction.op_count(), form) {
            (1, Form::Register) => sized!(size, multiply_r::<true>),
            (1, _) => sized!(size, multiply_m::<true>),
            (2, Form::RegisterRegister) => sized!(size, imul_rr),
            (2, _) => sized!(size, imul_rm),
            (_, inner) => {
                op.immediate = instruction.immediate(2);
                match inner {
                    Form::RegisterRegister => sized!(size, imul_rri),
                    _ => sized!(size, imul_rmi),
                }
            }
        },
        _ => return None,
    })
}

fn flags_and_decimal<E: Environment>(instruction: &Instruction, op: &mut Op<E>) -> Option<Handler<E>> {
    Some(match instruction.mnemonic() {
        Mnemonic::Clc => clc,
        Mnemonic::Stc => stc,
        Mnemonic::Cmc => cmc,
        Mnemonic::Cld => cld,
        Mnemonic::Std => std,
        Mnemonic::Lahf => lahf,
        Mnemonic::Sahf => sahf,
        Mnemonic::Salc => salc,
        Mnemonic::Aaa => ascii_adjust::<true, E>,
        Mnemonic::Aas => ascii_adjust::<false, E>,
        Mnemonic::Daa => decimal_adjust::<true, E>,
        Mnemonic::Das => decimal_adjust::<false, E>,
        Mnemonic::Aad => {
            op.immediate = instruction.immediate(0);
            aad
        }
        Mnemonic::Aam => {
            op.immediate = instruction.immediate(0);
            aam
        }
        _ => return None,
    })
}
