//! A virtual machine and its processors, as an engine gives them.

use std::sync::Arc;

use tern_x86::cpuid::CpuModel;
use tern_x86::state::VcpuState;
use vm_memory::GuestMemoryMmap;

use crate::{
    Clock, Coalescing, DirtyLog, EngineError, Standstill, Statistics, VmEntry, VmExit, VmState, Wiring,
    WriteWatch,
};

/// The guest's physical memory; cloning shares it.
pub type GuestMemory = GuestMemoryMmap<WriteWatch>;

/// What an engine must know to make a virtual machine.
#[derive(Debug, Clone)]
pub struct VmConfig {
    /// The processor that the guest sees.
    pub cpu_model: CpuModel,
    /// How many of them, at least 1. Processor `n` has APIC ID `n`.
    pub cpus: u32,
    /// The machine's clock.
    pub clock: Arc<Clock>,
}

/// A virtual machine: processors, interrupt controllers and interval timer.
pub trait Vm: Wiring + Coalescing + DirtyLog + Standstill + Send + Sync {
    /// Makes processor `index` (below [`VmConfig::cpus`]), in its reset state: the first runs, the others wait for a
    /// start-up interrupt. Each processor is made once and run by one thread at a time.
    ///
    /// # Errors
    /// The host refuses a resource, or there is no such processor.
    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, EngineError>;

    /// Drives input `gsi` of the interrupt controllers: 0 to 15 reach the 8259s and the IO-APIC, 16 to 23 the IO-APIC.
    fn set_irq_line(&self, gsi: u32, level: bool);

    /// Carries out a message-signalled interrupt: a write of `data` to `address` by a device.
    fn signal_msi(&self, address: u64, data: u32);

    /// Puts the interrupt controllers and the interval timer into their reset state, and takes notice that all of memory
    /// may have changed. No processor may be running.
    fn reset(&self);

    /// What the engine keeps of the machine, but for its processors' registers. The machine's time stands still
    /// ([`Standstill::pause_time`]) and nothing is half done ([`Vcpu::finish`]).
    ///
    /// # Errors
    /// The host refuses, or the machine has state that has no place in [`VmState`] or `VcpuState`.
    fn save(&self) -> Result<VmState, EngineError>;

    /// Replaces all that. It is called on a new machine of the same processors ([`CpuModel::exactly`]) whose clock stands
    /// still, after [`Vm::create_vcpu`] for each of them, and before they get their states.
    ///
    /// # Errors
    /// The state is no machine's, or the host refuses.
    fn restore(&self, state: &VmState) -> Result<(), EngineError>;
}

/// One processor.
pub trait Vcpu: Send {
    /// Runs until the machine must answer something. `entry` answers the exit before.
    ///
    /// # Errors
    /// The host failed, not the guest.
    fn run(&mut self, entry: VmEntry) -> Result<VmExit, EngineError>;

    /// Completes an instruction that waits for its answer, without beginning another: between this and the next run
    /// [`Vcpu::state`] is all there is. `entry` answers the exit before; a new exit is to be answered in the same way.
    ///
    /// # Errors
    /// The host failed, not the guest.
    fn finish(&mut self, entry: VmEntry) -> Result<Option<VmExit>, EngineError>;

    /// The processor's state between two runs.
    fn state(&self) -> VcpuState;

    /// Replaces the processor's state.
    fn set_state(&mut self, state: &VcpuState);

    /// A handle with which any thread can make [`Vcpu::run`] return.
    fn kicker(&self) -> Arc<dyn Kick>;

    /// What the processor has done so far.
    fn statistics(&self) -> Statistics;
}

/// Makes a processor leave the guest.
pub trait Kick: Send + Sync {
    /// Makes the present or, if there is none, the next [`Vcpu::run`] return [`VmExit::Kicked`] soon.
    fn kick(&self);
}
