//! A virtual machine on the software engine.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tern_engine::{
    Coalescing, DirtyLog, DirtyRegion, Doorbell, EngineError, EventFd, GuestMemory, LineInterrupt,
    MessageInterrupt, Standstill, Vcpu, Vm, VmConfig, VmState, Wiring, WriteRange, WriteSink,
};
use tern_x86::cpu::Cpu;
use tern_x86::cpuid::{Basis, CpuModel, CpuidContext};

use crate::HotCode;
use crate::doorbells::Doorbells;
use crate::environment::{Abilities, Shared, SoftEnvironment};
use crate::interrupts::Interrupts;
use crate::native;
use crate::profile::gauge::{Gauge, Sampler};
use crate::profile::{Profile, SharedJitDump};
use crate::ram::Ram;
use crate::rendezvous::Rendezvous;
use crate::vcpu::SoftVcpu;
use crate::wiring::Events;

/// Memory, interrupt controllers, and which processors have been handed out.
pub struct SoftVm {
    config: VmConfig,
    hot_code: HotCode,
    jitdump: SharedJitDump,
    /// What each processor is at.
    gauges: Vec<Arc<Gauge>>,
    /// Looks at them.
    _sampler: Option<Sampler>,
    ram: Arc<Ram>,
    interrupts: Arc<Interrupts>,
    doorbells: Arc<Doorbells>,
    rendezvous: Arc<Rendezvous>,
    events: Events,
    made: Mutex<Vec<bool>>,
    /// Whether the log of written pages is kept.
    is_logging: Mutex<bool>,
}

impl SoftVm {
    /// A machine without processors yet.
    ///
    /// # Errors
    /// Memory or processors are beyond what the engine or the host can do.
    pub fn new(
        config: &VmConfig,
        memory: GuestMemory,
        hot_code: HotCode,
        profile: Profile,
    ) -> Result<Self, EngineError> {
        if config.cpus == 0 || config.cpus > crate::MAX_CPUS {
            let most = crate::MAX_CPUS;
            return Err(EngineError::Unsupported(format!(
                "the engine 'soft' runs 1 to {most} processors, not {}",
                config.cpus
            )));
        }
        let sets = native::instruction_sets();
        let mut config = config.clone();
        config.cpu_model = config.cpu_model.with_instruction_sets(sets);
        let model = &config.cpu_model;
        let able = CpuModel::by_name("host").unwrap_or_default().with_instruction_sets(sets);
        let context = CpuidContext::after_reset(0);
        if model.basis == Basis::Model {
            EngineError::check_sets("soft", model, sets)?;
        }
        if model.basis == Basis::Exact {
            let lacking = model.identity().beyond(|function, index| able.leaf(function, index, &context));
            if !lacking.is_empty() {
                return Err(EngineError::Unsupported(format!(
                    "the engine 'soft' does not execute all that the machine's processor has: {}",
                    lacking.join(", ")
                )));
            }
        }
        let ram = Ram::new(memory, config.cpus)
            .map_err(|source| EngineError::Host { action: "set up guest memory", source })?;
        let gauges: Vec<_> = (0..config.cpus).map(|_| Arc::<Gauge>::default()).collect();
        let sampler = profile.is_sampled.then(|| Sampler::start(gauges.clone())).transpose();
        let sampler = sampler.map_err(|source| EngineError::Host { action: "start a thread", source })?;
        let jitdump = SharedJitDump::new(profile).map_err(|source| EngineError::Host {
            action: "write down translated code for perf in this folder",
            source,
        })?;
        let interrupts = Arc::new(Interrupts::new(config.cpus, Arc::clone(&config.clock)));
        Ok(Self {
            made: Mutex::new(vec![false; config.cpus as usize]),
            rendezvous: Arc::new(Rendezvous::new(config.cpus)),
            config,
            hot_code,
            jitdump,
            gauges,
            _sampler: sampler,
            ram: Arc::new(ram),
            events: Events::new(Arc::clone(&interrupts)),
            interrupts,
            doorbells: Arc::default(),
            is_logging: Mutex::default(),
        })
    }

    fn is_logging(&self) -> MutexGuard<'_, bool> {
        self.is_logging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes every processor ask again before it writes a page.
    fn forget_writable_pages(&self) {
        self.rendezvous.all(|| self.interrupts.notify_all());
    }
}

impl Vm for SoftVm {
    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, EngineError> {
        let n = index as usize;
        let Some(mailbox) = self.interrupts.mailbox(n) else {
            return Err(EngineError::Unsupported(format!("this machine has no processor {index}")));
        };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut made[n], true) {
            return Err(EngineError::Unsupported(format!("processor {index} exists already")));
        }
        let shared = Shared {
            ram: Arc::clone(&self.ram),
            interrupts: Arc::clone(&self.interrupts),
            doorbells: Arc::clone(&self.doorbells),
            rendezvous: Arc::clone(&self.rendezvous),
            gauge: Arc::clone(&self.gauges[n]),
            jitdump: self.jitdump.clone(),
        };
        let cpu = Cpu::new(self.config.cpu_model.clone());
        let abilities = Abilities { tsc_khz: cpu.model.tsc_khz, instruction_sets: cpu.instruction_sets };
        let make = |tlb, run_state| {
            let parts = (tlb, run_state);
            SoftEnvironment::new(shared, Arc::clone(mailbox), abilities, self.hot_code, parts)
        };
        let vcpu = SoftVcpu::new(cpu, make, index)
            .map_err(|source| EngineError::Host { action: "get memory for a processor", source })?;
        Ok(Box::new(vcpu))
    }

    fn set_irq_line(&self, gsi: u32, level: bool) {
        self.interrupts.set_line(gsi, level);
    }

    fn signal_msi(&self, address: u64, data: u32) {
        self.interrupts.send_msi(address, data);
    }

    fn reset(&self) {
        self.interrupts.reset();
        self.ram.replaced();
    }

    fn save(&self) -> Result<VmState, EngineError> {
        Ok(self.interrupts.save(self.config.cpu_model.identity()))
    }

    fn restore(&self, state: &VmState) -> Result<(), EngineError> {
        let (ours, theirs) = (self.interrupts.processors(), state.local_apics.len());
        if ours != theirs {
            return Err(EngineError::Unsupported(format!(
                "this machine has {ours} processors, and the state {theirs} local APICs"
            )));
        }
        self.interrupts.restore(state).map_err(|error| EngineError::Unsupported(error.to_string()))
    }
}

impl Wiring for SoftVm {
    fn attach_doorbell(&self, doorbell: &Doorbell, event: &EventFd) -> Result<(), EngineError> {
        self.doorbells.attach(doorbell, event)
    }

    fn detach_doorbell(&self, doorbell: &Doorbell, _event: &EventFd) -> Result<(), EngineError> {
        self.doorbells.detach(doorbell)
    }

    fn message_interrupt(&self) -> Result<Box<dyn MessageInterrupt>, EngineError> {
        self.events.message()
    }

    fn line_interrupt(&self, gsi: u32) -> Result<Box<dyn LineInterrupt>, EngineError> {
        self.events.line(gsi)
    }
}

/// An exit costs little here: nothing is gathered.
impl Coalescing for SoftVm {
    fn set_write_sink(&self, _sink: Box<WriteSink>) {}

    fn coalesce(&self, _range: WriteRange) -> Result<(), EngineError> {
        Ok(())
    }

    fn flush_writes(&self) {}
}

impl DirtyLog for SoftVm {
    fn start_dirty_log(&self) -> Result<(), EngineError> {
        let mut is_logging = self.is_logging();
        if std::mem::replace(&mut *is_logging, true) {
            return Err(EngineError::Unsupported("the log of written pages is kept already".into()));
        }
        self.ram.watches().for_each(|(_, watch)| watch.start());
        self.forget_writable_pages();
        Ok(())
    }

    fn take_dirty_log(&self) -> Result<Vec<DirtyRegion>, EngineError> {
        let is_logging = self.is_logging();
        if !*is_logging {
            return Err(EngineError::Unsupported("no log of written pages is kept: start it first".into()));
        }
        let region =
            |(start, watch): (u64, &tern_engine::WriteWatch)| DirtyRegion { start, bitmap: watch.take() };
        let regions = self.ram.watches().map(region).collect();
        self.forget_writable_pages();
        Ok(regions)
    }

    fn stop_dirty_log(&self) -> Result<(), EngineError> {
        *self.is_logging() = false;
        self.ram.watches().for_each(|(_, watch)| watch.stop());
        Ok(())
    }
}

/// All time is the machine's clock.
impl Standstill for SoftVm {
    fn pause_time(&self) -> Result<(), EngineError> {
        Ok(())
    }

    fn resume_time(&self) -> Result<(), EngineError> {
        Ok(())
    }
}
