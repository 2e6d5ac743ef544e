//! What machines rely on from an engine, tested at the boundary itself: a few instructions on one processor, and the test
//! in the place of the machine.
//!
//! Guests run in real mode from [`CODE`]. They tell the test how far they are by writes to [`TELL`], which every engine
//! hands out as exits. Between 640 KiB and 1 MiB there is no memory, so that device memory is within real mode's reach.
//!
//! The tests run on `soft`, and on `kvm` where it can run: `cargo xtask rig kvm --put <test program> -- <its name>`.

#![forbid(unsafe_code)]

use std::sync::Arc;

use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;
use tern_engine::{Availability, Clock, Engine, GuestMemory, Vcpu, Vm, VmConfig, VmEntry, VmExit};
use tern_x86::cpuid::CpuModel;
use tern_x86::state::{Segment, VcpuState};
use vm_memory::{Bytes, GuestAddress};

/// Where guests' code begins.
pub const CODE: u16 = 0x7c00;
/// Where guests' stacks begin; they grow down.
pub const STACK: u16 = 0x7000;
/// The port at which guests tell something: one byte.
pub const TELL: u16 = 0xf4;
/// Device memory.
pub const DEVICE: u64 = 0xb_8000;
/// Bytes of memory below and above the devices.
pub const LOW_MEMORY: usize = 0xa_0000;
/// Where memory goes on.
pub const HIGH_MEMORY: u64 = 0x10_0000;

/// A machine with one processor.
pub struct Subject {
    /// The engine's name.
    pub engine: &'static str,
    /// Its memory.
    pub memory: GuestMemory,
    /// Its clock, which runs.
    pub clock: Arc<Clock>,
    /// The machine.
    pub vm: Arc<dyn Vm>,
    /// The processor, at [`CODE`].
    pub vcpu: Box<dyn Vcpu>,
}

impl Subject {
    /// Runs on after a write, until the guest writes [`TELL`]; gives the byte.
    ///
    /// # Panics
    /// The guest does something else.
    pub fn told(&mut self) -> u8 {
        match self.vcpu.run(VmEntry::Resume).expect("the engine does its work") {
            VmExit::PortOut { port: TELL, size: 1, data } => u8::try_from(data).expect("a byte"),
            other => panic!("on {}: the guest was to tell something, but {other:?}", self.engine),
        }
    }
}

/// Runs `test` on every engine that can run here, with the guest that `program` writes.
///
/// # Panics
/// The test does, or the guest cannot be assembled.
pub fn on_every_engine(
    program: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>,
    mut test: impl FnMut(Subject),
) {
    let mut assembler = CodeAssembler::new(16).expect("16 bits are a mode");
    program(&mut assembler).expect("the guest's instructions exist");
    let code = assembler.assemble(CODE.into()).expect("the guest can be assembled");
    let engines: [&dyn Engine; 2] = [&tern_soft::SoftEngine::from_environment(), &tern_kvm::KvmEngine];
    for engine in engines {
        match engine.probe() {
            Availability::Available(_) => test(subject(engine, &code)),
            Availability::Unavailable { reason, .. } => {
                eprintln!("not on {}: {reason}", engine.name());
            }
        }
    }
}

fn subject(engine: &dyn Engine, code: &[u8]) -> Subject {
    let ranges = [(GuestAddress(0), LOW_MEMORY), (GuestAddress(HIGH_MEMORY), 0x10_0000)];
    let memory = GuestMemory::from_ranges(&ranges).expect("the host has two mebibytes");
    memory.write_slice(code, GuestAddress(CODE.into())).expect("the guest fits");
    let clock = Arc::new(Clock::new());
    let config = VmConfig { cpu_model: CpuModel::default(), cpus: 1, clock: Arc::clone(&clock) };
    let vm = engine.create_vm(&config, memory.clone()).expect("the engine makes a machine");
    let mut vcpu = vm.create_vcpu(0).expect("the engine makes a processor");
    let mut state = VcpuState { rip: CODE.into(), ..VcpuState::reset() };
    state.segments[1] = Segment { attributes: state.segments[1].attributes, ..Segment::real_mode(0) };
    state.gpr[4] = STACK.into();
    vcpu.set_state(&state);
    Subject { engine: engine.name(), memory, clock, vm, vcpu }
}
