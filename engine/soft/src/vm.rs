//! A virtual machine on the software engine.

use std::sync::{Arc, Mutex, PoisonError};

use tern_chipset::interrupt::Message;
use tern_engine::{EngineError, GuestMemory, Vcpu, Vm, VmConfig};
use tern_x86::cpu::Cpu;

use crate::environment::SoftEnvironment;
use crate::interrupts::Interrupts;
use crate::ram::Ram;
use crate::vcpu::SoftVcpu;

/// Memory, interrupt controllers, and which processors have been handed out.
pub struct SoftVm {
    config: VmConfig,
    ram: Arc<Ram>,
    interrupts: Arc<Interrupts>,
    made: Mutex<Vec<bool>>,
}

impl SoftVm {
    /// A machine without processors yet.
    ///
    /// # Errors
    /// Memory or processors are beyond what the engine or the host can do.
    pub fn new(config: &VmConfig, memory: GuestMemory) -> Result<Self, EngineError> {
        if config.cpus == 0 || config.cpus > crate::MAX_CPUS {
            let most = crate::MAX_CPUS;
            return Err(EngineError::Unsupported(format!(
                "the engine 'soft' runs 1 to {most} processors, not {}",
                config.cpus
            )));
        }
        let ram = Ram::new(memory, config.cpus)
            .map_err(|source| EngineError::Host { action: "set up guest memory", source })?;
        Ok(Self {
            config: config.clone(),
            ram: Arc::new(ram),
            interrupts: Arc::new(Interrupts::new(config.cpus, Arc::clone(&config.clock))),
            made: Mutex::new(vec![false; config.cpus as usize]),
        })
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
        let env =
            SoftEnvironment::new(Arc::clone(&self.ram), Arc::clone(&self.interrupts), Arc::clone(mailbox))
                .map_err(|source| EngineError::Host { action: "get memory for native code", source })?;
        let cpu = Cpu::new(self.config.cpu_model.clone());
        Ok(Box::new(SoftVcpu::new(cpu, env, index)))
    }

    fn set_irq_line(&self, gsi: u32, level: bool) {
        self.interrupts.set_line(gsi, level);
    }

    fn signal_msi(&self, address: u64, data: u32) {
        if let Some(message) = Message::from_msi(address, data) {
            self.interrupts.send(&message, None);
        }
    }

    fn reset(&self) {
        self.interrupts.reset();
        self.ram.replaced();
    }
}
