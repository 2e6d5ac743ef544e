//! A virtual machine on KVM: its memory, its interrupt controllers and timer, and where its processors come from.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_bindings::{CpuId, KVM_PIT_SPEAKER_DUMMY, kvm_msi, kvm_pit_config};
use kvm_ioctls::{Cap, IoEventAddress, VcpuFd, VmFd};
use tern_chipset::InvalidState;
use tern_chipset::ioapic::{self, IoApic};
use tern_chipset::lapic::{self, LocalApic};
use tern_chipset::layout::MSI;
use tern_chipset::pic::Pic;
use tern_chipset::pit::Pit;
use tern_engine::{
    Coalescing, DirtyLog, DirtyRegion, Doorbell, EngineError, EventFd, GuestMemory, LineInterrupt,
    MessageInterrupt, Standstill, Vcpu, Vm, VmConfig, VmState, Wiring, WriteRange, WriteSink,
};
use tern_x86::cpuid::{Basis, CpuModel, InstructionSets};
use tern_x86::state::Efer;

use crate::chipset::{self, power_on};
use crate::cpuid::{self, HostCpuid, guest_cpuid};
use crate::dirty::Slots;
use crate::failure::Deferred;
use crate::gathered::Gathered;
use crate::host::{Host, refused};
use crate::kernel_statistics::KernelStatistics;
use crate::kick::Kicker;
use crate::run_page::{Mapping, RunPage};
use crate::standstill::{self, Stillness, Stopped, StoppedProcessor};
use crate::state::{Beyond, Optional, has_xsave};
use crate::vcpu::{KvmVcpu, Machine, SharedFd, Traits};
use crate::wiring::{self, Routes};

/// Where VT-x without "unrestricted guest" keeps what it needs for real mode: one page, then three. Nothing else is there.
const IDENTITY_MAP: u64 = 0xfffb_c000;
const TSS: usize = 0xfffb_d000;

/// How far a TSC's frequency may be off before a guest's time goes wrong, in millionths; also the kernel's tolerance.
const TSC_TOLERANCE: u64 = 250;

/// A virtual machine.
pub struct KvmVm {
    host: Host,
    fd: Arc<VmFd>,
    config: VmConfig,
    /// The processors that were made, by number.
    vcpus: Mutex<Vec<Option<SharedFd>>>,
    deferred: Arc<Deferred>,
    memory: Slots,
    /// Where interrupts lead; none without interrupt controllers.
    routes: Option<Arc<Routes>>,
    gathered: Arc<Gathered>,
    stillness: Stillness,
}

impl KvmVm {
    /// A machine without processors yet.
    ///
    /// # Errors
    /// The host refuses something, or cannot run as many processors.
    pub fn new(host: Host, config: &VmConfig, memory: GuestMemory) -> Result<Self, EngineError> {
        let mut vm = Self::without_chipset(host, config, memory)?;
        let fd = &vm.fd;
        fd.set_identity_map_address(IDENTITY_MAP).map_err(refused("place the identity map"))?;
        fd.set_tss_address(TSS).map_err(refused("place the task-state segment"))?;
        fd.create_irq_chip().map_err(refused("make the interrupt controllers"))?;
        vm.routes = Some(Routes::new(Arc::clone(fd))?);
        let fd = &vm.fd;
        // Port 0x61 belongs to the timer here, as in a PC: KVM calls that the speaker's dummy.
        let pit = kvm_pit_config { flags: KVM_PIT_SPEAKER_DUMMY, ..Default::default() };
        fd.create_pit2(pit).map_err(refused("make the interval timer"))?;
        chipset::set_lines(fd, &power_on::pic(), &power_on::ioapic())?;
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
        match config.cpu_model.basis {
            Basis::Exact => cpuid::check(&config.cpu_model.identity(), &host_cpuid(&host))?,
            Basis::Model => {
                EngineError::check_sets("kvm", &config.cpu_model, host_cpuid(&host).instruction_sets())?;
            }
            Basis::Host => {}
        }
        let fd = host.create_vm()?;
        let memory = Slots::new(&fd, memory)?;
        let vcpus = Mutex::new(vec![None; config.cpus as usize]);
        Ok(Self {
            host,
            fd: Arc::new(fd),
            config: config.clone(),
            vcpus,
            deferred: Arc::default(),
            memory,
            routes: None,
            gathered: Arc::default(),
            stillness: Stillness::default(),
        })
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
        let entries = guest_cpuid(&self.config.cpu_model, index, &host_cpuid(&self.host));
        let cpuid = CpuId::from_entries(&entries).map_err(|_| {
            EngineError::Unsupported("the processor model has more CPUID leaves than KVM takes".into())
        })?;
        fd.set_cpuid2(&cpuid).map_err(refused("set a processor's CPUID"))?;
        let model = &self.config.cpu_model;
        // A host's own processor counts as it does.
        if model.basis != Basis::Host && self.host.kvm().check_extension(Cap::TscControl) {
            fd.set_tsc_khz(model.tsc_khz).map_err(refused("set the TSC's frequency"))?;
        }
        let tsc_khz = fd.get_tsc_khz().map_err(refused("read the TSC's frequency"))?;
        if model.basis == Basis::Exact {
            same_frequency(model.tsc_khz, tsc_khz)?;
        }
        let beyond = if self.is_beyond_models() {
            Some(Beyond::new(&fd, &self.host, &entries)?)
        } else {
            Beyond::of_model(&entries)?
        };
        let traits = Traits {
            index,
            xsave: has_xsave(&entries),
            msrs: Optional::new(|index| self.host.has_msr(index), &entries),
            beyond: beyond.map(Arc::new),
            tsc_khz,
            clock: Arc::clone(&self.config.clock),
            stillness: self.stillness.clone(),
        };
        let shared_page = |source| EngineError::Host { action: "share a page with the kernel", source };
        let mapping = Arc::new(Mapping::new(&fd, self.fd.run_size()).map_err(shared_page)?);
        self.gathered.show(&mapping);
        let mut kernel_statistics: Vec<_> = KernelStatistics::of_processor(&fd).into_iter().collect();
        if index == 0 {
            kernel_statistics.extend(KernelStatistics::of_machine(&*self.fd));
        }
        let kicker = Kicker::new(Arc::clone(&mapping)).map_err(|source| EngineError::Host {
            action: "handle the signal that stops a processor",
            source,
        })?;
        let machine = Machine {
            fd: Arc::clone(&self.fd),
            deferred: Arc::clone(&self.deferred),
            gathered: Arc::clone(&self.gathered),
        };
        let shared = Arc::new(Mutex::new(fd));
        *place = Some(Arc::clone(&shared));
        let vcpu = KvmVcpu::new(
            Arc::clone(&shared),
            RunPage::new(mapping),
            Arc::new(kicker),
            machine,
            kernel_statistics,
            traits,
        );
        Ok((vcpu, shared))
    }

    /// Whether the processors are more than the named models: a host's own, here or where the machine comes from.
    fn is_beyond_models(&self) -> bool {
        let model = CpuModel::most_capable(InstructionSets::all()).identity();
        let identity = cpuid::identity(&self.config.cpu_model, &host_cpuid(&self.host), 0);
        !identity.beyond(|function, index| model.leaf(function, index)).is_empty()
    }

    /// The machine's file.
    #[cfg(test)]
    pub fn fd(&self) -> &VmFd {
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

    fn save(&self) -> Result<VmState, EngineError> {
        self.deferred.take()?;
        let vcpus = self.vcpus();
        let first = vcpus.first().and_then(Option::as_ref).ok_or_else(no_processors)?;
        let tsc_khz = crate::vcpu::lock(first).get_tsc_khz().map_err(refused("read the TSC's frequency"))?;
        let identity = cpuid::identity(&self.config.cpu_model, &host_cpuid(&self.host), tsc_khz);
        for fd in vcpus.iter().flatten() {
            no_guests_of_its_own(&crate::vcpu::lock(fd))?;
        }
        let (pic, ioapic) = chipset::lines(&self.fd)?;
        let now = self.config.clock.now();
        let apics = vcpus.iter().flatten().map(|fd| chipset::lapic(&crate::vcpu::lock(fd), now));
        let mut local_apics = apics.collect::<Result<Vec<_>, _>>()?;
        let moving = || EngineError::Unsupported("the machine's time has not been stopped".into());
        self.stillness
            .look(|stopped| {
                for (apic, processor) in local_apics.iter_mut().zip(&stopped.processors) {
                    apic.timer = processor.timer.clone();
                }
                let (pit, kvm_clock) = (stopped.pit.clone(), stopped.kvm_clock.unwrap_or(now.as_nanos()));
                VmState { identity, pic, ioapic, pit, local_apics, kvm_clock }
            })
            .ok_or_else(moving)
    }

    fn restore(&self, state: &VmState) -> Result<(), EngineError> {
        let vcpus = self.vcpus();
        let fds: Vec<_> = vcpus.iter().flatten().collect();
        if fds.len() != state.local_apics.len() {
            return Err(EngineError::Unsupported(format!(
                "this machine has {} processors, and the state {} local APICs",
                fds.len(),
                state.local_apics.len()
            )));
        }
        check_chipset(state).map_err(|error| EngineError::Unsupported(error.to_string()))?;
        chipset::set_lines(&self.fd, &state.pic, &state.ioapic)?;
        let now = self.config.clock.now();
        let mut processors = Vec::new();
        for (fd, apic) in fds.into_iter().zip(&state.local_apics) {
            // Timers are set when time goes on, so that none rings before.
            let still = lapic::State { timer: lapic::TimerState::default(), ..apic.clone() };
            chipset::set_lapic(&crate::vcpu::lock(fd), &still, now)?;
            processors.push(StoppedProcessor { fd: SharedFd::clone(fd), tsc: 0, timer: apic.timer.clone() });
        }
        let kvm_clock = self.fd.check_extension(Cap::AdjustClock).then_some(state.kvm_clock);
        self.stillness.replace(Some(Stopped { kvm_clock, pit: state.pit.clone(), processors }));
        Ok(())
    }
}

/// What guests can have here.
pub fn host_cpuid(host: &Host) -> HostCpuid<'_> {
    HostCpuid {
        supported: host.supported_cpuid(),
        tsc_deadline: host.kvm().check_extension(Cap::TscDeadlineTimer),
    }
}

/// CR4: the processor has VT-x switched on.
const VMXE: u64 = 1 << 13;

/// Whether a processor can be left: the state of nested virtualization has no form yet in which it could be taken along.
fn no_guests_of_its_own(vcpu: &VcpuFd) -> Result<(), EngineError> {
    let sregs = vcpu.get_sregs().map_err(refused("read a processor's segments"))?;
    if sregs.cr4 & VMXE == 0 && sregs.efer & Efer::SVME.bits() == 0 {
        return Ok(());
    }
    Err(EngineError::Unsupported(
        "the guest uses the processor's virtualization for guests of its own, which cannot be moved yet: start it without \
         `--cpu host`"
            .into(),
    ))
}

/// Whether a guest that knows its TSC by the one frequency can go on with the other, in kHz.
fn same_frequency(wanted: u32, is: u32) -> Result<(), EngineError> {
    if u64::from(wanted.abs_diff(is)) * 1_000_000 <= u64::from(wanted) * TSC_TOLERANCE {
        return Ok(());
    }
    Err(EngineError::Unsupported(format!(
        "the machine's time-stamp counter counts {wanted} kHz and this host's {is} kHz, which its hardware cannot scale: the \
         engine 'kvm' cannot go on with it; the engine 'soft' can"
    )))
}

impl Wiring for KvmVm {
    fn attach_doorbell(&self, doorbell: &Doorbell, event: &EventFd) -> Result<(), EngineError> {
        wiring::attach(&self.fd, doorbell, event)
    }

    fn detach_doorbell(&self, doorbell: &Doorbell, event: &EventFd) -> Result<(), EngineError> {
        wiring::detach(&self.fd, doorbell, event)
    }

    fn message_interrupt(&self) -> Result<Box<dyn MessageInterrupt>, EngineError> {
        wiring::message(self.routes.as_ref().ok_or_else(no_controllers)?)
    }

    fn line_interrupt(&self, gsi: u32) -> Result<Box<dyn LineInterrupt>, EngineError> {
        self.routes.as_ref().ok_or_else(no_controllers)?;
        wiring::line(&self.fd, gsi)
    }
}

/// Whether controllers could be in this state: the kernel asks less.
fn check_chipset(state: &VmState) -> Result<(), InvalidState> {
    Pic::new().restore(&state.pic)?;
    IoApic::new().restore(&state.ioapic)?;
    Pit::new().restore(&state.pit)?;
    for (index, apic) in (0..).zip(&state.local_apics) {
        LocalApic::new(index, index == 0).restore(apic)?;
    }
    Ok(())
}

fn no_processors() -> EngineError {
    EngineError::Unsupported("a machine without processors has no state".into())
}

fn no_controllers() -> EngineError {
    EngineError::Unsupported("this machine has no interrupt controllers".into())
}

impl Coalescing for KvmVm {
    fn set_write_sink(&self, sink: Box<WriteSink>) {
        self.gathered.set_sink(sink);
    }

    fn coalesce(&self, range: WriteRange) -> Result<(), EngineError> {
        let (is_offered, first, length) = match range {
            WriteRange::Ports { first, count } => {
                (Cap::CoalescedPio, IoEventAddress::Pio(first.into()), count.into())
            }
            WriteRange::Memory { first, length } => (Cap::CoalescedMmio, IoEventAddress::Mmio(first), length),
        };
        // Where the kernel cannot (ports: before Linux 4.20), the writes are exits.
        if !self.fd.check_extension(is_offered) {
            return Ok(());
        }
        self.fd.register_coalesced_mmio(first, length).map_err(refused("gather writes"))
    }

    fn flush_writes(&self) {
        self.gathered.flush();
    }
}

impl DirtyLog for KvmVm {
    fn start_dirty_log(&self) -> Result<(), EngineError> {
        self.memory.start_log(&self.fd)
    }

    fn take_dirty_log(&self) -> Result<Vec<DirtyRegion>, EngineError> {
        self.memory.take_log(&self.fd)
    }

    fn stop_dirty_log(&self) -> Result<(), EngineError> {
        self.memory.stop_log(&self.fd)
    }
}

impl Standstill for KvmVm {
    fn pause_time(&self) -> Result<(), EngineError> {
        if self.stillness.look(|_| ()).is_some() {
            return Ok(());
        }
        let stopped = standstill::stop(&self.fd, &self.vcpus(), self.config.clock.now())?;
        self.stillness.replace(Some(stopped));
        Ok(())
    }

    fn resume_time(&self) -> Result<(), EngineError> {
        let stopped = self.stillness.replace(None);
        stopped.map_or(Ok(()), |stopped| stopped.go_on(&self.fd, self.config.clock.now()))
    }
}
