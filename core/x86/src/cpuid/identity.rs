//! A processor as its guest saw it, leaf by leaf: what must stay the same where a machine goes on.

use alloc::string::String;
use alloc::vec::Vec;
use alloc::{borrow::Cow, format};

use serde::{Deserialize, Serialize};

use super::feature::{self, Register};
use super::{Basis, CpuModel, CpuidContext, CpuidResult, Leaf};
use crate::paravirtual;

/// Function 7, EDX: MD_CLEAR, IBRS and IBPB, STIBP, L1D_FLUSH, ARCH_CAPABILITIES, SSBD.
pub const SPECULATION_7_EDX: u32 = 1 << 10 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 29 | 1 << 31;
/// Function 0x8000_0008, EBX: IBPB, IBRS, STIBP and their variants, SSBD, PSFD, BTC_NO, IBPB_RET.
pub const SPECULATION_8_EBX: u32 =
    1 << 12 | 0b1111 << 14 | 1 << 18 | 1 << 19 | 0b111 << 24 | 1 << 28 | 1 << 29 | 1 << 30;
/// Function 0x8000_0021, EAX: LFENCE, automatic IBRS, SBPB, IBPB_BRTYPE, SRSO.
pub const SPECULATION_21_EAX: u32 = 1 << 2 | 1 << 8 | 0b11111 << 27;

/// A processor's CPUID and its time-stamp counter's frequency, in a machine of so many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuIdentity {
    /// All leaves, as the processor with APIC ID 0 shows them after a reset.
    pub leaves: Vec<Leaf>,
    /// The time-stamp counter's frequency in kHz.
    pub tsc_khz: u32,
    /// How many processors there are.
    pub cpus: u32,
}

/// Registers of bits that a processor has or has not, each with the bits that say something else.
const FEATURE_WORDS: [(u32, u32, Register, u32); 15] = [
    (1, 0, Register::Ecx, feature::OSXSAVE.mask()),
    (1, 0, Register::Edx, feature::HTT.mask()),
    (7, 0, Register::Ebx, 0),
    (7, 0, Register::Ecx, 0),
    (7, 0, Register::Edx, SPECULATION_7_EDX),
    (7, 1, Register::Eax, 0),
    (0xd, 0, Register::Eax, 0),
    (0xd, 1, Register::Eax, 0),
    (0x8000_0001, 0, Register::Ecx, feature::CMP_LEGACY.mask()),
    (0x8000_0001, 0, Register::Edx, 0),
    (0x8000_0007, 0, Register::Edx, 0),
    (0x8000_0008, 0, Register::Ebx, SPECULATION_8_EBX),
    (0x8000_0021, 0, Register::Eax, SPECULATION_21_EAX),
    (0x8000_0021, 0, Register::Ecx, 0),
    (paravirtual::FEATURES, 0, Register::Eax, 0),
];

impl CpuIdentity {
    /// What CPUID returns; zeros for functions that are not there.
    #[must_use]
    pub fn leaf(&self, function: u32, index: u32) -> CpuidResult {
        super::find(&self.leaves, function, index)
    }

    /// The features that are not among those which `able` shows, by name where they have one here. Controls of speculation
    /// count for nothing: a guest uses them for the flaws of the hardware it started on, and loses nothing without them.
    #[must_use]
    pub fn beyond(&self, able: impl Fn(u32, u32) -> CpuidResult) -> Vec<String> {
        let mut lacking = Vec::new();
        for (function, index, register, other) in FEATURE_WORDS {
            let wanted = register.of(&self.leaf(function, index));
            let missing = wanted & !register.of(&able(function, index)) & !other;
            for bit in (0..u32::BITS).filter(|bit| missing >> bit & 1 != 0) {
                lacking.push(match feature::name(function, index, register, bit) {
                    Some(name) => name.into(),
                    None => format!("CPUID {function:#x}.{index} {register:?} bit {bit}"),
                });
            }
        }
        lacking
    }
}

impl CpuModel {
    /// The processor as the guest sees it, with a time-stamp counter of this frequency.
    #[must_use]
    pub fn identity(&self) -> CpuIdentity {
        let leaves = self.all_leaves(&CpuidContext::after_reset(0));
        CpuIdentity { leaves, tsc_khz: self.tsc_khz, cpus: self.cpus }
    }

    /// The model of a processor that has been seen before: exactly that.
    #[must_use]
    pub fn exactly(identity: &CpuIdentity) -> Self {
        Self {
            name: "exact",
            brand: "",
            basis: Basis::Exact,
            cpus: identity.cpus.max(1),
            tsc_khz: identity.tsc_khz,
            leaves: Cow::Owned(identity.leaves.clone()),
        }
    }

    /// Every leaf that is there.
    #[must_use]
    pub fn all_leaves(&self, context: &CpuidContext) -> Vec<Leaf> {
        if self.basis == Basis::Exact {
            let index = |leaf: &Leaf| leaf.index.unwrap_or(0);
            let filled =
                |leaf: &Leaf| Leaf { result: self.leaf(leaf.function, index(leaf), context), ..*leaf };
            return self.leaves.iter().map(filled).collect();
        }
        let last = |first: u32| self.leaf(first, 0, context).eax;
        let ranges = [0, paravirtual::SIGNATURE, 0x8000_0000].map(|first| first..=last(first));
        let mut leaves = Vec::new();
        for function in ranges.into_iter().flatten() {
            let leaf = |index| self.leaf(function, index, context);
            match indices(function) {
                [] => leaves.push(Leaf { function, index: None, result: leaf(0) }),
                indices => leaves.extend(indices.iter().map(|&index| Leaf {
                    function,
                    index: Some(index),
                    result: leaf(index),
                })),
            }
        }
        leaves
    }
}

/// The values of ECX for which a function of a model answers differently; none where ECX does not count.
const fn indices(function: u32) -> &'static [u32] {
    match function {
        4 => &[0, 1, 2, 3],
        7 | 0xb => &[0, 1],
        0xd => &[0, 1, 2],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exact_model_answers_as_the_one_it_was_taken_from() {
        let model = CpuModel::default().with_cpus(3);
        let exact = CpuModel::exactly(&model.identity());
        for apic_id in [0, 2] {
            let context = CpuidContext { osxsave: true, ..CpuidContext::after_reset(apic_id) };
            for function in (0..0x20).chain(0x4000_0000..0x4000_0003).chain(0x8000_0000..0x8000_0030) {
                for index in 0..4 {
                    let leaf = |model: &CpuModel| model.leaf(function, index, &context);
                    assert_eq!(leaf(&exact), leaf(&model), "{function:#x}.{index}");
                }
            }
        }
        assert_eq!(exact.identity(), model.identity());
        assert_eq!((exact.cr4_bits(), exact.xcr0_bits()), (model.cr4_bits(), model.xcr0_bits()));
    }

    #[test]
    fn what_is_lacking_is_named() {
        let mut identity = CpuModel::default().identity();
        let able = CpuModel::default().identity();
        assert_eq!(identity.beyond(|function, index| able.leaf(function, index)), [""; 0]);
        for leaf in &mut identity.leaves {
            match (leaf.function, leaf.index) {
                // What has no name, and controls of speculation.
                (1, _) => leaf.result.ecx |= 1 << 18,
                (7, Some(0)) => leaf.result.edx |= SPECULATION_7_EDX,
                _ => {}
            }
        }
        assert_eq!(identity.beyond(|function, index| able.leaf(function, index)), ["CPUID 0x1.0 Ecx bit 18"]);
        let none = identity.beyond(|_, _| CpuidResult::default());
        assert!(none.iter().any(|name| name == "XSAVE"), "{none:?}");
    }
}
