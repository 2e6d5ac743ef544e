//! Time that stands still while a machine is paused: the guests' time-stamp counters, kvm-clock, and the timers of local
//! APICs and PIT, all of which the kernel keeps by its own clock.
//!
//! At a pause they are read; at the end of it the counters are moved to where they were, all by the same measure, and the
//! timers are started again with the time they had left. A guest that has kvm-clock is told
//! (KVM_KVMCLOCK_CTRL), so that its watchdogs do not count the pause. What arrived at a local APIC meanwhile stays there.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// The guest's time while it stands still, shared by the machine and its processors; nothing while it goes.
#[derive(Debug, Clone, Default)]
pub struct Stillness(Arc<Mutex<Option<Stopped>>>);

impl Stillness {
    /// Replaces it; gives what was there.
    pub fn replace(&self, stopped: Option<Stopped>) -> Option<Stopped> {
        std::mem::replace(&mut *self.lock(), stopped)
    }

    /// Looks at it.
    pub fn look<T>(&self, look: impl FnOnce(&Stopped) -> T) -> Option<T> {
        self.lock().as_ref().map(look)
    }

    /// What the TSC of a processor shows, if it stands still.
    pub fn tsc(&self, index: u32) -> Option<u64> {
        self.lock().as_ref()?.processors.get(index as usize).map(|processor| processor.tsc)
    }

    /// Lets the TSC of a processor that stands still show this when it goes on.
    pub fn set_tsc(&self, index: u32, tsc: u64) {
        let mut stopped = self.lock();
        let processor = stopped.as_mut().and_then(|stopped| stopped.processors.get_mut(index as usize));
        if let Some(processor) = processor {
            processor.tsc = tsc;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Stopped>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the guest's time showed when it was stopped.
#[derive(Debug)]
pub struct Stopped {
    /// kvm-clock, in nanoseconds.
    pub kvm_clock: Option<u64>,
    /// The interval timer.
    pub pit: pit::State,
    /// The processors, by number.
    pub processors: Vec<StoppedProcessor>,
}

/// One processor's part of it.
#[derive(Debug)]
pub struct StoppedProcessor {
    /// The processor.
    pub fd: SharedFd,
    /// Its time-stamp counter.
    pub tsc: u64,
    /// Its local APIC's timer.
    pub timer: lapic::TimerState,
}

/// Reads the time of a machine whose processors are `fds`, when its own clock shows `now`.
///
/// # Errors
/// The kernel refuses.
pub fn stop(vm: &VmFd, fds: &[Option<SharedFd>], now: Time) -> Result<Stopped, EngineError> {
    let kvm_clock = if vm.check_extension(Cap::AdjustClock) {
        Some(vm.get_clock().map_err(refused("read kvm-clock"))?.clock)
    } else {
        None
    };
    let mut processors: Vec<StoppedProcessor> = Vec::new();
    let mut first = None;
    for fd in fds.iter().flatten() {
        let vcpu = lock(fd);
        let timer = chipset::lapic(&vcpu, now)?.timer;
        let offset = tsc_offset(&vcpu);
        // All at the moment when the first was read.
        let tsc = match (first, offset) {
            (Some((tsc, Some(first_offset))), Some(offset)) => {
                let ahead: u64 = offset.wrapping_sub(first_offset);
                ahead.wrapping_add(tsc)
            }
            _ => read_tsc(&vcpu)?,
        };
        first.get_or_insert((tsc, offset));
        processors.push(StoppedProcessor { fd: SharedFd::clone(fd), tsc, timer });
    }
    Ok(Stopped { kvm_clock, pit: chipset::pit(vm, now)?, processors })
}

impl Stopped {
    /// Lets the machine's time go on from here, when its own clock shows `now` again.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn go_on(&self, vm: &VmFd, now: Time) -> Result<(), EngineError> {
        let Some(first) = self.processors.first() else { return Ok(()) };
        let (shown, offset) = {
            let vcpu = lock(&first.fd);
            (read_tsc(&vcpu)?, tsc_offset(&vcpu))
        };
        for processor in &self.processors {
            // The offset with which the first one's would show what it is to show, now.
            let ahead = processor.tsc.wrapping_sub(shown);
            set_tsc(&lock(&processor.fd), processor.tsc, offset.map(|offset| offset.wrapping_add(ahead)))?;
        }
        if let Some(clock) = self.kvm_clock {
            // Flags would let the kernel add the time that has passed.
            let clock = kvm_clock_data { clock, ..Default::default() };
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

/// What a processor's TSC adds to the (scaled) counter of the host; none where the kernel does not tell (before Linux 5.16).
fn tsc_offset(vcpu: &VcpuFd) -> Option<u64> {
    let mut offset = 0_u64;
    let read = offset_attribute(&raw mut offset);
    // SAFETY: the kernel writes the 8 bytes at `addr`, which are `offset`.
    (unsafe { ioctl_with_ref(vcpu, number::KVM_GET_DEVICE_ATTR(), &read) } == 0).then_some(offset)
}

/// Sets a processor's TSC by its offset, where the kernel has given one; else by its value, which the kernel takes as a wish
/// to be in step with the other processors.
fn set_tsc(vcpu: &VcpuFd, shown: u64, offset: Option<u64>) -> Result<(), EngineError> {
    if let Some(mut offset) = offset {
        let write = offset_attribute(&raw mut offset);
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

fn offset_attribute(offset: *mut u64) -> kvm_device_attr {
    kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        addr: offset as u64,
        flags: 0,
    }
}

fn one_msr(data: u64) -> Result<Msrs, EngineError> {
    Msrs::from_entries(&[kvm_msr_entry { index: TSC, data, ..Default::default() }])
        .map_err(|_| EngineError::Unsupported("a list of one register is too long for KVM".into()))
}
