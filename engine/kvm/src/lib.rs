//! The KVM engine: the host's virtualization hardware, through the Linux kernel's `/dev/kvm`.
//!
//! The kernel runs the processors and owns the interrupt controllers and the interval timer; this crate connects them to
//! `tern-engine`'s traits and translates their state to and from `tern-x86`'s and `tern-chipset`'s types, the only form
//! in which state is saved or sent. It follows the kernel's `Documentation/virt/kvm/api.rst`.
//!
//! | file | what it is |
//! |---|---|
//! | `host` | `/dev/kvm` itself: opening it, what it offers, and the findings when it cannot be used |
//! | `trial` | the proof that it runs ordinary code: a tiny guest |
//! | `vm`, `vcpu` | the engine's side of `tern-engine`'s traits; entering the guest |
//! | `run_page` | the page that a processor shares with the kernel |
//! | `transfer` | port and memory accesses, answered piece by piece |
//! | `kick` | making a processor leave the guest |
//! | `wiring` | doorbells and interrupt events in the kernel |
//! | `gathered` | writes that the kernel gathers |
//! | `dirty` | guest memory, and the log of its written pages |
//! | `standstill` | the guest's time while the machine is paused |
//! | `kernel_statistics` | the kernel's own counters |
//! | `failure` | KVM's reasons for giving up, in words |
//! | `cpuid` | what the guest sees of the processor |
//! | `state` | a processor's state, to and from `VcpuState` |
//! | `chipset` | interrupt controllers and timer, to and from `tern-chipset`'s states |
//!
//! `unsafe` appears where memory is shared with the kernel, and where the kernel's unions are read.
#![allow(unsafe_code)]

pub mod chipset;
mod cpuid;
mod dirty;
mod failure;
mod gathered;
mod host;
mod kernel_statistics;
mod kick;
#[cfg(test)]
mod round_trip;
mod run_page;
mod standstill;
mod state;
mod transfer;
mod trial;
mod vcpu;
mod vm;
mod wiring;

use std::sync::{Arc, OnceLock};

use tern_engine::{Availability, Engine, EngineError, GuestMemory, Vm, VmConfig};

use tern_x86::cpuid::InstructionSets;

use host::{Finding, Host};
use vm::KvmVm;

/// The KVM engine.
#[derive(Debug, Clone, Copy, Default)]
pub struct KvmEngine;

impl Engine for KvmEngine {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn description(&self) -> &'static str {
        "the host's virtualization hardware, through Linux's /dev/kvm"
    }

    fn probe(&self) -> Availability {
        match usable() {
            Ok(_) => Availability::Available("/dev/kvm runs guest code on this host's processors".into()),
            Err(Finding { reason, remedy }) => Availability::Unavailable { reason, remedy },
        }
    }

    fn instruction_sets(&self) -> InstructionSets {
        usable().unwrap_or_default()
    }

    fn create_vm(&self, config: &VmConfig, memory: GuestMemory) -> Result<Arc<dyn Vm>, EngineError> {
        let unavailable =
            |Finding { reason, remedy }| EngineError::Unavailable { engine: self.name(), reason, remedy };
        usable().map_err(unavailable)?;
        let host = Host::open().map_err(unavailable)?;
        Ok(Arc::new(KvmVm::new(host, config, memory)?))
    }
}

/// Whether guests run here, and which instruction sets they can have then: found out once, because it does not change while the
/// process lives.
fn usable() -> Result<InstructionSets, Finding> {
    static FINDING: OnceLock<Result<InstructionSets, Finding>> = OnceLock::new();
    let find = || {
        let host = Host::open()?;
        let sets = vm::host_cpuid(&host).instruction_sets();
        trial::run(host).map(|()| sets)
    };
    FINDING.get_or_init(find).clone()
}
