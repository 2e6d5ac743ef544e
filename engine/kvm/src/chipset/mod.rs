//! The kernel's interrupt controllers and interval timer, to and from `tern-chipset`'s states.
//!
//! Those states are the only form in which a machine is saved or sent, so that each engine can go on where another
//! stopped. Where the kernel keeps less than the state does (or more), the room's files say so.
//!
//! Moments cross two clocks: the machine's, and the kernel's own monotonic one.

pub mod ioapic;
pub mod lapic;
pub mod pic;
pub mod pit;
pub mod power_on;

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, Msrs, kvm_irqchip, kvm_msr_entry,
};
use kvm_ioctls::{VcpuFd, VmFd};
use rustix::time::{ClockId, clock_gettime};
use tern_chipset::Time;
use tern_engine::EngineError;

use crate::host::refused;

const APIC_BASE: u32 = 0x1b;
const TSC_DEADLINE: u32 = 0x6e0;

/// The same moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The machine's clock.
    pub machine: Time,
    /// The kernel's monotonic clock, in nanoseconds.
    pub kernel: i64,
}

impl Moment {
    /// The moment at which the machine's clock shows `now`.
    pub fn new(now: Time) -> Self {
        let kernel = clock_gettime(ClockId::Monotonic);
        Self {
            machine: now,
            kernel: kernel.tv_sec.saturating_mul(1_000_000_000).saturating_add(kernel.tv_nsec),
        }
    }

    /// The machine's time at a moment of the kernel's clock that has passed.
    pub fn machine_time(&self, kernel: i64) -> Time {
        let ago = self.kernel.saturating_sub(kernel);
        self.machine - Time::from_nanos(u64::try_from(ago).unwrap_or(0))
    }

    /// The kernel's time at a moment of the machine's clock that has passed.
    pub fn kernel_time(&self, machine: Time) -> i64 {
        let ago = (self.machine - machine).as_nanos();
        self.kernel.saturating_sub(i64::try_from(ago).unwrap_or(i64::MAX))
    }
}

/// Replaces the state of the 8259s and the IO-APIC.
///
/// # Errors
/// The kernel refuses.
pub fn set_lines(
    vm: &VmFd,
    pic: &tern_chipset::pic::State,
    ioapic: &tern_chipset::ioapic::State,
) -> Result<(), EngineError> {
    let (primary, secondary) = pic::to_kvm(pic);
    let mut chip = kvm_irqchip { chip_id: KVM_IRQCHIP_PIC_MASTER, ..Default::default() };
    chip.chip.pic = primary;
    vm.set_irqchip(&chip).map_err(refused("set the first 8259"))?;
    chip.chip_id = KVM_IRQCHIP_PIC_SLAVE;
    chip.chip.pic = secondary;
    vm.set_irqchip(&chip).map_err(refused("set the second 8259"))?;
    chip.chip_id = KVM_IRQCHIP_IOAPIC;
    chip.chip.ioapic = ioapic::to_kvm(ioapic);
    vm.set_irqchip(&chip).map_err(refused("set the IO-APIC"))
}

/// Reads the state of the 8259s and the IO-APIC.
///
/// # Errors
/// The kernel refuses.
pub fn lines(vm: &VmFd) -> Result<(tern_chipset::pic::State, tern_chipset::ioapic::State), EngineError> {
    let read = |chip_id| {
        let mut chip = kvm_irqchip { chip_id, ..Default::default() };
        vm.get_irqchip(&mut chip).map_err(refused("read an interrupt controller"))?;
        Ok(chip.chip)
    };
    let primary = read(KVM_IRQCHIP_PIC_MASTER)?;
    let secondary = read(KVM_IRQCHIP_PIC_SLAVE)?;
    let ioapic = read(KVM_IRQCHIP_IOAPIC)?;
    // SAFETY: the kernel filled in the member that belongs to the chip it was asked for; all members are integers.
    let (primary, secondary, ioapic) = unsafe { (primary.pic, secondary.pic, ioapic.ioapic) };
    Ok((pic::from_kvm(&primary, &secondary), ioapic::from_kvm(&ioapic)))
}

/// Replaces the interval timer's state.
///
/// # Errors
/// The kernel refuses.
pub fn set_pit(vm: &VmFd, state: &tern_chipset::pit::State, now: Time) -> Result<(), EngineError> {
    vm.set_pit2(&pit::to_kvm(state, &Moment::new(now))).map_err(refused("set the interval timer"))
}

/// Reads the interval timer's state.
///
/// # Errors
/// The kernel refuses.
pub fn pit(vm: &VmFd, now: Time) -> Result<tern_chipset::pit::State, EngineError> {
    let state = vm.get_pit2().map_err(refused("read the interval timer"))?;
    Ok(pit::from_kvm(&state, &Moment::new(now)))
}

/// Replaces the state of a processor's local APIC.
///
/// # Errors
/// The kernel refuses.
pub fn set_lapic(vcpu: &VcpuFd, state: &tern_chipset::lapic::State, now: Time) -> Result<(), EngineError> {
    // The mode decides how the registers are read; the timer's mode whether a deadline is taken.
    set_msr(vcpu, APIC_BASE, state.base)?;
    vcpu.set_lapic(&lapic::to_kvm(state, now)).map_err(refused("set a local APIC"))?;
    set_msr(vcpu, TSC_DEADLINE, state.timer.tsc_deadline)
}

/// Reads the state of a processor's local APIC.
///
/// # Errors
/// The kernel refuses.
pub fn lapic(vcpu: &VcpuFd, now: Time) -> Result<tern_chipset::lapic::State, EngineError> {
    let registers = vcpu.get_lapic().map_err(refused("read a local APIC"))?;
    let entries = [APIC_BASE, TSC_DEADLINE].map(|index| kvm_msr_entry { index, ..Default::default() });
    let mut msrs = msr_list(&entries)?;
    let read = vcpu.get_msrs(&mut msrs).map_err(refused("read a local APIC's mode"))?;
    match msrs.as_slice() {
        [base, deadline] if read == 2 => Ok(lapic::from_kvm(&registers, base.data, deadline.data, now)),
        _ => Err(EngineError::Unsupported("this host's KVM does not give IA32_APIC_BASE".into())),
    }
}

fn set_msr(vcpu: &VcpuFd, index: u32, data: u64) -> Result<(), EngineError> {
    let list = msr_list(&[kvm_msr_entry { index, data, ..Default::default() }])?;
    match vcpu.set_msrs(&list).map_err(refused("set a local APIC's mode"))? {
        1 => Ok(()),
        _ => Err(EngineError::Unsupported(format!(
            "this host's KVM does not take the model-specific register {index:#x} (value {data:#x})"
        ))),
    }
}

fn msr_list(entries: &[kvm_msr_entry]) -> Result<Msrs, EngineError> {
    Msrs::from_entries(entries)
        .map_err(|_| EngineError::Unsupported("more model-specific registers than KVM takes at once".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_translates_both_ways_and_saturates() {
        let moment = Moment { machine: Time::from_nanos(1_000), kernel: 50_000 };
        assert_eq!(moment.machine_time(49_400), Time::from_nanos(400));
        assert_eq!(moment.kernel_time(Time::from_nanos(400)), 49_400);
        assert_eq!(moment.machine_time(i64::MIN), Time::ZERO);
        assert_eq!(moment.machine_time(i64::MAX), moment.machine);
    }
}
