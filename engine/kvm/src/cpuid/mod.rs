//! What CPUID tells a guest: the machine's named model, as far as the host can carry it out.
//!
//! Three things are the host's and not the model's, because systems choose by them how to call the hypervisor and which
//! flaws of the hardware to work around: vendor and signature, the speculation controls, and the caches. What depends on the
//! machine alone (topology, brand) is the model's. KVM's own leaves stand at 0x4000_0000 (`Documentation/virt/kvm/x86/cpuid.rst`).

mod passed;
#[cfg(test)]
mod recorded;

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use tern_x86::cpuid::{Basis, CpuModel, CpuidContext, CpuidResult, feature};

/// Where KVM announces itself.
const KVM_SIGNATURE: u32 = 0x4000_0000;
/// Where KVM lists its features.
const KVM_FEATURES: u32 = 0x4000_0001;

/// KVM's features that are offered: they need no state that a saved machine could not hold, but for the clock.
const OFFERED: u32 = 1 << 0 // CLOCKSOURCE: kvm-clock by its old registers
    | 1 << 1 // NOP_IO_DELAY: no waiting for slow ports
    | 1 << 3 // CLOCKSOURCE2: kvm-clock
    | 1 << 6 // PV_EOI: end of interrupt without an exit
    | 1 << 7 // PV_UNHALT: spinlocks that sleep
    | 1 << 11 // PV_SEND_IPI: many interprocessor interrupts at once
    | 1 << 13 // PV_SCHED_YIELD: hint before waiting for another processor
    | 1 << 24; // CLOCKSOURCE_STABLE: all processors read the same clock

/// Function 7, EDX: MD_CLEAR, IBRS and IBPB, STIBP, L1D_FLUSH, ARCH_CAPABILITIES, SSBD.
const SPECULATION_7_EDX: u32 = 1 << 10 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 29 | 1 << 31;
/// Function 0x8000_0008, EBX: IBPB, IBRS, STIBP and their variants, SSBD, PSFD, BTC_NO, IBPB_RET.
const SPECULATION_8_EBX: u32 =
    1 << 12 | 0b1111 << 14 | 1 << 18 | 1 << 19 | 0b111 << 24 | 1 << 28 | 1 << 29 | 1 << 30;
/// Function 0x8000_0021, EAX: LFENCE, automatic IBRS, SBPB, IBPB_BRTYPE, SRSO.
const SPECULATION_21_EAX: u32 = 1 << 2 | 1 << 8 | 0b11111 << 27;

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

    /// Whether the vendor is AMD, or one whose processors are AMD's.
    pub fn is_amd(&self) -> bool {
        AMD_LIKE.contains(&self.leaf(0, 0).ebx)
    }
}

/// All leaves for the processor with this APIC ID.
pub fn guest_cpuid(model: &CpuModel, apic_id: u32, host: &HostCpuid<'_>) -> Vec<kvm_cpuid_entry2> {
    if model.basis == Basis::Host {
        return passed::all(model, apic_id, host);
    }
    // KVM shows CR4.OSXSAVE by itself.
    let context = CpuidContext { apic_id, osxsave: false };
    let largest = |range: u32| model.leaf(range, 0, &context).eax;
    let functions = (0..=largest(0)).chain(0x8000_0000..=largest(0x8000_0000));
    let mut entries = Vec::new();
    for function in functions {
        let indices: &[u32] = match function {
            4 => &[0, 1, 2, 3],
            7 | 0xb => &[0, 1],
            0xd => &[0, 1, 2],
            _ => &[],
        };
        for &index in if indices.is_empty() { &[0] } else { indices } {
            let result = adapt(model, &context, host, function, index);
            let flags = if indices.is_empty() { 0 } else { KVM_CPUID_FLAG_SIGNIFCANT_INDEX };
            entries.push(entry(function, index, flags, result));
        }
    }
    entries.extend(kvm_leaves(host));
    entries
}

/// The leaves by which KVM announces itself.
fn kvm_leaves(host: &HostCpuid<'_>) -> [kvm_cpuid_entry2; 2] {
    let [ebx, ecx, edx] = [*b"KVMK", *b"VMKV", *b"M\0\0\0"].map(u32::from_le_bytes);
    let eax = host.leaf(KVM_FEATURES, 0).eax & OFFERED;
    [
        entry(KVM_SIGNATURE, 0, 0, CpuidResult { eax: KVM_FEATURES, ebx, ecx, edx }),
        entry(KVM_FEATURES, 0, 0, CpuidResult { eax, ..CpuidResult::default() }),
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
    let both = CpuidResult {
        eax: wanted.eax & able.eax,
        ebx: wanted.ebx & able.ebx,
        ecx: wanted.ecx & able.ecx,
        edx: wanted.edx & able.edx,
    };
    match function {
        0 | 0x8000_0000 => CpuidResult { eax: wanted.eax, ..able },
        1 => {
            // KVM's own doing, whatever the hardware: the APIC, and that there is a hypervisor.
            let deadline = if host.tsc_deadline { feature::TSC_DEADLINE.mask() } else { 0 };
            let own = feature::X2APIC.mask() | feature::HYPERVISOR.mask() | deadline;
            CpuidResult {
                eax: able.eax,
                ebx: wanted.ebx,
                ecx: wanted.ecx & (able.ecx & !feature::TSC_DEADLINE.mask() | own),
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
        assert_eq!(leaf(KVM_SIGNATURE, 0).ebx.to_le_bytes(), *b"KVMK");
        let clock = 1 << 3 | 1 << 24;
        assert_eq!(leaf(KVM_FEATURES, 0).eax & clock, clock);
        assert_eq!(leaf(KVM_FEATURES, 0).eax & 1 << 5, 0, "steal time has a state of its own");
    }

    #[test]
    fn the_caches_are_shared_as_the_machine_is_built() {
        let leaf = on_intel(4);
        assert_eq!(leaf(4, 0).eax, 0x121 | 3 << 26);
        assert_eq!(leaf(4, 3).eax, 0x163 | 3 << 14 | 3 << 26);
        assert_eq!(leaf(4, 2), CpuidResult::default());
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
