//! Registers beyond those of every named model: the components of the XSAVE area that the guest's processor has; and where the
//! host's own was passed to the guest, model-specific registers without a name in [`tern_x86::state::Msrs`].
//!
//! Which there are is the host's to say: CPUID function 0xd tells where each component lies (SDM volume 1, section 13.5),
//! KVM_GET_MSR_INDEX_LIST which registers belong to a guest's state. Of these only what differs from a new processor is state:
//! the rest is what the host gives by itself.

use std::collections::BTreeMap;

use kvm_bindings::{Msrs as KvmMsrs, kvm_cpuid_entry2, kvm_msr_entry, kvm_xsave};
use kvm_ioctls::VcpuFd;
use tern_engine::EngineError;
use tern_x86::cpuid::feature;
use tern_x86::state::{Component, Extended};

use super::registers::XSTATE_BV;
use crate::host::Host;

/// Components that are in every area: x87 and SSE. AVX's is [`tern_x86::state::FpuState`]'s as well, but not everybody's.
const FIRST: u8 = 2;
const BEHIND: u8 = 63;

/// Registers that are state elsewhere or none: the counter, local APIC's base and deadline, what the kernel counts (MPERF, APERF,
/// SMIs), the hypervisor's own (Hyper-V's and KVM's, whose writes have effects), and the feature registers of nested VT-x.
const LEFT_OUT: [std::ops::RangeInclusive<u32>; 9] = [
    0x10..=0x12,
    0x1b..=0x1b,
    0x34..=0x34,
    0xe7..=0xe8,
    0x480..=0x491,
    0x6e0..=0x6e0,
    0x4000_0000..=0x4000_01ff,
    0x4b56_4d00..=0x4b56_4dff,
    0xc000_0104..=0xc000_0104,
];

/// A component's place in the area, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    number: u8,
    offset: usize,
    size: usize,
}

/// What this processor has beyond what every named model has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Beyond {
    places: Vec<Place>,
    /// What each register holds in a new processor.
    new: BTreeMap<u32, u64>,
}

impl Beyond {
    /// What a named model's processor has, whose guest sees the leaves `guest`: components, if any.
    ///
    /// # Errors
    /// A component lies outside of the area that KVM gives.
    pub fn of_model(guest: &[kvm_cpuid_entry2]) -> Result<Option<Self>, EngineError> {
        let places = places(guest)?;
        Ok((!places.is_empty()).then(|| Self { places, new: BTreeMap::new() }))
    }

    /// What the new processor `fd` has, a host's own, whose guest sees the leaves `guest`.
    ///
    /// # Errors
    /// A component lies outside of the area that KVM gives.
    pub fn new(fd: &VcpuFd, host: &Host, guest: &[kvm_cpuid_entry2]) -> Result<Self, EngineError> {
        let is_other = |index: &&u32| {
            !LEFT_OUT.iter().any(|range| range.contains(index)) && !super::msrs::is_named(**index)
        };
        let indices = host.msrs().iter().filter(is_other);
        let new = indices.filter_map(|index| Some((*index, read(fd, *index)?))).collect();
        Ok(Self { places: places(guest)?, new })
    }

    /// What differs from a new processor; the area is KVM's.
    pub fn get(&self, fd: &VcpuFd, area: &kvm_xsave) -> Extended {
        let changed = |(index, new): (&u32, &u64)| {
            read(fd, *index).filter(|value| value != new).map(|value| (*index, value))
        };
        Extended { components: self.components(area), msrs: self.new.iter().filter_map(changed).collect() }
    }

    /// Replaces the registers; those that are not named become a new processor's.
    ///
    /// # Errors
    /// This host has no such register, or does not take the value.
    pub fn set(&self, fd: &VcpuFd, extended: &Extended) -> Result<(), EngineError> {
        let wanted: BTreeMap<_, _> = extended.msrs.iter().copied().collect();
        if let Some(index) = wanted.keys().find(|index| !self.new.contains_key(index)) {
            return Err(EngineError::Unsupported(format!(
                "this host's KVM does not keep the model-specific register {index:#x}"
            )));
        }
        for (&index, new) in &self.new {
            let value = *wanted.get(&index).unwrap_or(new);
            if read(fd, index) != Some(value) && !write(fd, index, value) {
                return Err(EngineError::Unsupported(format!(
                    "this host's KVM does not take the model-specific register {index:#x} (value {value:#x})"
                )));
            }
        }
        Ok(())
    }

    /// The components that are not in their initial state.
    fn components(&self, area: &kvm_xsave) -> Vec<Component> {
        let bytes: Vec<u8> = area.region.iter().flat_map(|word| word.to_le_bytes()).collect();
        let in_use = u64::from(area.region[XSTATE_BV]) | u64::from(area.region[XSTATE_BV + 1]) << 32;
        let places = self.places.iter().filter(|place| in_use >> place.number & 1 != 0);
        let component = |place: &Place| {
            let bytes = bytes.get(place.offset..place.offset + place.size)?.to_vec();
            Some(Component { number: place.number, bytes })
        };
        places.filter_map(component).collect()
    }

    /// Puts components into an area in which x87 and SSE are already; others become initial.
    ///
    /// # Errors
    /// There is no such component here, or it has another size.
    pub fn put(&self, components: &[Component], area: &mut kvm_xsave) -> Result<(), EngineError> {
        for Component { number, bytes } in components {
            let place = self.places.iter().find(|place| place.number == *number && place.size == bytes.len());
            let place = place.ok_or_else(|| {
                EngineError::Unsupported(format!(
                    "this host's processor has no component {number} of {} bytes in its XSAVE area",
                    bytes.len()
                ))
            })?;
            for (at, byte) in (place.offset..).zip(bytes) {
                let shift = 8 * (at % 4);
                let word = &mut area.region[at / 4];
                *word = *word & !(0xff << shift) | u32::from(*byte) << shift;
            }
            area.region[XSTATE_BV + usize::from(number / 32)] |= 1 << (number % 32);
        }
        Ok(())
    }
}

/// Whether a guest that sees these leaves has XSAVE, and so XCR0.
pub fn has_xsave(guest: &[kvm_cpuid_entry2]) -> bool {
    guest.iter().any(|leaf| leaf.function == 1 && leaf.ecx & feature::XSAVE.mask() != 0)
}

/// Where the components lie that this guest may enable.
fn places(guest: &[kvm_cpuid_entry2]) -> Result<Vec<Place>, EngineError> {
    let leaf = |index: u32| guest.iter().find(|leaf| leaf.function == 0xd && leaf.index == index);
    if !has_xsave(guest) {
        return Ok(Vec::new());
    }
    let enabled = leaf(0).map_or(0, |leaf| u64::from(leaf.eax) | u64::from(leaf.edx) << 32);
    let mut places = Vec::new();
    for number in (FIRST..BEHIND).filter(|number| enabled >> number & 1 != 0) {
        let Some(leaf) = leaf(number.into()) else { continue };
        let place = Place { number, offset: leaf.ebx as usize, size: leaf.eax as usize };
        if place.offset.saturating_add(place.size) > size_of::<kvm_xsave>() {
            return Err(EngineError::Unsupported(format!(
                "component {number} of the processor's XSAVE area lies beyond what KVM gives"
            )));
        }
        places.push(place);
    }
    Ok(places)
}

/// A register's value; none if this guest has none.
fn read(fd: &VcpuFd, index: u32) -> Option<u64> {
    let mut list = one(index, 0)?;
    let read = fd.get_msrs(&mut list).ok()?;
    list.as_slice().first().filter(|_| read == 1).map(|entry| entry.data)
}

fn write(fd: &VcpuFd, index: u32, data: u64) -> bool {
    one(index, data).is_some_and(|list| fd.set_msrs(&list) == Ok(1))
}

fn one(index: u32, data: u64) -> Option<KvmMsrs> {
    KvmMsrs::from_entries(&[kvm_msr_entry { index, data, ..Default::default() }]).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpuid::recorded;

    fn beyond(guest: &[kvm_cpuid_entry2]) -> Beyond {
        Beyond { places: places(guest).unwrap(), new: BTreeMap::new() }
    }

    fn component(number: u8, size: usize) -> Component {
        Component { number, bytes: (0..size).map(|at| at as u8 ^ number).collect() }
    }

    #[test]
    fn components_lie_where_each_vendors_processor_says() {
        let places = |guest: &[kvm_cpuid_entry2]| beyond(guest).places;
        let place = |number, offset, size| Place { number, offset, size };
        assert_eq!(places(&recorded::amd()), [place(2, 576, 256), place(9, 0x980, 8)]);
        let intel = places(&recorded::intel());
        assert_eq!(intel[0], place(2, 576, 256));
        assert_eq!(intel[3..], [place(7, 1664, 1024), place(9, 2688, 8)]);
    }

    #[test]
    fn what_is_put_into_the_area_comes_back_and_the_rest_is_initial() {
        let beyond = beyond(&recorded::intel());
        let components = [component(2, 256), component(9, 8)];
        let mut area = kvm_xsave::default();
        area.region[XSTATE_BV] = 3;
        beyond.put(&components, &mut area).unwrap();
        assert_eq!(area.region[XSTATE_BV], 3 | 1 << 2 | 1 << 9);
        assert_eq!(beyond.components(&area), components);
    }

    #[test]
    fn a_component_that_is_not_here_or_larger_is_refused() {
        let mut area = kvm_xsave::default();
        for wrong in [component(7, 1024), component(2, 255), component(200, 8), component(0, 8)] {
            let error = beyond(&recorded::amd()).put(&[wrong], &mut area).unwrap_err().to_string();
            assert!(error.contains("XSAVE area"), "{error}");
        }
        assert_eq!(area.region, kvm_xsave::default().region);
    }

    #[test]
    fn a_component_beyond_what_kvm_gives_is_refused() {
        let mut guest = recorded::intel();
        for leaf in guest.iter_mut().filter(|leaf| (leaf.function, leaf.index) == (0xd, 7)) {
            leaf.ebx = 4096 - 1023;
        }
        assert!(places(&guest).is_err());
    }
}
