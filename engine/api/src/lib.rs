//! The one boundary between a machine and the way its processors run.
//!
//! A machine (crate `tern-vmm`) is described once; an *engine* makes its processors run. The conversation is typed and
//! has no callbacks into the machine:
//!
//! ```text
//!            VmEntry (the answer)                 set_irq_line, signal_msi
//!   vmm ───────────────────────────▶ Vcpu::run        vmm ─────────────────▶ Vm
//!       ◀───────────────────────────
//!            VmExit (the question)
//! ```
//!
//! What an engine owns: the processors, the interrupt controllers and the interval timer (as the Linux kernel does for
//! KVM). What the machine owns: memory, and every other device. Processor state crosses as
//! [`tern_x86::state::VcpuState`], which is the same for every engine.
//!
//! To add an engine, implement [`Engine`], [`Vm`] and [`Vcpu`] in a crate of its own beside this one.

mod clock;
mod coalesce;
mod dirty;
mod engine;
mod exit;
mod host_clock;
mod mapping;
mod pause;
mod saved;
mod statistics;
mod thread;
mod ticks;
mod vm;
mod watch;
mod wiring;

pub use clock::Clock;
pub use coalesce::{Coalescing, GatheredWrite, WriteRange, WriteSink};
pub use dirty::{DirtyLog, DirtyRegion, LOG_PAGE};
pub use engine::{Availability, Engine, EngineError};
pub use exit::{VmEntry, VmExit};
pub use mapping::{HUGE_PAGE, advise_huge_pages, discard, map_memory};
pub use pause::Standstill;
pub use saved::VmState;
pub use statistics::{ExitKind, Statistics};
pub use tern_x86::cpuid::InstructionSets;
pub use thread::{THREAD_STACK, start_thread};
pub use ticks::TickLine;
pub use vm::{GuestMemory, Kick, Vcpu, Vm, VmConfig};
pub use vmm_sys_util::eventfd::EventFd;
pub use watch::{WatchSlice, WriteListener, WriteWatch};
pub use wiring::{Doorbell, DoorbellPlace, DoorbellValue, LineInterrupt, Message, MessageInterrupt, Wiring};
