//! The log of written pages: the kernel's for what guests write (KVM_MEM_LOG_DIRTY_PAGES, KVM_GET_DIRTY_LOG), the
//! memory's own for what the machine writes.
//!
//! Where the kernel can (Linux 5.2), reading the log and protecting the pages again are two calls
//! (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2): the second one holds the guest up for the pages that were read only.

use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_MEM_LOG_DIRTY_PAGES, KVMIO, kvm_clear_dirty_log, kvm_enable_cap,
    kvm_userspace_memory_region,
};
use kvm_ioctls::VmFd;
use tern_engine::{DirtyRegion, EngineError, GuestMemory, LOG_PAGE, WriteWatch};
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion as _};
use vmm_sys_util::ioctl::ioctl_with_ref;

use crate::host::refused;

mod number {
    #![allow(missing_docs)]
    use super::{KVMIO, kvm_clear_dirty_log};
    vmm_sys_util::ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, KVMIO, 0xc0, kvm_clear_dirty_log);
}

/// Guest memory as the kernel knows it, and the log of it.
#[derive(Debug)]
pub struct Slots {
    slots: Vec<kvm_userspace_memory_region>,
    /// Outlives the kernel's use of it.
    memory: GuestMemory,
    /// Protecting pages again is a call of its own.
    is_manual: bool,
    is_logging: Mutex<bool>,
}

impl Slots {
    /// Gives `memory` to the machine `fd`.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn new(fd: &VmFd, memory: GuestMemory) -> Result<Self, EngineError> {
        let mut slots = Vec::new();
        for (slot, region) in (0..).zip(memory.iter()) {
            let address = region.get_host_address(vm_memory::MemoryRegionAddress(0)).map_err(|error| {
                EngineError::Unsupported(format!("guest memory cannot be reached: {error}"))
            })?;
            slots.push(kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: address as u64,
            });
        }
        let mut enable = kvm_enable_cap { cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, ..Default::default() };
        enable.args[0] = 1;
        let is_manual = fd.check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into()) & 1 != 0
            && fd.enable_cap(&enable).is_ok();
        let slots = Self { slots, memory, is_manual, is_logging: Mutex::default() };
        slots.set_flags(fd, 0)?;
        Ok(slots)
    }

    fn set_flags(&self, fd: &VmFd, flags: u32) -> Result<(), EngineError> {
        for slot in &self.slots {
            let slot = kvm_userspace_memory_region { flags, ..*slot };
            // SAFETY: the region is a mapping of its own, which `memory` keeps for as long as `fd` is open, and which is
            // guest memory: everybody who accesses it expects others to change it.
            unsafe { fd.set_user_memory_region(slot) }.map_err(refused("give the guest its memory"))?;
        }
        Ok(())
    }

    /// [`tern_engine::DirtyLog::start_dirty_log`].
    ///
    /// # Errors
    /// The log is kept already, or the kernel refuses.
    pub fn start_log(&self, fd: &VmFd) -> Result<(), EngineError> {
        let mut is_logging = self.is_logging.lock().unwrap_or_else(PoisonError::into_inner);
        if *is_logging {
            return Err(EngineError::Unsupported("the log of written pages is kept already".into()));
        }
        self.set_flags(fd, KVM_MEM_LOG_DIRTY_PAGES)?;
        self.memory.iter().for_each(|region| WriteWatch::of(region).start());
        *is_logging = true;
        Ok(())
    }

    /// [`tern_engine::DirtyLog::take_dirty_log`].
    ///
    /// # Errors
    /// No log is kept, or the kernel refuses.
    pub fn take_log(&self, fd: &VmFd) -> Result<Vec<DirtyRegion>, EngineError> {
        let is_logging = self.is_logging.lock().unwrap_or_else(PoisonError::into_inner);
        if !*is_logging {
            return Err(EngineError::Unsupported("no log of written pages is kept: start it first".into()));
        }
        let mut regions = Vec::new();
        for (slot, region) in self.slots.iter().zip(self.memory.iter()) {
            let size = usize::try_from(slot.memory_size).unwrap_or(usize::MAX);
            let mut bitmap = fd.get_dirty_log(slot.slot, size).map_err(refused("read the written pages"))?;
            if self.is_manual && bitmap.iter().any(|word| *word != 0) {
                clear(fd, slot, &mut bitmap)?;
            }
            for (word, more) in bitmap.iter_mut().zip(WriteWatch::of(region).take()) {
                *word |= more;
            }
            regions.push(DirtyRegion { start: slot.guest_phys_addr, bitmap });
        }
        Ok(regions)
    }

    /// [`tern_engine::DirtyLog::stop_dirty_log`].
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn stop_log(&self, fd: &VmFd) -> Result<(), EngineError> {
        let mut is_logging = self.is_logging.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut *is_logging) {
            self.memory.iter().for_each(|region| WriteWatch::of(region).stop());
            self.set_flags(fd, 0)?;
        }
        Ok(())
    }
}

/// Protects these pages of a slot again, so that the next write to them is logged.
fn clear(fd: &VmFd, slot: &kvm_userspace_memory_region, bitmap: &mut [u64]) -> Result<(), EngineError> {
    let num_pages = u32::try_from(slot.memory_size / LOG_PAGE)
        .map_err(|_| EngineError::Unsupported("more memory than KVM logs at once".into()))?;
    let mut log = kvm_clear_dirty_log { slot: slot.slot, num_pages, ..Default::default() };
    log.__bindgen_anon_1.dirty_bitmap = bitmap.as_mut_ptr().cast::<c_void>();
    // SAFETY: the kernel reads one bit for each of the slot's pages, which is what the bitmap holds.
    match unsafe { ioctl_with_ref(fd, number::KVM_CLEAR_DIRTY_LOG(), &log) } {
        0 => Ok(()),
        _ => Err(refused("protect the written pages again")(kvm_ioctls::Error::last())),
    }
}
