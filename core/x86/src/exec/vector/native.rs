//! Instructions that the environment executes: checks before, memory operand around.

use super::operand::{load, probe_operand, store};
use super::unit::Unit;
use crate::cpu::Cpu;
use crate::decode::Op;
use crate::environment::{Environment, Processor, VectorOperand};
use crate::exception::{Stop, Vector};
use crate::state::{Cr4, FpuState};
use crate::vector::{record_x87_pointers, x87_exception_pending};

type Outcome = Result<(), Stop>;

/// Bytes of the FXSAVE image that x87 and MMX instructions can change: everything before the XMM registers.
const X87_STATE: usize = 160;

/// FSW and FCW: IE, DE, ZE, OE and UE. Unmasked, they prevent a store to memory and its pop; PE does not.
const PREVENTS_STORE: u16 = 0x001f;

/// Operands in registers only.
pub(super) fn registers<U: Unit, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    U::available(&mut p.cpu)?;
    execute(p, op, &mut VectorOperand([0; 64]))?;
    if U::X87_STATE {
        record_exception(&mut p.cpu, op, false);
    }
    Ok(())
}

/// A memory operand that is read.
pub(super) fn read<U: Unit, const SIZE: u8, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    U::available(&mut p.cpu)?;
    let linear = address::<SIZE, E>(p, op, false)?;
    let mut operand = VectorOperand([0; 64]);
    load::<SIZE, E>(p, op, linear, &mut operand)?;
    execute(p, op, &mut operand)?;
    if U::X87_STATE {
        record_exception(&mut p.cpu, op, true);
    }
    Ok(())
}

/// A memory operand that is written.
///
/// Execution changes no vector register then. What it does to the x87 stack is taken back if memory refuses.
pub(super) fn write<U: Unit, const SIZE: u8, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    U::available(&mut p.cpu)?;
    let linear = address::<SIZE, E>(p, op, true)?;
    let mut operand = VectorOperand([0; 64]);
    if !U::X87_STATE {
        if op.rm != 0 {
            // VCVTPS2PH: a fault of the store comes before MXCSR's flags.
            probe_operand::<SIZE, E>(p, op, linear)?;
        }
        execute(p, op, &mut operand)?;
        return store::<SIZE, E>(p, op, linear, &operand);
    }
    let mut before = [0; X87_STATE];
    before.copy_from_slice(&p.cpu.fpu.image()[..X87_STATE]);
    execute(p, op, &mut operand)?;
    record_exception(&mut p.cpu, op, true);
    // An operand that is not stored must be writable all the same.
    let written = match store_prevented(&p.cpu.fpu) {
        true => probe_operand::<SIZE, E>(p, op, linear),
        false => store::<SIZE, E>(p, op, linear, &operand),
    };
    written.inspect_err(|_| restore(&mut p.cpu.fpu, &before))
}

/// Takes back what an x87 or MMX store did to the registers. MXCSR lies among them and has not changed.
#[cold]
fn restore(fpu: &mut FpuState, before: &[u8; X87_STATE]) {
    fpu.image_mut()[..X87_STATE].copy_from_slice(before);
}

/// Notes where an x87 instruction was that left an unmasked exception pending. None was before it, because it waited.
#[inline(always)]
fn record_exception<E: Environment>(cpu: &mut Cpu, op: &Op<E>, memory: bool) {
    if x87_exception_pending(&cpu.fpu) {
        let operand = memory.then(|| op.effective_address(cpu));
        let instruction = op.rip(cpu);
        record_x87_pointers(&mut cpu.fpu, instruction, operand, op.immediate as u16);
    }
}

/// The operand's linear address, checked for alignment.
#[inline(always)]
fn address<const SIZE: u8, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
    write: bool,
) -> Result<u64, Stop> {
    let linear = op.linear(p, SIZE, write)?;
    if SIZE >= 16 && linear & op.immediate != 0 {
        return Err(p.cpu.general_protection());
    }
    Ok(linear)
}

#[inline(always)]
fn execute<E: Environment>(p: &mut Processor<E>, op: &Op<E>, operand: &mut VectorOperand) -> Outcome {
    p.env.execute_vector(&mut p.cpu, op.extra, operand).map_err(|stop| simd_exception(&mut p.cpu, stop))
}

/// An unmasked SIMD floating-point exception is #XF only if the operating system said that it handles that, else #UD
/// (APM volume 2, section 8.2.20).
#[cold]
fn simd_exception(cpu: &mut Cpu, stop: Stop) -> Stop {
    let unexpected =
        stop == Stop::Exception && cpu.exception.vector == Vector::Xf && !cpu.cr4.contains(Cr4::OSXMMEXCPT);
    if unexpected { cpu.undefined_opcode() } else { stop }
}

/// Whether the x87 store just executed raised an exception that leaves memory alone. No flag was unmasked before it,
/// because it waited.
const fn store_prevented(fpu: &FpuState) -> bool {
    fpu.fsw() & !fpu.fcw() & PREVENTS_STORE != 0
}
