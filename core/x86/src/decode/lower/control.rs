//! Near branches and the stack.

use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::{by_condition, condition, operand_size, sized, slot};
use crate::cpu::Mode;
use crate::decode::{Op, OpFlags};
use crate::environment::{Environment, Handler};
use crate::exec::branch::{call, call_m, call_r, jcc, jcxz, jmp, jmp_m, jmp_r, loop_counter, ret};
use crate::exec::stack::{
    enter, leave, pop_m, pop_r, popa, popf, push_i, push_m, push_r, push_segment, pusha, pushf,
};

/// Sets the handler if the instruction is a near branch or works on the stack.
pub fn lower<E: Environment>(instruction: &Instruction, mode: Mode, op: &mut Op<E>) -> bool {
    branches(instruction, mode, op) || stack(instruction, op)
}

const BRANCH: OpFlags = OpFlags::SETS_RIP.union(OpFlags::ENDS_BLOCK);

fn branches<E: Environment>(instruction: &Instruction, mode: Mode, op: &mut Op<E>) -> bool {
    let kind = instruction.op0_kind();
    let relative = matches!(kind, OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64);
    // A near branch's own operand size; the return address has it too.
    let size = match kind {
        OpKind::NearBranch16 => 2,
        OpKind::NearBranch32 => 4,
        OpKind::NearBranch64 => 8,
        _ => operand_size(instruction, 0),
    };
    let run: Handler<E> = match instruction.mnemonic() {
        _ if instruction.is_jcc_short_or_near() => by_condition!(condition(instruction), jcc::<; E>),
        Mnemonic::Jmp if relative => jmp,
        Mnemonic::Call if relative => sized!(size, call),
        Mnemonic::Jmp if instruction.is_jmp_near_indirect() => {
            if kind == OpKind::Register {
                sized!(size, jmp_r)
            } else {
                sized!(size, jmp_m)
            }
        }
        Mnemonic::Call if instruction.is_call_near_indirect() => {
            if kind == OpKind::Register {
                sized!(size, call_r)
            } else {
                sized!(size, call_m)
            }
        }
        Mnemonic::Ret => {
            op.immediate = if instruction.op_count() == 1 { u64::from(instruction.immediate16()) } else { 0 };
            match instruction.code() {
                Code::Retnw | Code::Retnw_imm16 => ret::<u16, E>,
                Code::Retnd | Code::Retnd_imm16 => ret::<u32, E>,
                _ => ret::<u64, E>,
            }
        }
        Mnemonic::Loop => loop_counter::<2, E>,
        Mnemonic::Loope => loop_counter::<1, E>,
        Mnemonic::Loopne => loop_counter::<0, E>,
        Mnemonic::Jcxz | Mnemonic::Jecxz | Mnemonic::Jrcxz => jcxz,
        _ => return false,
    };
    op.run = run;
    op.flags |= BRANCH;
    op.flags.set(OpFlags::CONDITIONAL, instruction.flow_control() == FlowControl::ConditionalBranch);
    if kind == OpKind::Register {
        op.reg = slot(instruction.op0_register());
    }
    if relative {
        op.displacement = instruction.near_branch_target();
        op.immediate = if size == 8 { u64::MAX } else { (1 << (8 * size)) - 1 };
        op.flags.set(OpFlags::PLAIN, mode.contains(Mode::LONG) && size == 8);
        op.flags |= match counter_bits(instruction) {
            16 => OpFlags::ADDRESS16,
            32 => OpFlags::ADDRESS32,
            _ => OpFlags::empty(),
        };
    }
    true
}

/// The width of the counter that LOOP and JCXZ use: their address size.
fn counter_bits(instruction: &Instruction) -> u32 {
    use Code::*;
    match instruction.code() {
        Jcxz_rel8_16 | Jcxz_rel8_32 | Loop_rel8_16_CX | Loop_rel8_32_CX | Loope_rel8_16_CX
        | Loope_rel8_32_CX | Loopne_rel8_16_CX | Loopne_rel8_32_CX => 16,
        Jecxz_rel8_16 | Jecxz_rel8_32 | Jecxz_rel8_64 | Loop_rel8_16_ECX | Loop_rel8_32_ECX
        | Loop_rel8_64_ECX | Loope_rel8_16_ECX | Loope_rel8_32_ECX | Loope_rel8_64_ECX
        | Loopne_rel8_16_ECX | Loopne_rel8_32_ECX | Loopne_rel8_64_ECX => 32,
        _ => 64,
    }
}

fn stack<E: Environment>(instruction: &Instruction, op: &mut Op<E>) -> bool {
    use Code::{Enterd_imm16_imm8, Enterw_imm16_imm8, Leaved, Leavew};
    let size = instruction.stack_pointer_increment().unsigned_abs() as usize;
    let register = instruction.op0_register();
    let run: Handler<E> = match (instruction.mnemonic(), instruction.op0_kind()) {
        (Mnemonic::Push, OpKind::Register) if register.is_segment_register() => {
            op.reg = register.number() as u8;
            op.run = sized!(size, push_segment);
            return true;
        }
        (Mnemonic::Push, OpKind::Register) => sized!(size, push_r),
        (Mnemonic::Push, OpKind::Memory) => sized!(size, push_m),
        (Mnemonic::Push, _) => {
            op.immediate = instruction.immediate(0);
            sized!(size, push_i)
        }
        (Mnemonic::Pop, OpKind::Register) if !register.is_segment_register() => sized!(size, pop_r),
        (Mnemonic::Pop, OpKind::Memory) => sized!(size, pop_m),
        (Mnemonic::Pushf | Mnemonic::Pushfd | Mnemonic::Pushfq, _) => sized!(size, pushf),
        (Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq, _) => {
            op.flags |= OpFlags::ENDS_BLOCK | OpFlags::CHECK_INTERRUPTS;
            sized!(size, popf)
        }
        (Mnemonic::Pusha | Mnemonic::Pushad, _) => sized!(size / 8, pusha),
        (Mnemonic::Popa | Mnemonic::Popad, _) => sized!(size / 8, popa),
        (Mnemonic::Leave, _) => match instruction.code() {
            Leavew => leave::<u16, E>,
            Leaved => leave::<u32, E>,
            _ => leave::<u64, E>,
        },
        (Mnemonic::Enter, _) => {
            op.immediate =
                u64::from(instruction.immediate16()) | u64::from(instruction.immediate8_2nd()) << 16;
            match instruction.code() {
                Enterw_imm16_imm8 => enter::<u16, E>,
                Enterd_imm16_imm8 => enter::<u32, E>,
                _ => enter::<u64, E>,
            }
        }
        _ => return false,
    };
    op.run = run;
    if register != Register::None {
        op.reg = slot(register);
    }
    true
}
