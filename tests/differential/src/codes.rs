//! Which instructions are compared: the whole decoded set of the guest's processor model, without those whose result
//! depends on what lies outside the two processors.

use std::sync::LazyLock;

use iced_x86::{Code, CpuidFeature, EncodingKind, Instruction, Mnemonic, OpKind};
use tern_x86::cpu::Mode;
use tern_x86::cpuid::InstructionSets;

use crate::case::has_repetition;
use crate::vendors;

/// What the guest's processor has beyond x86-64-v2: what the host has of it.
pub static SETS: LazyLock<InstructionSets> = LazyLock::new(tern_soft::instruction_sets);

/// The mode of the guest's code.
#[must_use]
pub fn mode() -> Mode {
    let mut mode = Mode::LONG;
    mode.set(Mode::TZCNT, SETS.contains(InstructionSets::BMI1));
    mode.set(Mode::LZCNT, SETS.contains(InstructionSets::LZCNT));
    mode
}

/// Every kind of instruction that is compared.
pub static COMPARED: LazyLock<Vec<Code>> = LazyLock::new(|| {
    Code::values()
        .filter(|code| {
            let mut instruction = Instruction::new();
            instruction.set_code(*code);
            code.op_code().mode64() && is_compared(&instruction)
        })
        .filter(|&code| !is_duplicate(code))
        .collect()
});

/// Encodings that no decoder returns: "FSTCW" and its kin are a WAIT and a second instruction, and the assembler's
/// directives are none at all. AMD's UD0 has no operands. PAUSE is decoded as a NOP with a prefix.
fn is_duplicate(code: Code) -> bool {
    matches!(
        code.op_code().instruction_string().get(..2),
        Some("<d" | "DB" | "DW" | "DD" | "DQ" | "db" | "dw" | "dd" | "dq")
    ) || matches!(
        code,
        Code::Fstenv_m14byte
            | Code::Fstenv_m28byte
            | Code::Fstcw_m2byte
            | Code::Feni
            | Code::Fdisi
            | Code::Fclex
            | Code::Finit
            | Code::Fsetpm
            | Code::Fsave_m94byte
            | Code::Fsave_m108byte
            | Code::Fstsw_m2byte
            | Code::Fstsw_AX
            | Code::Fstdw_AX
            | Code::Fstsg_AX
            | Code::Zero_bytes
            | Code::Pause
            | Code::Ud0_r16_rm16
            | Code::Ud0_r32_rm32
            | Code::Ud0_r64_rm64
    )
}

/// Whether the two sides can be expected to do the same for a valid `instruction`.
#[must_use]
pub fn is_compared(instruction: &Instruction) -> bool {
    let code = instruction.code();
    code != Code::INVALID
        && matches!(code.encoding(), EncodingKind::Legacy | EncodingKind::VEX)
        && SETS.offer(instruction)
        && code.cpuid_features().iter().all(|&feature| is_offered(feature))
        && !depends_on_surroundings(instruction)
        && !vendors::is_left_out(code)
}

/// The instruction sets that the model `tern-v2` offers, those that are up to the host, and the hints that are no-operations on every processor without
/// them.
fn is_offered(feature: CpuidFeature) -> bool {
    use CpuidFeature as F;
    let hint = matches!(feature, F::CET_IBT | F::CET_SS | F::CLDEMOTE | F::MPX);
    hint || matches!(
        feature,
        F::INTEL8086
            | F::INTEL186
            | F::INTEL286
            | F::INTEL386
            | F::INTEL486
            | F::X64
            | F::FPU
            | F::FPU287
            | F::FPU387
            | F::CMOV
            | F::CX8
            | F::CMPXCHG16B
            | F::CLFSH
            | F::FXSR
            | F::FSGSBASE
            | F::INVPCID
            | F::MMX
            | F::MSR
            | F::MULTIBYTENOP
            | F::POPCNT
            | F::PREFETCHW
            | F::SSE
            | F::SSE2
            | F::SSE3
            | F::SSSE3
            | F::SSE4_1
            | F::SSE4_2
            | F::SMAP
            | F::XSAVE
            | F::AVX
            | F::AVX2
            | F::FMA
            | F::F16C
            | F::BMI1
            | F::BMI2
            | F::LZCNT
            | F::MOVBE
            | F::ADX
            | F::AES
            | F::PCLMULQDQ
            | F::SHA
            | F::VAES
            | F::VPCLMULQDQ
            | F::GFNI
    )
}

/// Whether the result is not the instruction's and the registers' alone.
fn depends_on_surroundings(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    match instruction.mnemonic() {
        // Enter the operating system, or are emulated by it.
        M::Syscall | M::Sysenter | M::Sysexit | M::Sysexitq | M::Sysret | M::Sysretq | M::Int1 | M::Into => {
            true
        }
        M::Sgdt | M::Sidt | M::Sldt | M::Smsw | M::Str => true,
        // The 32-bit system call, and the overflow trap, which Linux lets users raise.
        M::Int => matches!(instruction.immediate8(), 0x80 | 4 | 1),
        // The host's time, identity and set of state components.
        M::Rdtsc | M::Rdtscp | M::Rdpmc | M::Cpuid | M::Xgetbv | M::Rdpid => true,
        M::Xsave | M::Xsave64 | M::Xsaveopt | M::Xsaveopt64 | M::Xsavec | M::Xsavec64 => true,
        M::Xrstor | M::Xrstor64 | M::Xsaves | M::Xsaves64 | M::Xrstors | M::Xrstors64 => true,
        // The operating system's descriptor tables.
        M::Lar | M::Lsl | M::Verr | M::Verw | M::Lds | M::Les | M::Lfs | M::Lgs | M::Lss => true,
        M::Iret | M::Iretd | M::Iretq | M::Retf => true,
        M::Jmp | M::Call => {
            matches!(instruction.op0_kind(), OpKind::FarBranch16 | OpKind::FarBranch32)
                || is_far_indirect(instruction)
        }
        // The condition follows the prefix rather than the opcode; no manual says so.
        M::Loope | M::Loopne => has_repetition(instruction),
        M::Mov | M::Pop => writes_segment_register(instruction.code()),
        // MPX's own instructions; a processor without it sees long no-operations, of which there are others.
        // Reads 32 bits, whatever its operand size says.
        M::Movsxd => instruction.code() == Code::Movsxd_r16_rm16,
        M::Bndcl | M::Bndcn | M::Bndcu | M::Bndldx | M::Bndmk | M::Bndmov | M::Bndstx => true,
        // Shadow stacks: only what is a no-operation without them.
        M::Incsspd | M::Incsspq | M::Rstorssp | M::Saveprevssp | M::Setssbsy | M::Clrssbsy => true,
        M::Wrssd | M::Wrssq | M::Wrussd | M::Wrussq => true,
        _ => false,
    }
}

fn is_far_indirect(instruction: &Instruction) -> bool {
    matches!(
        instruction.code(),
        Code::Jmp_m1616
            | Code::Jmp_m1632
            | Code::Jmp_m1664
            | Code::Call_m1616
            | Code::Call_m1632
            | Code::Call_m1664
    )
}

fn writes_segment_register(code: Code) -> bool {
    matches!(
        code,
        Code::Mov_Sreg_rm16
            | Code::Mov_Sreg_r32m16
            | Code::Mov_Sreg_r64m16
            | Code::Popw_FS
            | Code::Popq_FS
            | Code::Popw_GS
            | Code::Popq_GS
    )
}
