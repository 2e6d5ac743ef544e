//! The software engine: a machine's processors in an ordinary process, without virtualization hardware or privileges.
//!
//! Guest code is decoded once into blocks of operations, which are then executed one after the other. What instructions
//! mean is `tern-x86`'s; this crate makes them fast and connects them to the host.
//!
//! | file | what it is |
//! |---|---|
//! | `vm`, `vcpu` | the engine's side of `tern-engine`'s traits; the run loop |
//! | `blocks` | decoded code and how it is found again |
//! | `environment` | what surrounds a processor: memory, devices, fetching |
//! | `tlb` | from linear pages to host addresses |
//! | `ram` | guest memory in the host, and which of it was decoded |
//! | `host` | the host instructions that access guest memory |
//! | `native` | vector and x87 instructions, executed by the host's own units |
//! | `interrupts` | interrupt controllers and interval timer, shared by the processors |
//! | `doorbells`, `wiring` | events out of the guest, and into it |
//! | `rendezvous` | making every processor forget which pages it may write, for the log of written pages |
//!
//! A translator for hot code will be a room of its own here, beside `blocks`, and will enter from the run loop.
//!
//! `unsafe` appears where guest memory, decoded blocks and native code are reached by address.
#![allow(unsafe_code)]

mod blocks;
mod doorbells;
mod environment;
mod host;
mod interrupts;
mod native;
mod ram;
mod random;
mod rendezvous;
mod time;
mod tlb;
mod vcpu;
mod vm;
mod wiring;

use std::sync::Arc;

use tern_engine::{Availability, Engine, EngineError, GuestMemory, Vm, VmConfig};

/// The most processors of a machine.
pub const MAX_CPUS: u32 = 64;

/// The software engine.
#[derive(Debug, Clone, Copy, Default)]
pub struct SoftEngine;

impl Engine for SoftEngine {
    fn name(&self) -> &'static str {
        "soft"
    }

    fn description(&self) -> &'static str {
        "an ordinary process; needs no virtualization hardware and no privileges"
    }

    fn probe(&self) -> Availability {
        if let Err(missing) = native::host_supports() {
            return Availability::Unavailable {
                reason: format!("this host's processor lacks {}", missing.join(", ")),
                remedy: "Use a host with an x86-64-v2 processor (any since about 2009).".into(),
            };
        }
        match native::NativeUnit::new() {
            Ok(_) => Availability::Available("interprets guest code on any x86-64-v2 host".into()),
            Err(error) => Availability::Unavailable {
                reason: format!("the host gives no executable memory: {error}"),
                remedy: "Allow it in the security policy (SELinux execmem, or a noexec /dev/shm or memfd)."
                    .into(),
            },
        }
    }

    fn create_vm(&self, config: &VmConfig, memory: GuestMemory) -> Result<Arc<dyn Vm>, EngineError> {
        if let Availability::Unavailable { reason, remedy } = self.probe() {
            return Err(EngineError::Unavailable { engine: self.name(), reason, remedy });
        }
        Ok(Arc::new(SoftVm::new(config, memory)?))
    }
}

use vm::SoftVm;
