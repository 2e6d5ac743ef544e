//! x87, MMX, SSE and AVX instructions: what has to happen around the arithmetic, and the management of its state.
//!
//! The arithmetic itself is executed by the environment ([`Environment::execute_vector`]) on the saved registers. Here
//! are the checks that come before it, in the manual's order, and the memory operand's way in and out:
//!
//! ```text
//! #UD, #NM  →  #MF  →  segment  →  alignment  →  read  →  execute (#XF)  →  write
//! ```
//!
//! | file | what |
//! |---|---|
//! | `unit` | which control bits make which part of the unit unavailable |
//! | `native` | instructions that the environment executes |
//! | `operand` | their memory operands |
//! | `x87_state` | FNINIT, FNCLEX, FLDCW, FNSTCW, FNSTSW, FNSTENV, FLDENV, FNSAVE, FRSTOR, FWAIT |
//! | `area` | FXSAVE, FXRSTOR, XSAVE, XSAVEOPT, XSAVEC, XRSTOR |
//! | `sse_state` | LDMXCSR, STMXCSR, MASKMOVQ, MASKMOVDQU, and AVX's forms of them |
//! | `upper_halves` | VZEROUPPER, VZEROALL |
//! | `elements` | VMASKMOV and gathers |
//!
//! Sources: APM volume 2 sections 8.2 (vectors 6, 7, 13, 16, 19) and 11.4 to 11.5, volumes 4 and 5 per instruction.

pub mod area;
pub mod elements;
mod native;
mod operand;
pub mod sse_state;
#[cfg(test)]
mod tests;
pub mod unit;
pub mod upper_halves;
pub mod x87_state;

use crate::decode::Op;
use crate::environment::{Environment, Handler};
use crate::vector::{MemoryAccess, MemoryOperand, VectorClass, VectorInfo};
use unit::{Avx, Mmx, MmxXmm, Sse, Unit, X87};

/// Fills `op` for an instruction, encoded as `bytes`, that the environment prepared under `handle`.
///
/// `op.extra` is the handle. `op.immediate` is the opcode as FOP will show it for x87; for the others it holds the bits of
/// the operand's address that must be clear. `op.rm` says whether SIMD floating-point exceptions are possible.
pub fn lower<E: Environment>(info: &VectorInfo, bytes: &[u8], handle: u32, op: &mut Op<E>) {
    op.extra = handle;
    op.rm = u8::from(info.simd_exceptions);
    op.immediate = match info.memory {
        _ if info.class == VectorClass::X87 => u64::from(x87_opcode(bytes)),
        Some(memory) if memory.aligned => u64::from(memory.size) - 1,
        _ => 0,
    };
    op.run = match (info.class, info.uses_xmm) {
        (VectorClass::X87, _) => handler::<X87, E>(info.memory),
        (VectorClass::Mmx, false) => handler::<Mmx, E>(info.memory),
        (VectorClass::Mmx, true) => handler::<MmxXmm, E>(info.memory),
        (VectorClass::Sse, _) => handler::<Sse, E>(info.memory),
        (VectorClass::Avx, _) => handler::<Avx, E>(info.memory),
    };
}

/// The first opcode byte of an x87 instruction, D8 to DF, above the second. No prefix has such a value.
fn x87_opcode(bytes: &[u8]) -> u16 {
    let opcode = bytes.windows(2).find(|pair| matches!(pair[0], 0xd8..=0xdf));
    opcode.map_or(0, |pair| u16::from_be_bytes([pair[0], pair[1]]))
}

fn handler<U: Unit, E: Environment>(memory: Option<MemoryOperand>) -> Handler<E> {
    use MemoryAccess::{Read, Write};
    use native::{read, registers, write};
    match memory.map(|memory| (memory.access, memory.size)) {
        None => registers::<U, E>,
        Some((Read, 1)) => read::<U, 1, E>,
        Some((Read, 2)) => read::<U, 2, E>,
        Some((Read, 4)) => read::<U, 4, E>,
        Some((Read, 8)) => read::<U, 8, E>,
        Some((Read, 10)) => read::<U, 10, E>,
        Some((Read, 16)) => read::<U, 16, E>,
        Some((Read, 32)) => read::<U, 32, E>,
        Some((Write, 1)) => write::<U, 1, E>,
        Some((Write, 2)) => write::<U, 2, E>,
        Some((Write, 4)) => write::<U, 4, E>,
        Some((Write, 8)) => write::<U, 8, E>,
        Some((Write, 10)) => write::<U, 10, E>,
        Some((Write, 16)) => write::<U, 16, E>,
        Some((Write, 32)) => write::<U, 32, E>,
        Some(_) => super::undefined,
    }
}
