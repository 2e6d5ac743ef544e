//! The instruction sets that a model may have or not, beyond those that every model has (x86-64-v2).
//!
//! An instruction of a set that is not there is undefined, whatever the host's processor could do with it.

use alloc::string::String;
use alloc::vec::Vec;

use bitflags::bitflags;
use iced_x86::{CpuidFeature, Instruction};

use super::feature::{self, Feature};
use super::{Basis, CpuModel, CpuidResult, Leaf};
use crate::vector::{AVX_OFFSET, AVX_SIZE};

bitflags! {
    /// Instruction sets.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct InstructionSets: u32 {
        /// AVX, and with it the YMM registers.
        const AVX = 1 << 0;
        /// AVX2.
        const AVX2 = 1 << 1;
        /// FMA.
        const FMA = 1 << 2;
        /// F16C.
        const F16C = 1 << 3;
        /// BMI1, and that the opcode of BSF with F3 is TZCNT.
        const BMI1 = 1 << 4;
        /// BMI2.
        const BMI2 = 1 << 5;
        /// LZCNT: the opcode of BSR with F3.
        const LZCNT = 1 << 6;
        /// MOVBE.
        const MOVBE = 1 << 7;
        /// ADX.
        const ADX = 1 << 8;
        /// AES.
        const AES = 1 << 9;
        /// PCLMULQDQ.
        const PCLMULQDQ = 1 << 10;
        /// SHA.
        const SHA = 1 << 11;
        /// VAES.
        const VAES = 1 << 12;
        /// VPCLMULQDQ.
        const VPCLMULQDQ = 1 << 13;
        /// GFNI.
        const GFNI = 1 << 14;
    }
}

impl InstructionSets {
    /// What is encoded by VEX on vector registers, and so needs AVX's state.
    const OF_AVX: Self =
        Self::AVX2.union(Self::FMA).union(Self::F16C).union(Self::VAES).union(Self::VPCLMULQDQ);

    /// What of these can be offered together: without AVX, nothing that stands on it; and 256-bit forms only beside the 128-bit
    /// ones.
    #[must_use]
    pub fn consistent(self) -> Self {
        let mut sets = self;
        if !sets.contains(Self::AVX) {
            sets -= Self::OF_AVX;
        }
        for (wide, narrow) in [(Self::VAES, Self::AES), (Self::VPCLMULQDQ, Self::PCLMULQDQ)] {
            if !sets.contains(narrow) || !sets.contains(Self::AVX2) {
                sets -= wide;
            }
        }
        sets
    }

    /// The sets that a CPUID with these leaves, by function and index, shows to be usable.
    #[must_use]
    pub fn shown(leaf: impl Fn(u32, u32) -> CpuidResult) -> Self {
        let is_shown = |feature: &Feature| feature.is_in(&leaf(feature.function, feature.index));
        let sets: Self = SHOWN.iter().filter(|(_, feature)| is_shown(feature)).map(|(set, _)| *set).collect();
        if leaf(0xd, 0).eax & AVX_COMPONENT == 0 { (sets - Self::AVX).consistent() } else { sets }
    }

    /// Their names, as the manuals give them, with commas.
    #[must_use]
    pub fn names(self) -> String {
        self.iter_names().map(|(name, _)| name).collect::<Vec<_>>().join(", ")
    }

    /// The set that instructions with this feature of `iced-x86`'s belong to, if it is one of these.
    #[must_use]
    pub const fn of(feature: CpuidFeature) -> Option<Self> {
        use CpuidFeature as F;
        Some(match feature {
            F::AVX => Self::AVX,
            F::AVX2 => Self::AVX2,
            F::FMA => Self::FMA,
            F::F16C => Self::F16C,
            F::BMI1 => Self::BMI1,
            F::BMI2 => Self::BMI2,
            F::LZCNT => Self::LZCNT,
            F::MOVBE => Self::MOVBE,
            F::ADX => Self::ADX,
            F::AES => Self::AES,
            F::PCLMULQDQ => Self::PCLMULQDQ,
            F::SHA => Self::SHA,
            F::VAES => Self::VAES,
            F::VPCLMULQDQ => Self::VPCLMULQDQ,
            F::GFNI => Self::GFNI,
            _ => return None,
        })
    }

    /// Whether an instruction belongs to no set that is lacking here. That of the sets that every model has, and of those that
    /// none has, is for others to say.
    #[must_use]
    pub fn offer(self, instruction: &Instruction) -> bool {
        instruction
            .cpuid_features()
            .iter()
            .all(|&feature| Self::of(feature).is_none_or(|set| self.contains(set)))
    }
}

/// Where CPUID shows each set.
const SHOWN: [(InstructionSets, Feature); 15] = [
    (InstructionSets::AVX, feature::AVX),
    (InstructionSets::AVX2, feature::AVX2),
    (InstructionSets::FMA, feature::FMA),
    (InstructionSets::F16C, feature::F16C),
    (InstructionSets::BMI1, feature::BMI1),
    (InstructionSets::BMI2, feature::BMI2),
    (InstructionSets::LZCNT, feature::LZCNT),
    (InstructionSets::MOVBE, feature::MOVBE),
    (InstructionSets::ADX, feature::ADX),
    (InstructionSets::AES, feature::AES),
    (InstructionSets::PCLMULQDQ, feature::PCLMULQDQ),
    (InstructionSets::SHA, feature::SHA),
    (InstructionSets::VAES, feature::VAES),
    (InstructionSets::VPCLMULQDQ, feature::VPCLMULQDQ),
    (InstructionSets::GFNI, feature::GFNI),
];

/// XCR0: the component of AVX.
const AVX_COMPONENT: u32 = 1 << 2;

/// Where AVX's component is in an XSAVE area.
pub(super) const AVX_PLACE: Leaf = Leaf {
    function: 0xd,
    index: Some(2),
    result: CpuidResult { eax: AVX_SIZE as u32, ebx: AVX_OFFSET as u32, ecx: 0, edx: 0 },
};

/// What a leaf of a model without `sets` is in one that has them; beside AVX's there is [`AVX_PLACE`].
pub(super) const fn with_sets(mut leaf: Leaf, sets: InstructionSets) -> Leaf {
    let index = match leaf.index {
        Some(index) => index,
        None => 0,
    };
    let mut n = 0;
    while n < SHOWN.len() {
        let (set, feature) = SHOWN[n];
        if sets.contains(set) && feature.function == leaf.function && feature.index == index {
            *feature.register.of_mut(&mut leaf.result) |= feature.mask();
        }
        n += 1;
    }
    if sets.contains(InstructionSets::AVX) && leaf.function == 0xd && index == 0 {
        leaf.result.eax |= AVX_COMPONENT;
        leaf.result.ecx = (AVX_OFFSET + AVX_SIZE) as u32;
    }
    leaf
}

impl CpuModel {
    /// The instruction sets that this model offers.
    #[must_use]
    pub fn instruction_sets(&self) -> InstructionSets {
        InstructionSets::shown(|function, index| self.stored(function, index))
    }

    /// The model as an engine carries it out that executes these instruction sets as well, if the model leaves that open
    /// ([`Basis::Host`]). Of AVX, there is a component of the XSAVE area.
    #[must_use]
    pub fn with_instruction_sets(mut self, sets: InstructionSets) -> Self {
        if self.basis != Basis::Host {
            return self;
        }
        let sets = sets.consistent();
        let leaves = self.leaves.iter().map(|leaf| with_sets(*leaf, sets));
        self.leaves = leaves.chain(sets.contains(InstructionSets::AVX).then_some(AVX_PLACE)).collect();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::super::CpuidContext;
    use super::*;
    use crate::state::Xcr0;

    fn host(sets: InstructionSets) -> CpuModel {
        CpuModel::by_name("host").unwrap_or_default().with_instruction_sets(sets)
    }

    #[test]
    fn a_named_model_is_the_same_everywhere() {
        let model = CpuModel::default();
        assert_eq!(model.clone().with_instruction_sets(InstructionSets::all()), model);
        assert_eq!(model.instruction_sets(), InstructionSets::empty());
    }

    #[test]
    fn what_a_host_adds_is_shown_and_read_back() {
        for sets in [InstructionSets::all(), InstructionSets::empty(), InstructionSets::ADX] {
            assert_eq!(host(sets).instruction_sets(), sets);
        }
        let without_avx = host(InstructionSets::all() - InstructionSets::AVX);
        assert!(!without_avx.instruction_sets().intersects(InstructionSets::OF_AVX));
        assert_eq!(without_avx.xcr0_bits(), Xcr0::X87 | Xcr0::SSE);
    }

    #[test]
    fn avx_512_is_never_offered() {
        let model = host(InstructionSets::all());
        assert!(model.has(feature::AVX2) && !model.has(feature::AVX512F));
        assert_eq!(model.xcr0_bits(), Xcr0::X87 | Xcr0::SSE | Xcr0::AVX);
    }

    #[test]
    fn the_xsave_area_is_as_large_as_the_enabled_components() {
        let model = host(InstructionSets::all());
        let exact = CpuModel::exactly(&model.identity());
        for model in [model, exact] {
            let sizes = |xcr0| {
                let context = CpuidContext { apic_id: 0, osxsave: true, xcr0 };
                (model.leaf(0xd, 0, &context), model.leaf(0xd, 1, &context).ebx)
            };
            let (legacy, compacted) = sizes(Xcr0::X87 | Xcr0::SSE);
            assert_eq!((legacy.eax, legacy.ebx, legacy.ecx, compacted), (7, 576, 832, 576));
            let (all, compacted) = sizes(Xcr0::X87 | Xcr0::SSE | Xcr0::AVX);
            assert_eq!((all.ebx, all.ecx, compacted), (832, 832, 832));
        }
    }
}
