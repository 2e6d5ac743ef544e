//! A comparison and the branch behind it become one operation: together they are a seventh of all code.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::lower::{by_condition, condition};
use super::{Op, OpFlags};
use crate::environment::{Environment, Handler};
use crate::exec::alu::{Cmp, Test};
use crate::exec::branch::{fused_ri, fused_rr};

/// The fused operation of two consecutive instructions, if they are such a pair.
pub fn fuse<E: Environment>(
    first: &Instruction,
    first_op: &Op<E>,
    second: &Instruction,
    branch: &Op<E>,
) -> Option<Op<E>> {
    if !second.is_jcc_short_or_near()
        || !branch.flags.contains(OpFlags::PLAIN)
        || first.op0_kind() != OpKind::Register
    {
        return None;
    }
    let code = condition(second);
    let size = first.op0_register().size();
    let mut op = *branch;
    op.run = match first.op1_kind() {
        OpKind::Register => register_pair::<E>(first.mnemonic(), size, code)?,
        OpKind::Memory => return None,
        _ => {
            op.extra = i32::try_from(first_op.immediate as i64).ok()? as u32;
            register_immediate::<E>(first.mnemonic(), size, code)?
        }
    };
    op.reg = first_op.reg;
    op.rm = first_op.rm;
    // It is where the branch is, which alone can fault.
    Some(op)
}

fn register_pair<E: Environment>(mnemonic: Mnemonic, size: usize, code: u8) -> Option<Handler<E>> {
    Some(match (mnemonic, size) {
        (Mnemonic::Cmp, 1) => by_condition!(code, fused_rr::<Cmp; u8, E>),
        (Mnemonic::Cmp, 4) => by_condition!(code, fused_rr::<Cmp; u32, E>),
        (Mnemonic::Cmp, 8) => by_condition!(code, fused_rr::<Cmp; u64, E>),
        (Mnemonic::Test, 1) => by_condition!(code, fused_rr::<Test; u8, E>),
        (Mnemonic::Test, 4) => by_condition!(code, fused_rr::<Test; u32, E>),
        (Mnemonic::Test, 8) => by_condition!(code, fused_rr::<Test; u64, E>),
        _ => return None,
    })
}

fn register_immediate<E: Environment>(mnemonic: Mnemonic, size: usize, code: u8) -> Option<Handler<E>> {
    Some(match (mnemonic, size) {
        (Mnemonic::Cmp, 1) => by_condition!(code, fused_ri::<Cmp; u8, E>),
        (Mnemonic::Cmp, 4) => by_condition!(code, fused_ri::<Cmp; u32, E>),
        (Mnemonic::Cmp, 8) => by_condition!(code, fused_ri::<Cmp; u64, E>),
        (Mnemonic::Test, 1) => by_condition!(code, fused_ri::<Test; u8, E>),
        (Mnemonic::Test, 4) => by_condition!(code, fused_ri::<Test; u32, E>),
        (Mnemonic::Test, 8) => by_condition!(code, fused_ri::<Test; u64, E>),
        _ => return None,
    })
}
