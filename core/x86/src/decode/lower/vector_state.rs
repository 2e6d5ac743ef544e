//! The management of x87 and SSE state, which is written out rather than executed natively.
//!
//! XSAVES and XRSTORS are not offered by any processor model and stay undefined.

use iced_x86::{Code, Instruction};

use super::slot;
use crate::cpu::word::RDI;
use crate::decode::Op;
use crate::environment::{Environment, Handler};
use crate::exec::vector::area::{fxrstor, fxsave, xrstor, xsave, xsavec, xsaveopt};
use crate::exec::vector::sse_state::{ldmxcsr, maskmovdqu, maskmovq, stmxcsr};
use crate::exec::vector::x87_state::*;

/// Sets the handler if the instruction manages x87 or SSE state.
pub fn lower<E: Environment>(instruction: &Instruction, op: &mut Op<E>) -> bool {
    let run: Handler<E> = match instruction.code() {
        Code::Wait => fwait,
        Code::Fneni | Code::Fndisi | Code::Fnsetpm => ignored,
        Code::Fninit => fninit,
        Code::Fnclex => fnclex,
        Code::Fldcw_m2byte => fldcw,
        Code::Fnstcw_m2byte => fnstcw,
        Code::Fnstsw_m2byte => fnstsw_m,
        Code::Fnstsw_AX => fnstsw_ax,
        Code::Fnstenv_m14byte => fnstenv::<u16, E>,
        Code::Fnstenv_m28byte => fnstenv::<u32, E>,
        Code::Fldenv_m14byte => fldenv::<u16, E>,
        Code::Fldenv_m28byte => fldenv::<u32, E>,
        Code::Fnsave_m94byte => fnsave::<u16, E>,
        Code::Fnsave_m108byte => fnsave::<u32, E>,
        Code::Frstor_m94byte => frstor::<u16, E>,
        Code::Frstor_m108byte => frstor::<u32, E>,
        Code::Fxsave_m512byte => fxsave::<false, E>,
        Code::Fxsave64_m512byte => fxsave::<true, E>,
        Code::Fxrstor_m512byte => fxrstor::<false, E>,
        Code::Fxrstor64_m512byte => fxrstor::<true, E>,
        Code::Xsave_mem => xsave::<false, E>,
        Code::Xsave64_mem => xsave::<true, E>,
        Code::Xsaveopt_mem => xsaveopt::<false, E>,
        Code::Xsaveopt64_mem => xsaveopt::<true, E>,
        Code::Xsavec_mem => xsavec::<false, E>,
        Code::Xsavec64_mem => xsavec::<true, E>,
        Code::Xrstor_mem => xrstor::<false, E>,
        Code::Xrstor64_mem => xrstor::<true, E>,
        Code::Ldmxcsr_m32 => ldmxcsr,
        Code::Stmxcsr_m32 => stmxcsr,
        Code::Maskmovq_rDI_mm_mm => masked_move(instruction, op, maskmovq),
        Code::Maskmovdqu_rDI_xmm_xmm => masked_move(instruction, op, maskmovdqu),
        _ => return false,
    };
    op.run = run;
    true
}

/// The implicit destination is at rDI; the two operands are the source and the mask.
fn masked_move<E: Environment>(instruction: &Instruction, op: &mut Op<E>, run: Handler<E>) -> Handler<E> {
    op.base = RDI as u8;
    op.reg = slot(instruction.op1_register());
    op.rm = slot(instruction.op2_register());
    run
}
