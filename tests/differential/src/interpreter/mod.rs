//! The interpreter's side: a virtual machine on the software engine whose processor executes the code at privilege
//! level 3, surrounded by as much of an operating system as Linux lets user code see.
//!
//! Every interrupt gate leads to a stub that writes to the port with the vector's number: that exit ends the case, and the
//! frame on the privileged stack says where. The code is written into its pages by the guest itself, because an engine
//! need not notice what the host changes in code.

mod system;

use std::sync::Arc;

use anyhow::{Context, Result};
use tern_engine::{Clock, Engine, GuestMemory, Vcpu, Vm, VmConfig, VmEntry, VmExit};
use tern_soft::{SoftEngine, Translation};
use tern_x86::cpuid::CpuModel;
use tern_x86::state::{Rflags, VcpuState};
use vm_memory::{Address, GuestAddress, GuestMemoryBackend};

use crate::case::{Case, Extent};
use crate::layout::{CODE, MEMORY_SIZE, Memory};
use crate::registers::{End, Event, Outcome, RCX, RDI, RSI, RSP, Registers};

/// Whether all code that runs (and is not stepped) is translated.
#[must_use]
pub fn translates() -> bool {
    SoftEngine::from_environment().translation() == Translation::On
}

/// A virtual machine in which code is executed.
pub struct Interpreter {
    vcpu: Box<dyn Vcpu>,
    _vm: Arc<dyn Vm>,
    memory: GuestMemory,
    /// The privileged state that copies code.
    copier: VcpuState,
    /// The state of user code, but for its registers.
    user: VcpuState,
}

impl Interpreter {
    /// Makes the machine.
    ///
    /// # Errors
    /// The engine cannot run here.
    pub fn new() -> Result<Self> {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), system::RAM_SIZE)])
            .context("cannot get memory for the guest")?;
        let cpu_model = CpuModel::by_name("host").context("there is no model 'host'")?;
        let config = VmConfig { cpu_model, cpus: 1, clock: Arc::new(Clock::new()) };
        let engine = SoftEngine::from_environment();
        let engine = if translates() { engine.eager() } else { engine };
        let vm = engine.create_vm(&config, memory.clone())?;
        let vcpu = vm.create_vcpu(0)?;
        let mut interpreter =
            Self { vcpu, _vm: vm, memory, copier: system::privileged_state(), user: system::user_state() };
        for (physical, bytes) in system::image() {
            interpreter.bytes_mut(physical, bytes.len()).copy_from_slice(&bytes);
        }
        Ok(interpreter)
    }

    /// Executes a case.
    ///
    /// # Errors
    /// The engine failed on the host's side.
    pub fn run(&mut self, case: &Case) -> Result<Outcome> {
        let (code, rest) = case.memory.split_at(CODE.size());
        self.bytes_mut(system::STAGING, code.len()).copy_from_slice(code);
        self.bytes_mut(system::MEMORY + code.len() as u64, rest.len()).copy_from_slice(rest);
        self.copy_code()?;

        self.set_user(&case.before, case.extent);
        self.vcpu.set_state(&self.user);
        let exit = self.vcpu.run(VmEntry::Resume)?;
        let state = self.vcpu.state();
        Ok(match exit {
            VmExit::PortOut { port, size: 1, .. } if state.cpl == 0 && port < 256 => {
                self.exception(port as u8, &state)
            }
            _ => Outcome {
                end: End::Unexpected(format!("{exit:x?} at privilege level {}", state.cpl)),
                registers: registers(&state, state.rip, state.rflags.bits(), state.gpr[RSP]),
            },
        })
    }

    /// The memory as the guest sees it.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        // SAFETY: guest RAM has that many bytes there; the processor is not running.
        unsafe { &*self.host(system::MEMORY, MEMORY_SIZE).cast() }
    }

    fn bytes_mut(&mut self, physical: u64, size: usize) -> &mut [u8] {
        // SAFETY: guest RAM has that many bytes there; the processor is not running, and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.host(physical, size), size) }
    }

    /// The host's address of `size` bytes of guest RAM.
    fn host(&self, physical: u64, size: usize) -> *mut u8 {
        let end = GuestAddress(physical).checked_add(size as u64);
        assert!(end.is_some_and(|end| end.raw_value() <= system::RAM_SIZE as u64), "inside guest RAM");
        self.memory.get_host_address(GuestAddress(physical)).expect("guest RAM starts at 0")
    }

    /// Lets the guest copy the code from the staging area to its pages.
    fn copy_code(&mut self) -> Result<()> {
        self.copier.gpr[RSI] = system::linear(system::STAGING);
        self.copier.gpr[RDI] = system::linear(system::MEMORY);
        self.copier.gpr[RCX] = CODE.size() as u64 / 8;
        self.vcpu.set_state(&self.copier);
        let exit = self.vcpu.run(VmEntry::Resume)?;
        let done = matches!(exit, VmExit::PortOut { port: system::COPIED, .. });
        anyhow::ensure!(done, "the guest could not copy the code: {exit:x?} in {:#x?}", self.vcpu.state());
        Ok(())
    }

    fn set_user(&mut self, before: &Registers, extent: Extent) {
        let user = &mut self.user;
        user.gpr = before.gpr;
        user.rip = before.rip;
        user.rflags = Rflags::from_bits_retain(before.rflags);
        user.rflags.set(Rflags::TF, extent == Extent::Step);
        user.segments[system::FS].base = before.fs_base;
        user.segments[system::GS].base = before.gs_base;
        user.fpu = before.fpu;
    }

    /// Reads the frame that the delivery of `vector` pushed.
    fn exception(&mut self, vector: u8, state: &VcpuState) -> Outcome {
        let words = if has_error_code(vector) { 6 } else { 5 };
        let rsp = state.gpr[RSP];
        if rsp != system::linear(system::STACK_TOP) - 8 * words {
            let end =
                End::Unexpected(format!("vector {vector} was delivered to a stack pointer of {rsp:#x}"));
            return Outcome { end, registers: registers(state, state.rip, state.rflags.bits(), rsp) };
        }
        let frame = self.bytes_mut(system::STACK_TOP - 40, 40);
        let word = |n: usize| u64::from_le_bytes(std::array::from_fn(|byte| frame[8 * n + byte]));
        let registers = registers(state, word(0), word(2), word(3));
        let error_code = if has_error_code(vector) { self.error_code() } else { 0 };
        let address = if vector == 14 { state.cr2 } else { 0 };
        Outcome { end: End::Event(Event { vector, error_code, address }), registers }
    }

    fn error_code(&mut self) -> u64 {
        let bytes = self.bytes_mut(system::STACK_TOP - 48, 8);
        u64::from_le_bytes(std::array::from_fn(|n| bytes[n]))
    }
}

/// The vectors that push an error code (APM volume 2, table 8-1).
const fn has_error_code(vector: u8) -> bool {
    matches!(vector, 8 | 10..=14 | 17 | 21 | 29 | 30)
}

fn registers(state: &VcpuState, rip: u64, rflags: u64, rsp: u64) -> Registers {
    let mut gpr = state.gpr;
    gpr[RSP] = rsp;
    let base = |register: usize| state.segments[register].base;
    Registers { gpr, rip, rflags, fs_base: base(system::FS), gs_base: base(system::GS), fpu: state.fpu }
}
