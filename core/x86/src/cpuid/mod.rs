//! Named processor models and what CPUID says for them (APM volume 3, appendix D and E).
//!
//! A model is data: a table of leaves with feature bits by name ([`feature`]). What depends on the machine
//! or on the processor's present state is filled in by [`CpuModel::leaf`]: APIC ID, number of processors, OSXSAVE.

pub mod feature;
mod host;
mod identity;
mod sets;
mod tern_v2;
mod tern_v3;

pub use sets::InstructionSets;

pub use identity::{CpuIdentity, SPECULATION_7_EDX, SPECULATION_8_EBX, SPECULATION_21_EAX};

use alloc::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::cpu::Cpu;
use crate::paging::{LINEAR_ADDRESS_BITS, PHYSICAL_ADDRESS_BITS};
use crate::state::{Cr4, Efer, Xcr0};
use crate::vector::LEGACY_XSAVE_SIZE;
use feature::Feature;

/// EAX, EBX, ECX and EDX after CPUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CpuidResult {
    /// EAX.
    pub eax: u32,
    /// EBX.
    pub ebx: u32,
    /// ECX.
    pub ecx: u32,
    /// EDX.
    pub edx: u32,
}

/// One leaf.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaf {
    /// EAX on entry.
    pub function: u32,
    /// ECX on entry; `None` if it does not count.
    pub index: Option<u32>,
    /// What CPUID returns.
    pub result: CpuidResult,
}

/// What CPUID depends on besides the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuidContext {
    /// The processor's local APIC ID.
    pub apic_id: u32,
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// XCR0, which decides how large the XSAVE area is.
    pub xcr0: Xcr0,
}

impl CpuidContext {
    /// The context of a running processor.
    #[must_use]
    pub const fn new(cpu: &Cpu, apic_id: u32) -> Self {
        Self { apic_id, osxsave: cpu.cr4.contains(Cr4::OSXSAVE), xcr0: cpu.xcr0 }
    }

    /// The context of a processor with this local APIC ID that has just been reset.
    #[must_use]
    pub fn after_reset(apic_id: u32) -> Self {
        Self { apic_id, osxsave: false, xcr0: Xcr0::default() }
    }
}

/// What of a processor its model decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Basis {
    /// Everything: the model is the same on every engine and host that can carry it out.
    Model,
    /// The least; an engine adds what it and its host can. A machine with such a processor goes on only where another host has
    /// all that, and [`crate::state::Extended`] holds what is beyond the model.
    Host,
    /// Everything, down to each leaf: the processor of a machine that goes on here.
    Exact,
}

/// A processor model in a machine with a certain number of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuModel {
    /// The name users type.
    pub name: &'static str,
    /// What the brand string says, at most 47 bytes.
    pub brand: &'static str,
    /// Whether that is all.
    pub basis: Basis,
    /// How many processors the machine has: single-threaded cores of one package, with APIC IDs from 0.
    pub cpus: u32,
    /// The time-stamp counter's frequency in kHz.
    pub tsc_khz: u32,
    leaves: Cow<'static, [Leaf]>,
}

impl Default for CpuModel {
    fn default() -> Self {
        tern_v2::MODEL
    }
}

impl CpuModel {
    /// All models: those that are the same everywhere, the least capable first, and then the host's.
    pub const ALL: &'static [Self] = &[tern_v2::MODEL, tern_v3::MODEL, host::MODEL];

    /// The model of the given name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|model| model.name == name).cloned()
    }

    /// The most capable model that is the same everywhere and takes no more than these instruction sets.
    #[must_use]
    pub fn most_capable(sets: InstructionSets) -> Self {
        let is_possible =
            |model: &&Self| model.basis == Basis::Model && sets.contains(model.instruction_sets());
        Self::ALL.iter().rfind(is_possible).cloned().unwrap_or_default()
    }

    /// The same model in a machine with `cpus` (at least 1) processors.
    #[must_use]
    pub fn with_cpus(self, cpus: u32) -> Self {
        Self { cpus: cpus.max(1), ..self }
    }

    /// Whether the model offers a feature.
    #[must_use]
    pub fn has(&self, feature: Feature) -> bool {
        feature.is_in(&self.stored(feature.function, feature.index))
    }

    /// What CPUID returns for EAX = `function` and ECX = `index`. Functions that the model lacks return zeros.
    #[must_use]
    pub fn leaf(&self, function: u32, index: u32, context: &CpuidContext) -> CpuidResult {
        let mut result = self.stored(function, index);
        if function == 0xd && index < 2 && result != CpuidResult::default() {
            result.ebx = self.xsave_size(context.xcr0, index == 1);
        }
        if self.basis == Basis::Exact {
            return self.of_processor(result, function, index, context);
        }
        match function {
            1 => {
                let logical = self.cpus.min(255);
                result.ebx |= logical << 16 | (context.apic_id & 0xff) << 24;
                result.edx |= if self.cpus > 1 { feature::HTT.mask() } else { 0 };
                result.ecx |= if context.osxsave { feature::OSXSAVE.mask() } else { 0 };
            }
            0xb => return self.topology(index, context),
            0x8000_0001 if self.cpus > 1 => result.ecx |= feature::CMP_LEGACY.mask(),
            0x8000_0002..=0x8000_0004 => return self.brand_piece(function - 0x8000_0002),
            0x8000_0008 => {
                result.eax |= PHYSICAL_ADDRESS_BITS | LINEAR_ADDRESS_BITS << 8;
                result.ecx |= (self.cpus - 1).min(255) | self.core_id_bits() << 12;
            }
            _ => {}
        }
        result
    }

    /// The bits of CR4 that may be set.
    #[must_use]
    pub fn cr4_bits(&self) -> Cr4 {
        let optional = [
            (feature::TSC, Cr4::TSD),
            (feature::DE, Cr4::DE),
            (feature::PSE, Cr4::PSE),
            (feature::PAE, Cr4::PAE),
            (feature::PGE, Cr4::PGE),
            (feature::FXSR, Cr4::OSFXSR),
            (feature::SSE, Cr4::OSXMMEXCPT),
            (feature::UMIP, Cr4::UMIP),
            (feature::FSGSBASE, Cr4::FSGSBASE),
            (feature::PCID, Cr4::PCIDE),
            (feature::XSAVE, Cr4::OSXSAVE),
            (feature::SMEP, Cr4::SMEP),
            (feature::SMAP, Cr4::SMAP),
        ];
        optional.iter().filter(|(feature, _)| self.has(*feature)).fold(Cr4::PCE, |all, &(_, bit)| all | bit)
    }

    /// The bits of EFER that may be set; LMA is the processor's own.
    #[must_use]
    pub fn efer_bits(&self) -> Efer {
        let optional = [
            (feature::SYSCALL, Efer::SCE),
            (feature::LM, Efer::LME | Efer::LMA),
            (feature::NX, Efer::NXE),
            (feature::AUTOIBRS, Efer::AUTOIBRS),
        ];
        optional
            .iter()
            .filter(|(feature, _)| self.has(*feature))
            .fold(Efer::empty(), |all, &(_, bits)| all | bits)
    }

    /// The bits of XCR0 that may be set.
    #[must_use]
    pub fn xcr0_bits(&self) -> Xcr0 {
        Xcr0::from_bits_truncate(u64::from(self.stored(0xd, 0).eax))
    }

    /// Bytes of an XSAVE area with these components, in the standard form, where each has a place of its own, or in the
    /// compacted one.
    fn xsave_size(&self, components: Xcr0, compacted: bool) -> u32 {
        /// The component must begin at a multiple of 64 (ECX).
        const ALIGNED: u32 = 1 << 1;
        let mut end = LEGACY_XSAVE_SIZE as u32;
        for number in (2..63).filter(|number| components.bits() >> number & 1 != 0) {
            let CpuidResult { eax: size, ebx: offset, ecx, .. } = self.stored(0xd, number);
            end = match compacted {
                true if ecx & ALIGNED != 0 => end.next_multiple_of(64).saturating_add(size),
                true => end.saturating_add(size),
                false => end.max(offset.saturating_add(size)),
            };
        }
        end
    }

    fn stored(&self, function: u32, index: u32) -> CpuidResult {
        find(&self.leaves, function, index)
    }

    /// What a leaf of the processor with APIC ID 0 is for the one in `context`.
    fn of_processor(
        &self,
        leaf: CpuidResult,
        function: u32,
        index: u32,
        context: &CpuidContext,
    ) -> CpuidResult {
        match function {
            1 => {
                let osxsave = if context.osxsave { feature::OSXSAVE.mask() } else { 0 };
                CpuidResult {
                    ebx: leaf.ebx & 0x00ff_ffff | (context.apic_id & 0xff) << 24,
                    ecx: leaf.ecx & !feature::OSXSAVE.mask() | osxsave,
                    ..leaf
                }
            }
            // Extended APIC ID; and the core, which is as many.
            0x8000_001e if leaf != CpuidResult::default() => {
                CpuidResult { eax: context.apic_id, ebx: leaf.ebx & !0xff | context.apic_id & 0xff, ..leaf }
            }
            // Levels that do not exist show their own number and the APIC ID.
            0xb | 0x1f if self.stored(function, 0) != CpuidResult::default() => {
                CpuidResult { ecx: leaf.ecx | index & 0xff, edx: context.apic_id, ..leaf }
            }
            _ => leaf,
        }
    }

    /// Extended topology: one thread in a core, all cores in one package.
    fn topology(&self, index: u32, context: &CpuidContext) -> CpuidResult {
        let edx = context.apic_id;
        match index {
            0 => CpuidResult { eax: 0, ebx: 1, ecx: 1 << 8, edx },
            1 => CpuidResult { eax: self.core_id_bits(), ebx: self.cpus, ecx: 2 << 8 | 1, edx },
            _ => CpuidResult { ecx: index & 0xff, edx, ..CpuidResult::default() },
        }
    }

    /// How many low bits of the APIC ID number the cores of the package.
    const fn core_id_bits(&self) -> u32 {
        u32::BITS - (self.cpus - 1).leading_zeros()
    }

    fn brand_piece(&self, piece: u32) -> CpuidResult {
        let word = |n: u32| {
            let byte = |i: u32| self.brand.as_bytes().get((16 * piece + 4 * n + i) as usize);
            u32::from_le_bytes([0, 1, 2, 3].map(|i| byte(i).copied().unwrap_or(0)))
        };
        CpuidResult { eax: word(0), ebx: word(1), ecx: word(2), edx: word(3) }
    }
}

fn find(leaves: &[Leaf], function: u32, index: u32) -> CpuidResult {
    let matching = |leaf: &&Leaf| leaf.function == function && leaf.index.is_none_or(|i| i == index);
    leaves.iter().find(matching).map_or_else(CpuidResult::default, |leaf| leaf.result)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: CpuidContext = CpuidContext { apic_id: 3, osxsave: true, xcr0: Xcr0::X87 };

    #[test]
    fn every_model_is_found_by_its_name_and_fits_its_brand_string() {
        for model in CpuModel::ALL {
            assert_eq!(CpuModel::by_name(model.name).as_ref(), Some(model));
            assert!(model.brand.len() < 48);
        }
        assert_eq!(CpuModel::by_name("no such model"), None);
    }

    #[test]
    fn signature_decodes_to_zen_4_by_the_manuals_formula() {
        let eax = CpuModel::default().leaf(1, 0, &CONTEXT).eax;
        let family = (eax >> 8 & 0xf) + (eax >> 20 & 0xff);
        let model = eax >> 4 & 0xf | eax >> 12 & 0xf0;
        assert_eq!((family, model, eax & 0xf), (0x19, 0x11, 1));
    }

    #[test]
    fn topology_leaves_agree_on_the_number_of_processors() {
        for (cpus, bits) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3)] {
            let model = CpuModel::default().with_cpus(cpus);
            assert_eq!(model.leaf(0xb, 1, &CONTEXT).eax, bits);
            assert_eq!(model.leaf(0xb, 1, &CONTEXT).ebx, cpus);
            assert_eq!(model.leaf(0x8000_0008, 0, &CONTEXT).ecx, (cpus - 1) | bits << 12);
            assert_eq!(model.leaf(1, 0, &CONTEXT).ebx >> 16 & 0xff, cpus);
        }
    }

    #[test]
    fn brand_string_reads_back_through_its_three_leaves() {
        let model = CpuModel::default();
        let mut text = alloc::vec::Vec::new();
        for function in 0x8000_0002..=0x8000_0004 {
            let r = model.leaf(function, 0, &CONTEXT);
            text.extend([r.eax, r.ebx, r.ecx, r.edx].into_iter().flat_map(u32::to_le_bytes));
        }
        assert!(text.starts_with(model.brand.as_bytes()));
        assert!(text[model.brand.len()..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn osxsave_mirrors_cr4_and_unknown_functions_are_zero() {
        let model = CpuModel::default();
        assert_ne!(model.leaf(1, 0, &CONTEXT).ecx & 1 << 27, 0);
        let off = CpuidContext { osxsave: false, ..CONTEXT };
        assert_eq!(model.leaf(1, 0, &off).ecx & 1 << 27, 0);
        assert_eq!(model.leaf(0x1234, 0, &CONTEXT), CpuidResult::default());
    }

    #[test]
    fn a_model_is_chosen_by_what_can_be_carried_out() {
        let chosen = |sets| CpuModel::most_capable(sets).name;
        assert_eq!(chosen(InstructionSets::all()), "tern-v3");
        assert_eq!(chosen(InstructionSets::all() - InstructionSets::MOVBE), "tern-v2");
        assert_eq!(chosen(InstructionSets::empty()), "tern-v2");
    }

    #[test]
    fn the_model_with_avx_is_the_one_without_it_and_a_component_more() {
        let [v2, v3] = ["tern-v2", "tern-v3"].map(|name| CpuModel::by_name(name).unwrap_or_default());
        assert_eq!(v3.xcr0_bits(), Xcr0::X87 | Xcr0::SSE | Xcr0::AVX);
        let context = CpuidContext { xcr0: v3.xcr0_bits(), ..CONTEXT };
        let sizes = v3.leaf(0xd, 0, &context);
        assert_eq!((sizes.ebx, sizes.ecx, v3.leaf(0xd, 1, &context).ebx), (832, 832, 832));
        for leaf in v2.all_leaves(&CONTEXT) {
            let more = v3.leaf(leaf.function, leaf.index.unwrap_or(0), &CONTEXT);
            if !matches!(leaf.function, 0xd | 0x8000_0002..=0x8000_0004) {
                assert_eq!(leaf.result.ebx & more.ebx, leaf.result.ebx, "{:#x}", leaf.function);
                assert_eq!(leaf.result.ecx & more.ecx, leaf.result.ecx, "{:#x}", leaf.function);
            }
        }
    }

    #[test]
    fn the_default_model_is_x86_64_v2() {
        let model = CpuModel::default();
        let wanted = [
            feature::CMPXCHG16B,
            feature::LAHF,
            feature::POPCNT,
            feature::SSE3,
            feature::SSSE3,
            feature::SSE4_1,
            feature::SSE4_2,
        ];
        assert!(wanted.into_iter().all(|feature| model.has(feature)));
        assert!(!model.cr4_bits().contains(Cr4::VME));
        assert_eq!(model.xcr0_bits(), Xcr0::X87 | Xcr0::SSE);
    }
}
