//! A virtual machine on KVM: its memory, its interrupt controllers and timer, and where its processors come from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{
    CpuId, KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE,
    KVM_PIT_SPEAKER_DUMMY, KvmIrqRouting, kvm_irq_routing_entry, kvm_irq_routing_irqchip, kvm_msi,
    kvm_pit_config, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, VmFd};
use tern_chipset::ioapic;
use tern_chipset::layout::{MSI, irq};
use tern_engine::{EngineError, GuestMemory, Vcpu, Vm, VmConfig};
use vm_memory::{GuestMemoryBackend as _, GuestMemoryRegion};

use crate::chipset::{self, power_on};
use crate::cpuid::{HostCpuid, guest_cpuid};
use crate::failure::Deferred;
use crate::host::{Host, refused};
use crate::kick::Kicker;
use crate::run_page::{Mapping, RunPage};
use crate::state::Optional;
use crate::vcpu::{KvmVcpu, SharedFd, Traits};

/// Where VT-x without "unrestricted guest" keeps what it needs for real mode: one page, then three. Nothing else is there.
const IDENTITY_MAP: u64 = 0xfffb_c000;
const TSS: usize = 0xfffb_d000;

/// The TSC's frequency where the hardware can scale it, in kHz: the machine's clock, in nanoseconds.
const TSC_KHZ: u32 = 1_000_000;

/// CPUID function 1, ECX: XSAVE.
const HAS_XSAVE: u32 = 1 << 26;

/// A virtual machine.
pub struct KvmVm {
    host: Host,
    fd: VmFd,
    config: VmConfig,
    /// The processors that were made, by number.
    vcpus: Mutex<Vec<Option<SharedFd>>>,
    deferred: Arc<Deferred>,
    /// Outlives the kernel's use of it, which ends with `fd`.
    _memory: GuestMemory,
}

impl KvmVm {
    /// A machine without processors yet.
    ///
    /// # Errors
    /// The host refuses something, or cannot run as many processors.
    pub fn new(host: Host, config: &VmConfig, memory: GuestMemory) -> Result<Self, EngineError> {
        let vm = Self::without_chipset(host, config, memory)?;
        let fd = &vm.fd;
        fd.set_identity_map_address(IDENTITY_MAP).map_err(refused("place the identity map"))?;
        fd.set_tss_address(TSS).map_err(refused("place the task-state segment"))?;
        fd.create_irq_chip().map_err(refused("make the interrupt controllers"))?;
        fd.set_gsi_routing(&routing()?).map_err(refused("connect the interrupt lines"))?;
        // Port 0x61 belongs to the timer here, as in a PC: KVM calls that the speaker's dummy.
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        fd.create_pit2(pit).map_err(refused("make the interval timer"))?;
        Ok(vm)
    }

    /// A machine that has memory and processors, and nothing that interrupts them.
    ///
    /// # Errors
    /// As for [`KvmVm::new`].
    pub fn without_chipset(host: Host, config: &VmConfig, memory: GuestMemory) -> Result<Self, EngineError> {
        let most = host.kvm().get_max_vcpus();
        if config.cpus == 0 || config.cpus as usize > most {
            return Err(EngineError::Unsupported(format!(
                "the engine 'kvm' runs 1 to {most} processors on this host, not {}",
                config.cpus
            )));
        }
        let fd = host.kvm().create_vm().map_err(refused("make a virtual machine"))?;
        for (slot, region) in (0..).zip(memory.iter()) {
            let address = region.get_host_address(vm_memory::MemoryRegionAddress(0)).map_err(|error| {
                EngineError::Unsupported(format!("guest memory cannot be reached: {error}"))
            })?;
            let slot = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: address as u64,
            };
            // SAFETY: the region is a mapping of its own, which `_memory` keeps for as long as `fd` is open, and which is
            // guest memory: everybody who accesses it expects others to change it.
            unsafe { fd.set_user_memory_region(slot) }.map_err(refused("give the guest its memory"))?;
        }
        let vcpus = Mutex::new(vec![None; config.cpus as usize]);
        Ok(Self { host, fd, config: config.clone(), vcpus, deferred: Arc::default(), _memory: memory })
    }

    /// Makes a processor, as [`Vm::create_vcpu`] does.
    ///
    /// # Errors
    /// The host refuses something, or there is no such processor, or it exists already.
    pub fn make_vcpu(&self, index: u32) -> Result<(KvmVcpu, SharedFd), EngineError> {
        let mut vcpus = self.vcpus();
        let Some(place) = vcpus.get_mut(index as usize) else {
            return Err(EngineError::Unsupported(format!("this machine has no processor {index}")));
        };
        if place.is_some() {
            return Err(EngineError::Unsupported(format!("processor {index} exists already")));
        }
        let fd = self.fd.create_vcpu(u64::from(index)).map_err(refused("make a processor"))?;
        let supported = HostCpuid {
            supported: self.host.supported_cpuid(),
            tsc_deadline: self.host.kvm().check_extension(Cap::TscDeadlineTimer),
        };
        let entries = guest_cpuid(&self.config.cpu_model, index, &supported);
        let cpuid = CpuId::from_entries(&entries).map_err(|_| {
            EngineError::Unsupported("the processor model has more CPUID leaves than KVM takes".into())
        })?;
        fd.set_cpuid2(&cpuid).map_err(refused("set a processor's CPUID"))?;
        if self.host.kvm().check_extension(Cap::TscControl) {
            fd.set_tsc_khz(TSC_KHZ).map_err(refused("set the TSC's frequency"))?;
        }
        let has = |function: u32, bit: fn(&kvm_bindings::kvm_cpuid_entry2) -> bool| {
            entries.iter().any(|entry| entry.function == function && entry.index == 0 && bit(entry))
        };
        let spec_ctrl = has(7, |leaf| leaf.edx & (1 << 26 | 1 << 27 | 1 << 31) != 0)
            || has(0x8000_0008, |leaf| leaf.ebx & (1 << 14 | 1 << 15 | 1 << 24) != 0);
        let traits = Traits {
            index,
            xsave: has(1, |leaf| leaf.ecx & HAS_XSAVE != 0),
            msrs: Optional::new(&self.host, spec_ctrl),
            tsc_khz: fd.get_tsc_khz().map_err(refused("read the TSC's frequency"))?,
            clock: Arc::clone(&self.config.clock),
        };
        let shared_page = |source| EngineError::Host { action: "share a page with the kernel", source };
        let mapping = Arc::new(Mapping::new(&fd, self.fd.run_size()).map_err(shared_page)?);
        let kicker = Kicker::new(Arc::clone(&mapping)).map_err(|source| EngineError::Host {
            action: "handle the signal that stops a processor",
            source,
        })?;
        let shared = Arc::new(Mutex::new(fd));
        *place = Some(Arc::clone(&shared));
        let vcpu = KvmVcpu::new(
            Arc::clone(&shared),
            RunPage::new(mapping),
            Arc::new(kicker),
            Arc::clone(&self.deferred),
            traits,
        );
        Ok((vcpu, shared))
    }

    /// The machine's file.
    #[cfg(test)]
    pub const fn fd(&self) -> &VmFd {
        &self.fd
    }

    fn vcpus(&self) -> MutexGuard<'_, Vec<Option<SharedFd>>> {
        self.vcpus.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn power_on_chipset(&self) -> Result<(), EngineError> {
        chipset::set_lines(&self.fd, &power_on::pic(), &power_on::ioapic())?;
        chipset::set_pit(&self.fd, &power_on::pit(), self.config.clock.now())?;
        for (index, fd) in (0..).zip(self.vcpus().iter()) {
            if let Some(fd) = fd {
                chipset::set_lapic(&crate::vcpu::lock(fd), &power_on::lapic(index), self.config.clock.now())?;
            }
        }
        Ok(())
    }
}

impl Vm for KvmVm {
    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, EngineError> {
        let (vcpu, fd) = self.make_vcpu(index)?;
        chipset::set_lapic(&crate::vcpu::lock(&fd), &power_on::lapic(index), self.config.clock.now())?;
        Ok(Box::new(vcpu))
    }

    fn set_irq_line(&self, gsi: u32, level: bool) {
        if gsi < u32::from(ioapic::PINS) {
            // Every one of these lines is routed; there is nothing that could fail.
            let _ = self.fd.set_irq_line(gsi, level);
        }
    }

    fn signal_msi(&self, address: u64, data: u32) {
        if !MSI.contains(&address) {
            return;
        }
        let [low, high] = [address as u32, (address >> 32) as u32];
        // An error means that nobody took the interrupt, as on hardware.
        let _ = self.fd.signal_msi(kvm_msi { address_lo: low, address_hi: high, data, ..Default::default() });
    }

    fn reset(&self) {
        if let Err(error) = self.power_on_chipset() {
            self.deferred.put(error);
        }
    }
}

/// Lines 0 to 15 to the 8259s, all 24 to the IO-APIC; the timer's arrives there at a pin of its own.
fn routing() -> Result<KvmIrqRouting, EngineError> {
    let entry = |gsi: u8, irqchip: u32, pin: u8| {
        let mut entry =
            kvm_irq_routing_entry { gsi: gsi.into(), type_: KVM_IRQ_ROUTING_IRQCHIP, ..Default::default() };
        entry.u.irqchip = kvm_irq_routing_irqchip { irqchip, pin: pin.into() };
        entry
    };
    let mut entries = Vec::new();
    for line in 0..ioapic::PINS {
        match line {
            0..8 => entries.push(entry(line, KVM_IRQCHIP_PIC_MASTER, line)),
            8..16 => entries.push(entry(line, KVM_IRQCHIP_PIC_SLAVE, line - 8)),
            _ => {}
        }
        match line {
            irq::TIMER => entries.push(entry(line, KVM_IRQCHIP_IOAPIC, irq::TIMER_PIN)),
            irq::TIMER_PIN => {}
            _ => entries.push(entry(line, KVM_IRQCHIP_IOAPIC, line)),
        }
    }
    KvmIrqRouting::from_entries(&entries)
        .map_err(|_| EngineError::Unsupported("more interrupt lines than KVM routes".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timer_reaches_the_first_8259_and_its_pin_of_the_io_apic() {
        let routing = routing().unwrap();
        let targets: Vec<_> = routing
            .as_slice()
            .iter()
            .filter(|entry| entry.gsi == 0)
            // SAFETY: every entry's type is that of this member.
            .map(|entry| unsafe { (entry.u.irqchip.irqchip, entry.u.irqchip.pin) })
            .collect();
        assert_eq!(targets, [(KVM_IRQCHIP_PIC_MASTER, 0), (KVM_IRQCHIP_IOAPIC, 2)]);
        assert_eq!(routing.as_slice().len(), 16 + 23);
    }
}
