//! Where processors of different vendors differ, for hosts that are not of the vendor that the guest's model names, AMD: APM
//! volumes 2 and 3 beside Intel's SDM volume 2, and what such processors were seen to do.

use std::sync::LazyLock;

use iced_x86::{Code, FlowControl, Instruction, Mnemonic, OpKind, Register};
use tern_x86::cpuid::{CpuModel, CpuidContext};
use tern_x86::state::Rflags;

use crate::case::{Case, Extent, has_repetition, is_x87};
use crate::codes::SETS;
use crate::registers::{End, Event, Outcome};

/// Whether the host's processor is of the vendor that the guest's model names.
static HOST_IS_MODELS: LazyLock<bool> = LazyLock::new(|| {
    let host = std::arch::x86_64::__cpuid(0);
    let model = CpuModel::most_capable(*SETS).leaf(0, 0, &CpuidContext::after_reset(0));
    (host.ebx, host.ecx, host.edx) == (model.ebx, model.ecx, model.edx)
});

/// Whether this kind of instruction is not to be compared here.
#[must_use]
pub fn is_left_out(code: Code) -> bool {
    // Their prefix counts for nothing in 64-bit code on Intel's processors.
    let branch_of_16_bits = code.flow_control() != FlowControl::Next && code.op_code().operand_size() == 16;
    // #UD by AMD's processors. PREFETCHW of a register is a no-operation for others, and UD0 is as long as they think.
    let undefined = matches!(
        code,
        Code::Reservednop_rm16_r16_0F0D
            | Code::Reservednop_rm32_r32_0F0D
            | Code::Reservednop_rm64_r64_0F0D
            | Code::Ud0
    );
    !*HOST_IS_MODELS && (branch_of_16_bits || undefined)
}

/// Whether a case cannot be compared here, because of what is in it, or because a side was ended by an instruction for which vendors order
/// exceptions in another way, or leave another state at one.
#[must_use]
pub fn is_open(case: &Case, native: &Outcome, interpreted: &Outcome) -> bool {
    let faults = |outcome| ended_by(case, outcome).is_some_and(faults_otherwise);
    let does = || case.code.iter().any(|encoded| does_otherwise(&encoded.instruction));
    !*HOST_IS_MODELS && (does() || faults(native) || faults(interpreted))
}

/// The instruction that ended a case early.
fn ended_by<'a>(case: &'a Case, outcome: &Outcome) -> Option<&'a Instruction> {
    let End::Event(Event { vector, .. }) = outcome.end else { return None };
    let mut at = case.before.rip;
    let found = case.code.iter().find(|encoded| {
        let begins = at == outcome.registers.rip;
        at += encoded.bytes.len() as u64;
        begins
    })?;
    (vector != case.extent.vector()).then_some(&found.instruction)
}

/// The flags that are not compared: a repeated string instruction that is left between two of its elements has RF on Intel's
/// processors, and the flags of another element.
#[must_use]
pub fn open_flags(case: &Case, completed: bool) -> Rflags {
    let is_between = case.extent == Extent::Step || !completed;
    let repeated = || case.code.iter().any(|encoded| is_repeated(&encoded.instruction));
    match !*HOST_IS_MODELS && is_between && repeated() {
        true => Rflags::STATUS | Rflags::RF,
        false => Rflags::empty(),
    }
}

fn is_repeated(instruction: &Instruction) -> bool {
    instruction.is_string_instruction() && has_repetition(instruction)
}

/// Whether others do something else when all goes well.
fn does_otherwise(instruction: &Instruction) -> bool {
    match instruction.mnemonic() {
        // CR8 by the name of CR0 and LOCK is AMD's alone.
        Mnemonic::Mov => [instruction.op0_register(), instruction.op1_register()].contains(&Register::CR8),
        // PAUSE, whatever REX.B says.
        Mnemonic::Xchg => has_repetition(instruction) && !has_memory_operand(instruction),
        // Whether the registers' upper halves are cleared when there is no element, or none was done yet.
        _ => is_repeated(instruction) && uses_addresses_of_32_bits(instruction),
    }
}

fn uses_addresses_of_32_bits(instruction: &Instruction) -> bool {
    use OpKind as K;
    (0..instruction.op_count()).any(|n| matches!(instruction.op_kind(n), K::MemorySegESI | K::MemoryESEDI))
}

fn faults_otherwise(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    let memory = has_memory_operand(instruction);
    match instruction.mnemonic() {
        // Aligned operands only.
        M::Sha1msg1 | M::Sha1msg2 | M::Sha1nexte | M::Sha1rnds4 => memory,
        M::Sha256msg1 | M::Sha256msg2 | M::Sha256rnds2 => memory,
        // A floating-point exception comes before a fault of the operand, and what alignment that needs is told by nobody.
        M::Vcvtps2ph | M::Vcvtph2ps => memory,
        // A target that is not canonical is found out after the push.
        M::Call => true,
        // Exceptions that are pending come before a fault of the operand, or the registers are MMX's already.
        _ => memory && (is_x87(instruction) || uses_mmx(instruction)),
    }
}

fn has_memory_operand(instruction: &Instruction) -> bool {
    (0..instruction.op_count()).any(|n| instruction.op_kind(n) == OpKind::Memory)
}

fn uses_mmx(instruction: &Instruction) -> bool {
    (0..instruction.op_count())
        .any(|n| instruction.op_kind(n) == OpKind::Register && instruction.op_register(n).is_mm())
}
