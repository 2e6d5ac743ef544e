//! What the host's processor must have for the guest's instructions to be executed natively.

use iced_x86::{CpuidFeature, Instruction};
use tern_x86::cpuid::InstructionSets;

/// Checks for the instruction sets of x86-64-v2, which every processor model of the guest has at least.
///
/// # Errors
/// The names of the missing instruction sets, as /proc/cpuinfo knows them.
pub fn host_supports() -> Result<(), Vec<&'static str>> {
    let required = [
        ("fxsr", is_x86_feature_detected!("fxsr")),
        ("sse2", is_x86_feature_detected!("sse2")),
        ("pni", is_x86_feature_detected!("sse3")),
        ("ssse3", is_x86_feature_detected!("ssse3")),
        ("sse4_1", is_x86_feature_detected!("sse4.1")),
        ("sse4_2", is_x86_feature_detected!("sse4.2")),
        ("popcnt", is_x86_feature_detected!("popcnt")),
        ("cx16", is_x86_feature_detected!("cmpxchg16b")),
    ];
    let missing: Vec<_> = required.iter().filter(|(_, present)| !present).map(|&(name, _)| name).collect();
    if missing.is_empty() { Ok(()) } else { Err(missing) }
}

/// The instruction sets beyond x86-64-v2 that this host's processor, and its operating system, have.
#[must_use]
pub fn instruction_sets() -> InstructionSets {
    let present = [
        (InstructionSets::AVX, is_x86_feature_detected!("avx")),
        (InstructionSets::AVX2, is_x86_feature_detected!("avx2")),
        (InstructionSets::FMA, is_x86_feature_detected!("fma")),
        (InstructionSets::F16C, is_x86_feature_detected!("f16c")),
        (InstructionSets::BMI1, is_x86_feature_detected!("bmi1")),
        (InstructionSets::BMI2, is_x86_feature_detected!("bmi2")),
        (InstructionSets::LZCNT, is_x86_feature_detected!("lzcnt")),
        (InstructionSets::MOVBE, is_x86_feature_detected!("movbe")),
        (InstructionSets::ADX, is_x86_feature_detected!("adx")),
        (InstructionSets::AES, is_x86_feature_detected!("aes")),
        (InstructionSets::PCLMULQDQ, is_x86_feature_detected!("pclmulqdq")),
        (InstructionSets::SHA, is_x86_feature_detected!("sha")),
        (InstructionSets::VAES, is_x86_feature_detected!("vaes")),
        (InstructionSets::VPCLMULQDQ, is_x86_feature_detected!("vpclmulqdq")),
        (InstructionSets::GFNI, is_x86_feature_detected!("gfni")),
    ];
    present
        .iter()
        .filter(|(_, present)| *present)
        .map(|(set, _)| *set)
        .collect::<InstructionSets>()
        .consistent()
}

/// Whether an instruction that the guest's processor has is one that the host's executes as it is. Unlike what that has, which is found by
/// asking what it lacks, this is a list of all that there is: what is not known here never gets to the host.
pub fn executes(instruction: &Instruction) -> bool {
    use CpuidFeature as F;
    let of_every_host = |feature| {
        matches!(
            feature,
            F::INTEL8086
                | F::INTEL186
                | F::INTEL286
                | F::INTEL386
                | F::INTEL486
                | F::X64
                | F::CMOV
                | F::CX8
                | F::CMPXCHG16B
                | F::FPU
                | F::FPU287
                | F::FPU387
                | F::MMX
                | F::POPCNT
                | F::SSE
                | F::SSE2
                | F::SSE3
                | F::SSSE3
                | F::SSE4_1
                | F::SSE4_2
        )
    };
    // A set is offered to the guest only where the host has it.
    let features = instruction.cpuid_features();
    features.iter().all(|&feature| of_every_host(feature) || InstructionSets::of(feature).is_some())
}

#[cfg(test)]
mod tests {
    use iced_x86::{Code, Register};

    use super::*;

    #[test]
    fn an_instruction_of_some_processors_does_not_get_to_the_host_by_the_name_of_anothers() {
        use Register::{EAX, ECX};
        let of_bmi1 = Instruction::with3(Code::VEX_Bextr_r32_rm32_r32, EAX, ECX, ECX).unwrap();
        let mut of_tbm = of_bmi1;
        of_tbm.set_code(Code::XOP_Bextr_r32_rm32_imm32);
        assert_eq!(of_bmi1.mnemonic(), of_tbm.mnemonic());
        assert!(executes(&of_bmi1));
        assert!(!executes(&of_tbm));
    }
}
