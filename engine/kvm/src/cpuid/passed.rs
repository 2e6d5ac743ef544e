//! `--cpu host`: everything that KVM can give to guests here, in the machine's own topology.
//!
//! What KVM_GET_SUPPORTED_CPUID lists is the hardware's and KVM's, as of the processor that was asked. It says of that
//! processor's place among the host's what must be said of the guest's, and a few leaves stand for what this engine does
//! not set up: AMX (the process must ask for its state), SGX (its memory), and KVM's own features that have a state.

use kvm_bindings::{KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use tern_x86::cpuid::{CpuModel, CpuidContext, feature};

use super::{HostCpuid, entry, kvm_leaves, shared_by};

/// Function 7, EBX: SGX.
const SGX: u32 = 1 << 2;
/// Function 7, EDX: AMX-BF16, AMX-TILE, AMX-INT8; with index 1, EAX: AMX-FP16, EDX: AMX-COMPLEX.
const AMX_EDX: u32 = 1 << 22 | 1 << 24 | 1 << 25;
const AMX_1_EAX: u32 = 1 << 21;
const AMX_1_EDX: u32 = 1 << 8;
/// XCR0: AMX's two components.
const XCR0_AMX: u32 = 0b11 << 17;

/// Leaves that are left out: SGX, AMX's tiles and its unit, the hypervisor's (they follow), and AMD's topology in more
/// levels than a machine has.
const LEFT_OUT: [std::ops::RangeInclusive<u32>; 4] =
    [0x12..=0x12, 0x1d..=0x1e, 0x4000_0000..=0x4fff_ffff, 0x8000_0026..=0x8000_0026];

/// All leaves for the processor with this APIC ID.
pub(super) fn all(model: &CpuModel, apic_id: u32, host: &HostCpuid<'_>) -> Vec<kvm_cpuid_entry2> {
    let context = CpuidContext::after_reset(apic_id);
    let is_kept = |leaf: &&kvm_cpuid_entry2| {
        !matches!(leaf.function, 0xb | 0x1f) && !LEFT_OUT.iter().any(|range| range.contains(&leaf.function))
    };
    let mut entries: Vec<_> =
        host.supported.iter().filter(is_kept).map(|leaf| adapt(*leaf, model, &context, host)).collect();
    let last = host.leaf(0, 0).eax;
    for function in [0xb, 0x1f].into_iter().filter(|function| *function <= last) {
        for index in 0..2 {
            let topology = model.leaf(0xb, index, &context);
            entries.push(entry(function, index, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, topology));
        }
    }
    entries.extend(kvm_leaves(host));
    entries
}

/// One leaf, of a machine of single-threaded cores in one package.
fn adapt(
    mut leaf: kvm_cpuid_entry2,
    model: &CpuModel,
    context: &CpuidContext,
    host: &HostCpuid<'_>,
) -> kvm_cpuid_entry2 {
    let ours = model.leaf(leaf.function, leaf.index, context);
    match (leaf.function, leaf.index) {
        (1, _) => {
            let deadline = feature::TSC_DEADLINE.mask();
            // CLFLUSH's line is the hardware's; number and ID are the machine's.
            leaf.ebx = leaf.ebx & 0xff00 | ours.ebx & 0xffff_0000;
            leaf.ecx &= !(feature::OSXSAVE.mask() | deadline);
            leaf.ecx |= feature::X2APIC.mask() | feature::HYPERVISOR.mask();
            leaf.ecx |= if host.tsc_deadline { deadline } else { 0 };
            leaf.edx = leaf.edx & !feature::HTT.mask() | ours.edx & feature::HTT.mask();
        }
        (4, _) => {
            let shared = shared_by(host.leaf(4, leaf.index), model.cpus);
            leaf.eax = shared.eax;
        }
        (7, 0) => {
            leaf.ebx &= !SGX;
            leaf.edx &= !AMX_EDX;
        }
        (7, 1) => {
            leaf.eax &= !AMX_1_EAX;
            leaf.edx &= !AMX_1_EDX;
        }
        (0xd, 0) => leaf.eax &= !XCR0_AMX,
        (0x8000_0001, _) if host.is_amd() => {
            let cores = feature::CMP_LEGACY.mask();
            leaf.ecx = leaf.ecx & !cores | ours.ecx & cores;
        }
        (0x8000_0008, _) => leaf.ecx = if host.is_amd() { ours.ecx } else { 0 },
        // AMD's leaf 4, with the same fields; the packages' number of cores is not one of them.
        (0x8000_001d, _) => {
            leaf.eax = shared_by(host.leaf(0x8000_001d, leaf.index), model.cpus).eax & 0x03ff_ffff
        }
        // APIC ID, core and node.
        (0x8000_001e, _) => (leaf.eax, leaf.ebx, leaf.ecx) = (context.apic_id, context.apic_id & 0xff, 0),
        _ => {}
    }
    leaf
}

#[cfg(test)]
mod tests {
    use super::super::recorded;
    use super::*;

    fn leaves(supported: &[kvm_cpuid_entry2], cpus: u32, apic_id: u32) -> Vec<kvm_cpuid_entry2> {
        let model = CpuModel::by_name("host").unwrap().with_cpus(cpus);
        all(&model, apic_id, &HostCpuid { supported, tsc_deadline: true })
    }

    fn leaf(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> [u32; 4] {
        let result = HostCpuid { supported: entries, tsc_deadline: true }.leaf(function, index);
        [result.eax, result.ebx, result.ecx, result.edx]
    }

    #[test]
    fn the_hardwares_features_are_passed_on_both_vendors() {
        let intel = leaves(&recorded::intel(), 2, 1);
        // AVX, and AVX-512F in function 7.
        assert_ne!(leaf(&intel, 1, 0)[2] & 1 << 28, 0);
        assert_ne!(leaf(&intel, 7, 0)[1] & 1 << 16, 0);
        assert_eq!(leaf(&intel, 0xd, 0)[0], 0x2e7);
        let amd = leaves(&recorded::amd(), 2, 1);
        assert_ne!(leaf(&amd, 1, 0)[2] & 1 << 28, 0);
        assert_eq!(leaf(&amd, 0xd, 0)[0], 0x207);
    }

    #[test]
    fn the_topology_is_the_machines_on_both_vendors() {
        for supported in [recorded::intel(), recorded::amd()] {
            let entries = leaves(&supported, 4, 3);
            let basic = leaf(&entries, 1, 0);
            assert_eq!((basic[1] >> 24, basic[1] >> 16 & 0xff), (3, 4));
            assert_ne!(basic[3] & 1 << 28, 0, "there are several processors");
            assert_eq!(leaf(&entries, 0xb, 1), [2, 4, 0x201, 3]);
            assert_eq!(leaf(&entries, 0xb, 0), [0, 1, 0x100, 3]);
        }
        let amd = leaves(&recorded::amd(), 4, 3);
        assert_eq!(leaf(&amd, 0x8000_001e, 0)[..3], [3, 3, 0]);
        assert_eq!(leaf(&amd, 0x8000_0008, 0)[2], 3 | 2 << 12);
        // The third level is everybody's, the first one core's.
        assert_eq!(leaf(&amd, 0x8000_001d, 3)[0] >> 14, 3);
        assert_eq!(leaf(&amd, 0x8000_001d, 0)[0] >> 14, 0);
        let intel = leaves(&recorded::intel(), 1, 0);
        assert_eq!(leaf(&intel, 1, 0)[3] & 1 << 28, 0, "there is one processor");
        assert_eq!(leaf(&intel, 0x8000_0008, 0)[2], 0);
    }

    #[test]
    fn what_this_engine_does_not_set_up_is_left_out() {
        let mut supported = recorded::intel();
        for leaf in &mut supported {
            if leaf.function == 7 {
                (leaf.ebx, leaf.edx) = (u32::MAX, u32::MAX);
            }
        }
        let entries = leaves(&supported, 1, 0);
        let [_, ebx, _, edx] = leaf(&entries, 7, 0);
        assert_eq!((ebx & SGX, edx & AMX_EDX), (0, 0));
        let own: Vec<_> = entries.iter().map(|entry| entry.function).filter(|n| n >> 28 == 4).collect();
        assert_eq!(own, [0x4000_0000, 0x4000_0001]);
        assert_eq!(leaf(&entries, 0x4000_0001, 0)[0] & 1 << 5, 0, "steal time has a state of its own");
        assert_eq!(leaf(&entries, 1, 0)[2] & 1 << 27, 0, "KVM shows CR4.OSXSAVE by itself");
    }

    #[test]
    fn no_leaf_is_there_twice() {
        for supported in [recorded::intel(), recorded::amd()] {
            let entries = leaves(&supported, 8, 7);
            let mut keys: Vec<_> = entries.iter().map(|entry| (entry.function, entry.index)).collect();
            keys.sort_unstable();
            let count = keys.len();
            keys.dedup();
            assert_eq!(keys.len(), count);
        }
    }
}
