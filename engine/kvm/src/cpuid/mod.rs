//! What CPUID tells a guest: the machine's named model, as far as the host can carry it out.
//!
//! Three things are the host's and not the model's, because systems choose by them how to call the hypervisor and which
//! flaws of the hardware to work around: vendor and signature, the speculation controls, and the caches. What depends on the
//! machine alone (topology, brand) is the model's. KVM's own leaves stand at 0x4000_0000 (`Documentation/virt/kvm/x86/cpuid.rst`).

mod passed;
#[cfg(test)]
pub mod recorded;

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use tern_engine::EngineError;
use tern_x86::cpuid::{
    Basis, CpuIdentity, CpuModel, CpuidContext, CpuidResult, InstructionSets, Leaf, SPECULATION_7_EDX,
    SPECULATION_8_EBX, SPECULATION_21_EAX, feature,
};
use tern_x86::paravirtual::{FEATURES, OFFERED, SIGNATURE, SIGNATURE_LEAF};

/// "AuthenticAMD" and "HygonGenuine" in EBX.
const AMD_LIKE: [u32; 2] = [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"Hygo")];

/// What a host can carry out.
pub struct HostCpuid<'a> {
    /// KVM_GET_SUPPORTED_CPUID.
    pub supported: &'a [kvm_cpuid_entry2],
    /// The local APICs know the TSC-deadline mode.
    pub tsc_deadline: bool,
}

impl HostCpuid<'_> {
    fn leaf(&self, function: u32, index: u32) -> CpuidResult {
        let matches = |entry: &&kvm_cpuid_entry2| {
            let counts = entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0;
            entry.function == function && (!counts || entry.index == index)
        };
        self.supported.iter().find(matches).map_or_else(CpuidResult::default, |entry| CpuidResult {
            eax: entry.eax,
            ebx: entry.ebx,
            ecx: entry.ecx,
            edx: entry.edx,
        })
    }

    /// What a guest can have: as the hardware and the kernel list it, with what is KVM's own doing whatever the hardware:
    /// the APIC, and that there is a hypervisor.
    fn able(&self, function: u32, index: u32) -> CpuidResult {
        let leaf = self.leaf(function, index);
        match function {
            1 => {
                let deadline = feature::TSC_DEADLINE.mask();
                let own = feature::X2APIC.mask() | feature::HYPERVISOR.mask();
                let ecx = leaf.ecx & !deadline | own | if self.tsc_deadline { deadline } else { 0 };
                CpuidResult { ecx, ..leaf }
            }
            FEATURES => CpuidResult { eax: leaf.eax & OFFERED, ..leaf },
            _ => leaf,
        }
    }

    /// The instruction sets beyond x86-64-v2 that guests can have.
    pub fn instruction_sets(&self) -> InstructionSets {
        InstructionSets::shown(|function, index| self.leaf(function, index))
    }

    /// Whether the vendor is AMD, or one whose processors are AMD's.
    pub fn is_amd(&self) -> bool {
        AMD_LIKE.contains(&self.leaf(0, 0).ebx)
    }
}

/// All leaves for the processor with this APIC ID.
pub fn guest_cpuid(model: &CpuModel, apic_id: u32, host: &HostCpuid<'_>) -> Vec<kvm_cpuid_entry2> {
    // KVM shows CR4.OSXSAVE by itself.
    let context = CpuidContext::after_reset(apic_id);
    let leaves = model.all_leaves(&context).into_iter();
    match model.basis {
        Basis::Host => passed::all(model, apic_id, host),
        Basis::Exact => leaves.map(entry_of).collect(),
        Basis::Model => leaves
            .map(|leaf| {
                let result = adapt(model, &context, host, leaf.function, leaf.index.unwrap_or(0));
                entry_of(Leaf { result, ..leaf })
            })
            .collect(),
    }
}

/// What a guest of `model` sees here, with a time-stamp counter of this frequency.
pub fn identity(model: &CpuModel, host: &HostCpuid<'_>, tsc_khz: u32) -> CpuIdentity {
    let leaf = |entry: &kvm_cpuid_entry2| Leaf {
        function: entry.function,
        index: (entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0).then_some(entry.index),
        result: CpuidResult { eax: entry.eax, ebx: entry.ebx, ecx: entry.ecx, edx: entry.edx },
    };
    let leaves = guest_cpuid(model, 0, host).iter().map(leaf).collect();
    CpuIdentity { leaves, tsc_khz, cpus: model.cpus }
}

/// Whether a processor that a guest has seen elsewhere can be had here.
///
/// # Errors
/// What is in the way.
pub fn check(identity: &CpuIdentity, host: &HostCpuid<'_>) -> Result<(), EngineError> {
    let vendor = |leaf: CpuidResult| {
        let bytes: Vec<_> = [leaf.ebx, leaf.edx, leaf.ecx].into_iter().flat_map(u32::to_le_bytes).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let (theirs, ours) = (vendor(identity.leaf(0, 0)), vendor(host.leaf(0, 0)));
    if theirs != ours {
        return Err(EngineError::Unsupported(format!(
            "the machine's processor is of the vendor {theirs}, and this host's of {ours}: the engine 'kvm' cannot go on with \
             it; the engine 'soft' can"
        )));
    }
    let lacking = identity.beyond(|function, index| host.able(function, index));
    if lacking.is_empty() {
        return Ok(());
    }
    Err(EngineError::Unsupported(format!(
        "the machine's processor has what this host's KVM does not give to guests: {}",
        lacking.join(", ")
    )))
}

/// The leaves by which KVM announces itself.
fn kvm_leaves(host: &HostCpuid<'_>) -> [kvm_cpuid_entry2; 2] {
    let eax = host.leaf(FEATURES, 0).eax & OFFERED;
    [
        entry(SIGNATURE, 0, 0, SIGNATURE_LEAF),
        entry(FEATURES, 0, 0, CpuidResult { eax, ..CpuidResult::default() }),
    ]
}

/// One leaf of the model as this host can carry it out.
fn adapt(
    model: &CpuModel,
    context: &CpuidContext,
    host: &HostCpuid<'_>,
    function: u32,
    index: u32,
) -> CpuidResult {
    let wanted = model.leaf(function, index, context);
    let able = host.leaf(function, index);
    let able = if function == SIGNATURE { wanted } else { able };
    let both = CpuidResult {
        eax: wanted.eax & able.eax,
        ebx: wanted.ebx & able.ebx,
        ecx: wanted.ecx & able.ecx,
        edx: wanted.edx & able.edx,
    };
    match function {
        0 | 0x8000_0000 => CpuidResult { eax: wanted.eax, ..able },
        1 => {
            let able = host.able(1, 0);
            CpuidResult {
                eax: able.eax,
                ebx: wanted.ebx,
                ecx: wanted.ecx & able.ecx,
                edx: wanted.edx & (able.edx | feature::HTT.mask()),
            }
        }
        // Caches, as the vendor tells them.
        2 | 0x8000_0005 | 0x8000_0006 => able,
        4 => shared_by(able, model.cpus),
        7 if index == 0 => CpuidResult {
            eax: wanted.eax.min(able.eax),
            edx: both.edx | able.edx & SPECULATION_7_EDX,
            ..both
        },
        0xb => wanted,
        // Sizes of the area: of everything, and (kept up by KVM) of what is enabled.
        0xd if index == 0 => CpuidResult { ebx: wanted.ebx, ecx: wanted.ecx, ..both },
        0xd if index == 1 => CpuidResult { ebx: wanted.ebx, ..both },
        0x8000_0001 => CpuidResult { eax: able.eax, ..both },
        0x8000_0002..=0x8000_0004 => wanted,
        0x8000_0008 => {
            let [physical, linear, ..] = wanted.eax.to_le_bytes();
            let [host_physical, ..] = able.eax.to_le_bytes();
            CpuidResult {
                eax: u32::from(physical.min(host_physical)) | u32::from(linear) << 8,
                ebx: both.ebx | able.ebx & SPECULATION_8_EBX,
                ecx: if host.is_amd() { wanted.ecx } else { 0 },
                edx: 0,
            }
        }
        0x8000_0021 => CpuidResult { eax: both.eax | able.eax & SPECULATION_21_EAX, ..both },
        _ => both,
    }
}

/// Intel's leaf 4 in a machine of single-threaded cores: the first two levels are each core's own.
const fn shared_by(cache: CpuidResult, cpus: u32) -> CpuidResult {
    if cache.eax & 0x1f == 0 {
        return CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    }
    let cores = cpus - 1;
    let level = cache.eax >> 5 & 7;
    let sharers = if level >= 3 { cores & 0xfff } else { 0 };
    let highest_core = if cores > 63 { 63 } else { cores };
    CpuidResult { eax: cache.eax & 0x3fff | sharers << 14 | highest_core << 26, ..cache }
}

fn entry_of(leaf: Leaf) -> kvm_cpuid_entry2 {
    let flags = if leaf.index.is_some() { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 };
    entry(leaf.function, leaf.index.unwrap_or(0), flags, leaf.result)
}

fn entry(function: u32, index: u32, flags: u32, result: CpuidResult) -> kvm_cpuid_entry2 {
    let CpuidResult { eax, ebx, ecx, edx } = result;
    kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::recorded::{amd, intel};
    use super::*;

    fn on_intel(cpus: u32) -> impl Fn(u32, u32) -> CpuidResult {
        let supported = intel();
        let host = HostCpuid { supported: &supported, tsc_deadline: true };
        let entries = guest_cpuid(&CpuModel::default().with_cpus(cpus), 1, &host);
        move |function, index| HostCpuid { supported: &entries, tsc_deadline: true }.leaf(function, index)
    }

    #[test]
    fn vendor_and_signature_are_the_hosts() {
        let leaf = on_intel(2);
        assert_eq!(leaf(0, 0).ebx, u32::from_le_bytes(*b"Genu"));
        assert_eq!(leaf(1, 0).eax, 0x5_0657);
    }

    #[test]
    fn the_model_with_avx_is_carried_out_on_both_vendors() {
        for supported in [intel(), amd()] {
            let host = HostCpuid { supported: &supported, tsc_deadline: true };
            let model = CpuModel::most_capable(host.instruction_sets());
            assert_eq!(model.name, "tern-v3");
            let entries = guest_cpuid(&model, 0, &host);
            let guest = HostCpuid { supported: &entries, tsc_deadline: true };
            assert_eq!(guest.instruction_sets(), model.instruction_sets());
            let (all, avx) = (guest.leaf(0xd, 0), guest.leaf(0xd, 2));
            // After reset, only x87 is enabled.
            assert_eq!((all.eax, all.ebx, all.ecx, avx.eax, avx.ebx), (7, 576, 832, 256, 576));
        }
    }

    #[test]
    fn on_amd_the_model_is_all_there_but_for_what_milan_lacks() {
        let supported = amd();
        let host = HostCpuid { supported: &supported, tsc_deadline: true };
        let entries = guest_cpuid(&CpuModel::default().with_cpus(2), 1, &host);
        let leaf = |function| HostCpuid { supported: &entries, tsc_deadline: true }.leaf(function, 0);
        assert_eq!(leaf(0).ebx, u32::from_le_bytes(*b"Auth"));
        assert_eq!(leaf(0x8000_0008).ecx, 1 | 1 << 12, "the number of cores");
        assert_ne!(leaf(0x8000_0001).ecx & feature::CMP_LEGACY.mask(), 0);
        // LFENCE serializes, null selectors clear bases; automatic IBRS came later.
        assert_eq!(leaf(0x8000_0021).eax, 0x45);
        // IBPB, STIBP and SSBD reach the guest; SVM and topology extensions are not the model's.
        assert_ne!(leaf(0x8000_0008).ebx & 1 << 12, 0);
        assert_eq!(leaf(0x8000_0001).ecx & (1 << 2 | 1 << 22), 0);
        assert_eq!(leaf(4), CpuidResult::default());
    }

    #[test]
    fn nothing_is_offered_that_the_host_lacks() {
        let leaf = on_intel(2);
        // RDPID and FSRM are the model's, but not Cascade Lake's.
        assert_eq!(leaf(7, 0).ecx & 1 << 22, 0);
        assert_eq!(leaf(7, 0).edx & 1 << 4, 0);
        assert_eq!(leaf(0x8000_0021, 0), CpuidResult::default());
        // AVX is the host's, but not the model's.
        assert_eq!(leaf(1, 0).ecx & 1 << 28, 0);
        assert_eq!(leaf(0xd, 0).eax, 3);
    }

    #[test]
    fn protection_from_the_hosts_flaws_reaches_the_guest() {
        let leaf = on_intel(2);
        assert_eq!(leaf(7, 0).edx, 0xac00_0400);
        assert_eq!(leaf(0x8000_0008, 0).ebx & 1 << 12, 1 << 12);
    }

    #[test]
    fn what_kvm_does_itself_is_there() {
        let leaf = on_intel(2);
        let own = 1 << 21 | 1 << 24 | 1 << 31;
        assert_eq!(leaf(1, 0).ecx & own, own);
        assert_eq!(leaf(1, 0).edx & 1 << 28, 1 << 28);
        assert_eq!(leaf(SIGNATURE, 0).ebx.to_le_bytes(), *b"KVMK");
        let clock = 1 << 3 | 1 << 24;
        assert_eq!(leaf(FEATURES, 0).eax & clock, clock);
        assert_eq!(leaf(FEATURES, 0).eax & 1 << 5, 0, "steal time has a state of its own");
    }

    #[test]
    fn the_caches_are_shared_as_the_machine_is_built() {
        let leaf = on_intel(4);
        assert_eq!(leaf(4, 0).eax, 0x121 | 3 << 26);
        assert_eq!(leaf(4, 3).eax, 0x163 | 3 << 14 | 3 << 26);
        assert_eq!(leaf(4, 2), CpuidResult::default());
    }

    #[test]
    fn a_processor_that_was_seen_elsewhere_is_had_again_or_refused_with_the_reason() {
        let (amd, intel) = (amd(), intel());
        let on_amd = HostCpuid { supported: &amd, tsc_deadline: true };
        let on_intel = HostCpuid { supported: &intel, tsc_deadline: true };
        let seen = identity(&CpuModel::default().with_cpus(2), &on_amd, 1_000_000);
        check(&seen, &on_amd).unwrap();
        let again = CpuModel::exactly(&seen);
        assert_eq!(identity(&again, &on_amd, 1_000_000), seen);
        assert_eq!(
            guest_cpuid(&again, 1, &on_amd),
            guest_cpuid(&CpuModel::default().with_cpus(2), 1, &on_amd)
        );
        let error = check(&seen, &on_intel).unwrap_err().to_string();
        assert!(error.contains("AuthenticAMD") && error.contains("GenuineIntel"), "{error}");
        let model = CpuModel::default().identity();
        let mut poor = amd.clone();
        for leaf in poor.iter_mut().filter(|leaf| leaf.function == 1) {
            leaf.ecx &= !(1 << 26 | 1 << 17);
        }
        let error =
            check(&model, &HostCpuid { supported: &poor, tsc_deadline: true }).unwrap_err().to_string();
        assert!(error.contains("XSAVE") && error.contains("PCID"), "{error}");
    }

    #[test]
    fn addresses_are_no_wider_than_the_hosts() {
        let mut supported = intel();
        supported.last_mut().unwrap().eax = 0x3027;
        let host = HostCpuid { supported: &supported, tsc_deadline: false };
        let entries = guest_cpuid(&CpuModel::default(), 0, &host);
        let leaf = |function| HostCpuid { supported: &entries, tsc_deadline: false }.leaf(function, 0);
        assert_eq!(leaf(0x8000_0008).eax & 0xff, 39);
        assert_eq!(leaf(1).ecx & feature::TSC_DEADLINE.mask(), 0);
    }
}
