//! Time that stands still while a machine is paused: the guests' time-stamp counters, kvm-clock, and the timers of local
//! APICs and PIT, all of which the kernel keeps by its own clock.
//!
//! At a pause they are read; at the end of it the counters are moved back by what they went on, all by the same distance,
//! and the timers are started again with the time they had left. A guest that has kvm-clock is told
//! (KVM_KVMCLOCK_CTRL), so that its watchdogs do not count the pause. What arrived at a local APIC meanwhile stays there.

use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, Msrs, kvm_clock_data, kvm_device_attr, kvm_msr_entry,
};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use tern_chipset::{Time, lapic, pit};
use tern_engine::EngineError;
use vmm_sys_util::ioctl::ioctl_with_ref;

use crate::chipset;
use crate::host::refused;
use crate::vcpu::{SharedFd, lock};

mod number {
    #![allow(missing_docs)]
    use super::{KVMIO, kvm_device_attr};
    vmm_sys_util::ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);
    vmm_sys_util::ioctl_iow_nr!(KVM_GET_DEVICE_ATTR, KVMIO, 0xe2, kvm_device_attr);
}

const TSC: u32 = 0x10;

/// What the guest's time showed when it was stopped.
#[derive(Debug)]
pub struct Stopped {
    clock: Option<kvm_clock_data>,
    pit: pit::State,
    processors: Vec<StoppedProcessor>,
}

#[derive(Debug)]
struct StoppedProcessor {
    fd: SharedFd,
    tsc: u64,
    timer: lapic::TimerState,
}

/// Reads the time of a machine whose processors are `fds`, when its own clock shows `now`.
///
/// # Errors
/// The kernel refuses.
pub fn stop(vm: &VmFd, fds: &[Option<SharedFd>], now: Time) -> Result<Stopped, EngineError> {
    let clock = if vm.check_extension(Cap::AdjustClock) {
        Some(vm.get_clock().map_err(refused("read kvm-clock"))?)
    } else {
        None
    };
    let mut processors = Vec::new();
    for fd in fds.iter().flatten() {
        let vcpu = lock(fd);
        let timer = chipset::lapic(&vcpu, now)?.timer;
        processors.push(StoppedProcessor { fd: SharedFd::clone(fd), tsc: read_tsc(&vcpu)?, timer });
    }
    Ok(Stopped { clock, pit: chipset::pit(vm, now)?, processors })
}

impl Stopped {
    /// Lets the machine's time go on from here, when its own clock shows `now` again.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn go_on(&self, vm: &VmFd, now: Time) -> Result<(), EngineError> {
        let Some(first) = self.processors.first() else { return Ok(()) };
        let passed = read_tsc(&lock(&first.fd))?.wrapping_sub(first.tsc);
        for processor in &self.processors {
            set_back(&lock(&processor.fd), processor.tsc, passed)?;
        }
        if let Some(clock) = self.clock {
            // Flags would let the kernel add the time that has passed.
            let clock = kvm_clock_data { clock: clock.clock, ..Default::default() };
            vm.set_clock(&clock).map_err(refused("set kvm-clock"))?;
        }
        chipset::set_pit(vm, &self.pit, now)?;
        for processor in &self.processors {
            let vcpu = lock(&processor.fd);
            // EINVAL: the guest has no kvm-clock.
            let _ = vcpu.kvmclock_ctrl();
            // A timer that had run out may have an interrupt under way, which setting it again would lose.
            if processor.timer.expiry.is_some() || processor.timer.tsc_deadline != 0 {
                let present = chipset::lapic(&vcpu, now)?;
                let state = lapic::State { timer: processor.timer.clone(), ..present };
                chipset::set_lapic(&vcpu, &state, now)?;
            }
        }
        Ok(())
    }
}

fn read_tsc(vcpu: &VcpuFd) -> Result<u64, EngineError> {
    let mut list = one_msr(0)?;
    let read = vcpu.get_msrs(&mut list).map_err(refused("read a processor's TSC"))?;
    let entry = list.as_slice().first().filter(|_| read == 1);
    entry
        .map(|entry| entry.data)
        .ok_or_else(|| EngineError::Unsupported("this host's KVM gives no TSC".into()))
}

/// Moves a processor's TSC back by `passed`, so that it shows about `shown`: exactly where the kernel gives its offset
/// (Linux 5.16), else by writing it, which the kernel takes as a wish to be in step with the other processors.
fn set_back(vcpu: &VcpuFd, shown: u64, passed: u64) -> Result<(), EngineError> {
    let mut offset = 0_u64;
    let attribute = |offset: *mut u64| kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: offset as u64,
        flags: 0,
    };
    let read = attribute(&raw mut offset);
    // SAFETY: the kernel writes the 8 bytes at `addr`, which are `offset`.
    if unsafe { ioctl_with_ref(vcpu, number::KVM_GET_DEVICE_ATTR(), &read) } == 0 {
        offset = offset.wrapping_sub(passed);
        let write = attribute(&raw mut offset);
        // SAFETY: the kernel reads the 8 bytes at `addr`, which are `offset`.
        return match unsafe { ioctl_with_ref(vcpu, number::KVM_SET_DEVICE_ATTR(), &write) } {
            0 => Ok(()),
            _ => Err(refused("set a processor's TSC offset")(kvm_ioctls::Error::last())),
        };
    }
    match vcpu.set_msrs(&one_msr(shown)?).map_err(refused("set a processor's TSC"))? {
        1 => Ok(()),
        _ => Err(EngineError::Unsupported("this host's KVM takes no TSC".into())),
    }
}

fn one_msr(data: u64) -> Result<Msrs, EngineError> {
    Msrs::from_entries(&[kvm_msr_entry { index: TSC, data, ..Default::default() }])
        .map_err(|_| EngineError::Unsupported("a list of one register is too long for KVM".into()))
}
