//! The management of x87, SSE and AVX state, and accesses of single elements, which are written out rather than executed
//! natively.
//!
//! XSAVES and XRSTORS are not offered by any processor model and stay undefined.

use iced_x86::{Code, Instruction, OpKind};

use super::slot;
use crate::cpu::word::RDI;
use crate::decode::Op;
use crate::environment::{Environment, Handler};
use crate::exec::vector::area::{fxrstor, fxsave, xrstor, xsave, xsavec, xsaveopt};
use crate::exec::vector::elements::{gather, masked_load, masked_store};
use crate::exec::vector::sse_state::{ldmxcsr, maskmovdqu, maskmovq, stmxcsr};
use crate::exec::vector::unit::{Avx, Sse};
use crate::exec::vector::upper_halves::{vzeroall, vzeroupper};
use crate::exec::vector::x87_state::*;

/// Sets the handler if the instruction is one of these.
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
        Code::Ldmxcsr_m32 => ldmxcsr::<Sse, E>,
        Code::Stmxcsr_m32 => stmxcsr::<Sse, E>,
        Code::VEX_Vldmxcsr_m32 => ldmxcsr::<Avx, E>,
        Code::VEX_Vstmxcsr_m32 => stmxcsr::<Avx, E>,
        Code::VEX_Vzeroupper => vzeroupper,
        Code::VEX_Vzeroall => vzeroall,
        Code::Maskmovq_rDI_mm_mm => masked_move(instruction, op, maskmovq),
        Code::Maskmovdqu_rDI_xmm_xmm => masked_move(instruction, op, maskmovdqu::<Sse, E>),
        Code::VEX_Vmaskmovdqu_rDI_xmm_xmm => masked_move(instruction, op, maskmovdqu::<Avx, E>),
        code => match elements(code) {
            Some(run) => {
                element_operands(instruction, op);
                run
            }
            None => return false,
        },
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

/// Masked moves and gathers.
fn elements<E: Environment>(code: Code) -> Option<Handler<E>> {
    use Code as C;
    Some(match code {
        C::VEX_Vmaskmovps_xmm_xmm_m128 | C::VEX_Vpmaskmovd_xmm_xmm_m128 => masked_load::<16, u32, E>,
        C::VEX_Vmaskmovps_ymm_ymm_m256 | C::VEX_Vpmaskmovd_ymm_ymm_m256 => masked_load::<32, u32, E>,
        C::VEX_Vmaskmovpd_xmm_xmm_m128 | C::VEX_Vpmaskmovq_xmm_xmm_m128 => masked_load::<16, u64, E>,
        C::VEX_Vmaskmovpd_ymm_ymm_m256 | C::VEX_Vpmaskmovq_ymm_ymm_m256 => masked_load::<32, u64, E>,
        C::VEX_Vmaskmovps_m128_xmm_xmm | C::VEX_Vpmaskmovd_m128_xmm_xmm => masked_store::<16, u32, E>,
        C::VEX_Vmaskmovps_m256_ymm_ymm | C::VEX_Vpmaskmovd_m256_ymm_ymm => masked_store::<32, u32, E>,
        C::VEX_Vmaskmovpd_m128_xmm_xmm | C::VEX_Vpmaskmovq_m128_xmm_xmm => masked_store::<16, u64, E>,
        C::VEX_Vmaskmovpd_m256_ymm_ymm | C::VEX_Vpmaskmovq_m256_ymm_ymm => masked_store::<32, u64, E>,
        C::VEX_Vgatherdps_xmm_vm32x_xmm | C::VEX_Vpgatherdd_xmm_vm32x_xmm => gather::<4, u32, u32, E>,
        C::VEX_Vgatherdps_ymm_vm32y_ymm | C::VEX_Vpgatherdd_ymm_vm32y_ymm => gather::<8, u32, u32, E>,
        C::VEX_Vgatherdpd_xmm_vm32x_xmm | C::VEX_Vpgatherdq_xmm_vm32x_xmm => gather::<2, u32, u64, E>,
        C::VEX_Vgatherdpd_ymm_vm32x_ymm | C::VEX_Vpgatherdq_ymm_vm32x_ymm => gather::<4, u32, u64, E>,
        C::VEX_Vgatherqps_xmm_vm64x_xmm | C::VEX_Vpgatherqd_xmm_vm64x_xmm => gather::<2, u64, u32, E>,
        C::VEX_Vgatherqps_xmm_vm64y_xmm | C::VEX_Vpgatherqd_xmm_vm64y_xmm => gather::<4, u64, u32, E>,
        C::VEX_Vgatherqpd_xmm_vm64x_xmm | C::VEX_Vpgatherqq_xmm_vm64x_xmm => gather::<2, u64, u64, E>,
        C::VEX_Vgatherqpd_ymm_vm64y_ymm | C::VEX_Vpgatherqq_ymm_vm64y_ymm => gather::<4, u64, u64, E>,
        _ => return None,
    })
}

/// The destination, or what is stored, and the mask.
fn element_operands<E>(instruction: &Instruction, op: &mut Op<E>) {
    let register = |n: u32| slot(instruction.op_register(n));
    (op.reg, op.rm) = if instruction.op0_kind() == OpKind::Memory {
        (register(2), register(1))
    } else if instruction.op1_kind() == OpKind::Memory {
        (register(0), register(2))
    } else {
        (register(0), register(1))
    };
}
