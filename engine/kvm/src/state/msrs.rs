//! Model-specific registers (numbers: SDM volume 4; APM volume 2, appendix A).

use kvm_bindings::{Msrs as KvmMsrs, kvm_cpuid_entry2, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use tern_engine::EngineError;
use tern_x86::cpuid::feature;
use tern_x86::paravirtual::msr::{PV_EOI, SYSTEM_TIME};
use tern_x86::state::Msrs;

use super::Abilities;
use crate::host::refused;

const TSC: u32 = 0x10;
const TSC_ADJUST: u32 = 0x3b;
const SPEC_CTRL: u32 = 0x48;
const MISC_ENABLE: u32 = 0x1a0;
const DEBUG_CTL: u32 = 0x1d9;
const TSC_AUX: u32 = 0xc000_0103;
const ARCH_CAPABILITIES: u32 = 0x10a;
const TSX_CTRL: u32 = 0x122;
const VIRT_SPEC_CTRL: u32 = 0xc001_011f;

/// CPUID function 7, EDX, and function 0x8000_0008, EBX: what says that there is SPEC_CTRL; and the latter's VIRT_SSBD.
const SPEC_CTRL_7_EDX: u32 = 1 << 26 | 1 << 27 | 1 << 31;
const SPEC_CTRL_8_EBX: u32 = 1 << 14 | 1 << 15 | 1 << 24;
const VIRT_SSBD: u32 = 1 << 25;

const MTRR_VARIABLE: u32 = 0x200;
/// The fixed-range MTRRs, by ascending number.
const MTRR_FIXED: [u32; 11] = [0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f];

/// Which of the registers are there that not every host keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Optional {
    tsc_adjust: bool,
    spec_ctrl: bool,
    virt_spec_ctrl: bool,
    misc_enable: bool,
    debug_ctl: bool,
    tsc_aux: bool,
    arch_capabilities: bool,
    tsx_ctrl: bool,
    kvm_system_time: bool,
    kvm_pv_eoi: bool,
}

impl Optional {
    /// Everything.
    const ALL: Self = Self {
        tsc_adjust: true,
        spec_ctrl: true,
        virt_spec_ctrl: true,
        misc_enable: true,
        debug_ctl: true,
        tsc_aux: true,
        arch_capabilities: true,
        tsx_ctrl: true,
        kvm_system_time: true,
        kvm_pv_eoi: true,
    };

    /// What a host that `keeps` registers by number keeps for a guest that sees these leaves. Controls of speculation are for guests that were told about
    /// them only.
    pub fn new(keeps: impl Fn(u32) -> bool, guest: &[kvm_cpuid_entry2]) -> Self {
        let leaf = |function| guest.iter().find(|leaf| leaf.function == function && leaf.index == 0);
        let seventh = leaf(7).map_or(0, |leaf| leaf.edx);
        let eighth = leaf(0x8000_0008).map_or(0, |leaf| leaf.ebx);
        let spec_ctrl = seventh & SPEC_CTRL_7_EDX != 0 || eighth & SPEC_CTRL_8_EBX != 0;
        let arch_capabilities = seventh & feature::ARCH_CAPABILITIES.mask() != 0;
        Self {
            tsc_adjust: keeps(TSC_ADJUST),
            spec_ctrl: spec_ctrl && keeps(SPEC_CTRL),
            virt_spec_ctrl: eighth & VIRT_SSBD != 0 && keeps(VIRT_SPEC_CTRL),
            misc_enable: keeps(MISC_ENABLE),
            debug_ctl: keeps(DEBUG_CTL),
            tsc_aux: keeps(TSC_AUX),
            arch_capabilities: arch_capabilities && keeps(ARCH_CAPABILITIES),
            tsx_ctrl: arch_capabilities && keeps(TSX_CTRL),
            kvm_system_time: keeps(SYSTEM_TIME),
            kvm_pv_eoi: keeps(PV_EOI),
        }
    }
}

/// Every register with its place in the state, but for the TSC.
fn places(msrs: &mut Msrs, optional: Optional) -> Vec<(u32, &mut u64)> {
    let mut places = vec![
        (0x174, &mut msrs.sysenter_cs),
        (0x175, &mut msrs.sysenter_esp),
        (0x176, &mut msrs.sysenter_eip),
        (0xc000_0081, &mut msrs.star),
        (0xc000_0082, &mut msrs.lstar),
        (0xc000_0083, &mut msrs.cstar),
        (0xc000_0084, &mut msrs.sfmask),
        (0xc000_0102, &mut msrs.kernel_gs_base),
        (0x277, &mut msrs.pat),
        (0x2ff, &mut msrs.mtrr_def_type),
    ];
    places.extend(MTRR_FIXED.into_iter().zip(&mut msrs.mtrr_fixed));
    places.extend((MTRR_VARIABLE..).zip(&mut msrs.mtrr_variable));
    let some = [
        (optional.tsc_aux, TSC_AUX, &mut msrs.tsc_aux),
        (optional.misc_enable, MISC_ENABLE, &mut msrs.misc_enable),
        (optional.debug_ctl, DEBUG_CTL, &mut msrs.debug_ctl),
        (optional.tsc_adjust, TSC_ADJUST, &mut msrs.tsc_adjust),
        (optional.spec_ctrl, SPEC_CTRL, &mut msrs.spec_ctrl),
        (optional.virt_spec_ctrl, VIRT_SPEC_CTRL, &mut msrs.virt_spec_ctrl),
        (optional.arch_capabilities, ARCH_CAPABILITIES, &mut msrs.arch_capabilities),
        (optional.tsx_ctrl, TSX_CTRL, &mut msrs.tsx_ctrl),
        // Addresses that KVM writes to: kvm-clock, and its shortcut for the end of an interrupt.
        (optional.kvm_system_time, SYSTEM_TIME, &mut msrs.kvm_system_time),
        (optional.kvm_pv_eoi, PV_EOI, &mut msrs.kvm_pv_eoi),
    ];
    places.extend(some.into_iter().filter(|(present, ..)| *present).map(|(_, index, place)| (index, place)));
    places
}

/// Whether a register has a place in [`Msrs`], on this host or another.
pub(super) fn is_named(index: u32) -> bool {
    places(&mut Msrs::default(), Optional::ALL).iter().any(|(named, _)| *named == index)
}

pub(super) fn get(fd: &VcpuFd, abilities: &Abilities<'_>, msrs: &mut Msrs) -> Result<(), EngineError> {
    let mut tsc = 0;
    let mut places = places(msrs, abilities.msrs);
    places.push((TSC, &mut tsc));
    let entries: Vec<_> = places.iter().map(|(index, _)| entry(*index, 0)).collect();
    let mut list = list(&entries)?;
    let read = fd.get_msrs(&mut list).map_err(refused("read a processor's model-specific registers"))?;
    complete(read, &entries, "does not give")?;
    for ((_, place), entry) in places.into_iter().zip(list.as_slice()) {
        *place = entry.data;
    }
    msrs.tsc_offset = tsc.wrapping_sub(abilities.base_tsc);
    Ok(())
}

pub(super) fn set(fd: &VcpuFd, abilities: &Abilities<'_>, msrs: &Msrs) -> Result<(), EngineError> {
    let mut msrs = *msrs;
    let tsc = abilities.base_tsc.wrapping_add(msrs.tsc_offset);
    let places = places(&mut msrs, abilities.msrs);
    let mut entries: Vec<_> = places.into_iter().map(|(index, value)| entry(index, *value)).collect();
    // A new processor's is the host's.
    entries.retain(|entry| entry.index != ARCH_CAPABILITIES || entry.data != 0);
    entries.push(entry(TSC, tsc));
    let list = list(&entries)?;
    let written = fd.set_msrs(&list).map_err(refused("set a processor's model-specific registers"))?;
    complete(written, &entries, "does not take")
}

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry { index, data, ..Default::default() }
}

fn list(entries: &[kvm_msr_entry]) -> Result<KvmMsrs, EngineError> {
    KvmMsrs::from_entries(entries)
        .map_err(|_| EngineError::Unsupported("more model-specific registers than KVM takes at once".into()))
}

/// KVM works through the list and stops at the first register that it refuses.
fn complete(done: usize, entries: &[kvm_msr_entry], refuses: &str) -> Result<(), EngineError> {
    let Some(kvm_msr_entry { index, data, .. }) = entries.get(done) else { return Ok(()) };
    Err(EngineError::Unsupported(format!(
        "this host's KVM {refuses} the model-specific register {index:#x} (value {data:#x})"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::recorded;

    #[test]
    fn every_register_of_the_state_has_one_place() {
        let mut msrs = Msrs::default();
        let mut indices: Vec<_> =
            places(&mut msrs, Optional::ALL).into_iter().map(|(index, _)| index).collect();
        // All fields of `Msrs` but the TSC's offset.
        assert_eq!(indices.len(), size_of::<Msrs>() / 8 - 1);
        indices.sort_unstable();
        indices.dedup();
        assert_eq!(indices.len(), size_of::<Msrs>() / 8 - 1);
    }

    #[test]
    fn each_vendors_guests_have_the_controls_that_they_were_told_of() {
        let on = |guest: &[kvm_cpuid_entry2]| Optional::new(|_| true, guest);
        let (mut zen_3, intel) = (recorded::amd(), on(&recorded::intel()));
        let amd = on(&zen_3);
        assert!(amd.spec_ctrl && !amd.virt_spec_ctrl && !amd.arch_capabilities && !amd.tsx_ctrl, "{amd:?}");
        assert!(intel.spec_ctrl && !intel.virt_spec_ctrl && intel.arch_capabilities && intel.tsx_ctrl);
        // Where KVM carries SSBD out itself.
        for leaf in zen_3.iter_mut().filter(|leaf| leaf.function == 0x8000_0008) {
            leaf.ebx |= VIRT_SSBD;
        }
        assert!(on(&zen_3).virt_spec_ctrl);
        assert_eq!(Optional::new(|_| false, &recorded::intel()), Optional::default());
    }

    #[test]
    fn a_refused_register_is_named() {
        let entries = [entry(0x277, 1), entry(0x200, 0xbad)];
        assert!(complete(2, &entries, "does not take").is_ok());
        let error = complete(1, &entries, "does not take").unwrap_err().to_string();
        assert!(error.contains("0x200") && error.contains("0xbad"), "{error}");
    }
}
