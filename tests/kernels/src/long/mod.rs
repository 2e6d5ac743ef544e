//! 64-bit mode: an environment in which a test's instructions run at level 0 and, on request, at level 3.
//!
//! The guest is entered through PVH, switches to long mode, loads its tables and runs the test's instructions; at their
//! end it writes `DONE` to the debug-exit port. Every vector has a handler that reports (`handlers`) unless the test
//! brings its own. [`layout`] says where things are, [`tables`] what is in them.

mod handlers;
pub mod layout;
mod processors;
mod start;
pub mod tables;

use std::ops::{Deref, DerefMut};

use iced_x86::code_asm::{
    AsmRegister64, CodeAssembler, CodeLabel, dword_ptr, ecx, ptr, qword_ptr, r13d, rax, rcx, rsp,
};
use tern_soft::InstructionSets;
use tern_vmm::boot::KernelKind;
use tern_vmm::config::{CpuModel, DeviceConfig};

use crate::expect::{Expectations, Fault, vector};
use crate::guest::{Emit, Memory, assemble, place};
use crate::image::{Piece, pvh};
use crate::run::{Ended, MEMORY, Setup, check, run_on};
use layout::{IMAGE_END, variable};
use tables::Gate;

pub use layout::*;
pub use tables::{A, D, G, NX, P, PS, RW, US};

/// The vector by which user code comes back.
const BACK: u8 = 0x80;

/// A handler that a test brings.
#[derive(Debug, Clone, Copy)]
struct OwnHandler {
    vector: u8,
    label: CodeLabel,
    ist: u8,
    dpl: u8,
    trap: bool,
}

/// Rounds of a loop whose code an engine that translates surely has translated, and once more anew.
pub const HOT: u32 = 30_000;
/// Rounds of a loop whose code an engine that translates surely has translated.
pub const WARM: u32 = 300;

/// A guest in 64-bit mode, being written. It is an assembler with further methods.
pub struct Long {
    code: CodeAssembler,
    expectations: Expectations,
    memory: Memory,
    handlers: Vec<OwnHandler>,
    record: CodeLabel,
    /// What further processors do.
    others: Option<CodeLabel>,
    /// RFLAGS with which user code starts.
    pub user_flags: u32,
}

impl Deref for Long {
    type Target = CodeAssembler;

    fn deref(&self) -> &CodeAssembler {
        &self.code
    }
}

impl DerefMut for Long {
    fn deref_mut(&mut self) -> &mut CodeAssembler {
        &mut self.code
    }
}

/// Writes a guest with `write`, runs it on every engine and demands that it reports what it is said to.
///
/// # Panics
/// It does not, or its instructions cannot be encoded.
pub fn long(write: impl FnOnce(&mut Long) -> Emit) {
    long_with(1, write);
}

/// As [`long`], on a machine with `cpus` processors.
///
/// # Panics
/// As [`long`].
pub fn long_with(cpus: u32, write: impl FnOnce(&mut Long) -> Emit) {
    let (image, expectations) = build(write);
    check(&Setup { cpus, ..Setup::new(image, KernelKind::Elf) }, &expectations);
}

/// As [`long`], with the processor that the software engine makes of this host's; nothing happens on hosts that lack a part of
/// x86-64-v3, and on other engines, whose `host` is the host's own.
///
/// # Panics
/// As [`long`].
pub fn long_with_v3(write: impl FnOnce(&mut Long) -> Emit) {
    let v3 = InstructionSets::AVX
        | InstructionSets::AVX2
        | InstructionSets::FMA
        | InstructionSets::F16C
        | InstructionSets::BMI1
        | InstructionSets::BMI2
        | InstructionSets::LZCNT
        | InstructionSets::MOVBE;
    let on_soft = crate::engines().iter().all(|engine| engine.name() == "soft");
    if !on_soft || !tern_soft::instruction_sets().contains(v3) {
        return;
    }
    let (image, expectations) = build(write);
    let cpu_model = CpuModel::by_name("host").expect("there is such a model");
    check(&Setup { cpu_model, ..Setup::new(image, KernelKind::Elf) }, &expectations);
}

/// As [`long`], on a machine with these devices on its PCI bus.
///
/// # Panics
/// As [`long`].
pub fn long_with_devices(devices: fn() -> Vec<DeviceConfig>, write: impl FnOnce(&mut Long) -> Emit) {
    long_in_memory(MEMORY, devices, write);
}

/// As [`long_with_devices`], on a machine with this many bytes of memory.
///
/// # Panics
/// As [`long`].
pub fn long_in_memory(
    memory: u64,
    devices: fn() -> Vec<DeviceConfig>,
    write: impl FnOnce(&mut Long) -> Emit,
) {
    let (image, expectations) = build(write);
    check(&Setup { memory, devices, ..Setup::new(image, KernelKind::Elf) }, &expectations);
}

/// Writes a guest that does not come to an ordinary end, and says how it ended on every engine.
///
/// # Panics
/// Its instructions cannot be encoded.
pub fn long_ended(write: impl FnOnce(&mut Long) -> Emit) -> Vec<Ended> {
    let (image, _) = build(write);
    let setup = Setup::new(image, KernelKind::Elf);
    crate::engines().iter().map(|engine| run_on(&**engine, &setup)).collect()
}

/// The kernel file of a guest, and what it will report.
///
/// # Panics
/// Its instructions cannot be encoded.
pub fn build(write: impl FnOnce(&mut Long) -> Emit) -> (Vec<u8>, Expectations) {
    let mut code = CodeAssembler::new(64).expect("64 is a bitness");
    let record = code.create_label();
    let mut guest = Long {
        code,
        expectations: Expectations::default(),
        memory: Memory::default(),
        handlers: Vec::new(),
        record,
        others: None,
        user_flags: 2,
    };
    guest
        .assemble(write)
        .map_or_else(|error| panic!("cannot write the guest: {error}"), |image| (image, guest.expectations))
}

impl Long {
    fn assemble(&mut self, write: impl FnOnce(&mut Self) -> Emit) -> Result<Vec<u8>, iced_x86::IcedError> {
        tables::put_descriptors(&mut self.memory);
        tables::put_page_tables(&mut self.memory);
        let mut others = self.create_label();
        start::first_instructions(self, others)?;
        write(self)?;
        start::done(self)?;
        place(self, &mut others)?;
        processors::other_processor(self)?;
        handlers::record(self)?;
        let reporting = handlers::reporting(self)?;

        let assembled = assemble(&mut self.code, CODE);
        let code = assembled.inner.code_buffer.clone();
        assert!(CODE + (code.len() as u64) < GDT, "the guest is too long");
        let address = |label: &CodeLabel| assembled.label_ip(label).expect("every label has a place");
        let mut gates: Vec<Gate> = (0..=u8::MAX)
            .zip(&reporting)
            .map(|(vector, label)| {
                let dpl = if matches!(vector, vector::BP | vector::OF | BACK) { 3 } else { 0 };
                Gate { offset: address(label), ist: 0, dpl, trap: false }
            })
            .collect();
        for own in &self.handlers {
            let OwnHandler { ist, dpl, trap, .. } = *own;
            gates[usize::from(own.vector)] = Gate { offset: address(&own.label), ist, dpl, trap };
        }
        let mut memory = Memory::default();
        tables::put_gates(&mut memory, &gates);
        memory.put(START, start::switch_to_long_mode());
        memory.put(CODE, code);
        memory.append(&self.memory);
        memory.put(TRAMPOLINE, processors::trampoline());
        let pieces = [TRAMPOLINE..TRAMPOLINE + 0x1000, START..IMAGE_END, frame(0)..frame(FRAMES)];
        let pieces = pieces.map(|range| Piece { address: range.start, bytes: memory.range(range) });
        Ok(pvh(START as u32, &pieces))
    }

    /// Puts words into memory before the guest starts, by physical address: over the environment's tables or into a
    /// [`frame`].
    pub fn put(&mut self, address: u64, words: &[u64]) {
        self.memory.put_words(address, words);
    }

    /// Puts bytes into memory before the guest starts; see [`Long::put`].
    pub fn put_bytes(&mut self, address: u64, bytes: impl Into<Vec<u8>>) {
        self.memory.put(address, bytes);
    }

    /// Maps page `n` of the window with this entry of its page table.
    pub fn map(&mut self, n: u64, entry: u64) {
        self.put(WINDOW_TABLE + 8 * n, &[entry]);
    }

    /// Gives `label` the address of the next instruction.
    ///
    /// # Errors
    /// It has a place.
    pub fn place(&mut self, label: &mut CodeLabel) -> Emit {
        place(&mut self.code, label)
    }

    /// What is expected from here on belongs to this case, which is told if it is not seen.
    pub fn case(&mut self, case: &str) {
        self.expectations.case(case);
    }

    /// Reports `register`, which must be `value`. All registers and flags stay as they are.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    #[track_caller]
    pub fn expect(&mut self, register: AsmRegister64, value: u64) -> Emit {
        self.expectations.exactly(value);
        self.report(register)
    }

    /// Reports `register`, for which `condition` must hold.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    #[track_caller]
    pub fn expect_such(
        &mut self,
        register: AsmRegister64,
        condition: impl Fn(u64) -> bool + 'static,
    ) -> Emit {
        self.expectations.such(condition);
        self.report(register)
    }

    /// Reports the eight bytes at `address`, below 2 GiB, which must be `value`.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    #[track_caller]
    pub fn expect_memory(&mut self, address: u64, value: u64) -> Emit {
        self.expectations.exactly(value);
        self.push(rax)?;
        self.mov(rax, qword_ptr(address))?;
        self.report(rax)?;
        self.pop(rax)
    }

    fn report(&mut self, register: AsmRegister64) -> Emit {
        assert_ne!(register, rsp, "the stack pointer moves while it is reported");
        let record = self.record;
        self.push(rax)?;
        if register != rax {
            self.mov(rax, register)?;
        }
        self.call(record)?;
        self.pop(rax)
    }

    /// Demands that `body` ends by `fault` and goes on behind it, at level 0 with flags clear, the stack pointer as before
    /// and the other registers as the exception found them.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    #[track_caller]
    pub fn expect_fault(&mut self, fault: Fault, body: impl FnOnce(&mut Self) -> Emit) -> Emit {
        self.expectations.fault(fault);
        let (mut start, mut after) = (self.create_label(), self.create_label());
        self.catch(start, after)?;
        self.place(&mut start)?;
        body(self)?;
        handlers::no_exception(self)?;
        self.place(&mut after)
    }

    /// As [`Long::expect_fault`] for a `body` that runs in user mode.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    #[track_caller]
    pub fn expect_user_fault(&mut self, fault: Fault, body: impl FnOnce(&mut Self) -> Emit) -> Emit {
        self.expectations.fault(fault);
        self.enter_user(body)
    }

    /// Runs `body` in user mode and comes back with its registers.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    #[track_caller]
    pub fn user(&mut self, body: impl FnOnce(&mut Self) -> Emit) -> Emit {
        self.expectations.exactly(BACK.into());
        self.expectations.exactly(0);
        self.expectations.such(|_| true);
        self.enter_user(body)
    }

    fn enter_user(&mut self, body: impl FnOnce(&mut Self) -> Emit) -> Emit {
        let (mut start, mut after) = (self.create_label(), self.create_label());
        self.catch(start, after)?;
        self.push(i32::from(USER_DATA_SELECTOR))?;
        self.push(qword_ptr(variable::USER_STACK))?;
        let flags = i32::try_from(self.user_flags).expect("flags fit into 31 bits");
        self.push(flags)?;
        self.push(i32::from(USER_CODE_SELECTOR))?;
        self.push(rax)?;
        self.lea(rax, ptr(start))?;
        self.add(rax, qword_ptr(variable::USER_BASE))?;
        self.xchg(qword_ptr(rsp), rax)?;
        self.iretq()?;
        self.place(&mut start)?;
        body(self)?;
        self.int(i32::from(BACK))?;
        self.place(&mut after)
    }

    /// The next exception is reported, and execution goes on at `after`.
    fn catch(&mut self, start: CodeLabel, after: CodeLabel) -> Emit {
        self.push(rax)?;
        self.lea(rax, ptr(after))?;
        self.mov(qword_ptr(variable::CATCH_RIP), rax)?;
        self.lea(rax, ptr(start))?;
        self.mov(qword_ptr(variable::CATCH_START), rax)?;
        self.pop(rax)?;
        self.mov(qword_ptr(variable::CATCH_RSP), rsp)
    }

    /// Brings a handler for `vector`; it ends with IRETQ or does not return.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    pub fn handler(&mut self, vector: u8, body: impl FnOnce(&mut Self) -> Emit) -> Emit {
        self.handler_on(vector, 0, body)
    }

    /// As [`Long::handler`], on the stack of an entry of the interrupt stack table.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    pub fn handler_on(&mut self, vector: u8, ist: u8, body: impl FnOnce(&mut Self) -> Emit) -> Emit {
        let label = self.out_of_line(body)?;
        self.handlers.push(OwnHandler { vector, label, ist, dpl: 0, trap: false });
        Ok(())
    }

    /// Changes what the gate of the handler that was brought last permits: the level that may use it by INT, and whether
    /// interrupts stay as they are.
    ///
    /// # Panics
    /// No handler was brought.
    pub fn last_gate(&mut self, dpl: u8, trap: bool) {
        let last = self.handlers.last_mut().expect("a handler was brought");
        (last.dpl, last.trap) = (dpl, trap);
    }

    /// A loop of so many rounds, counted down in R13.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    pub fn rounds(&mut self, count: u32, body: impl FnOnce(&mut Self) -> Emit) -> Emit {
        let mut again = self.create_label();
        self.mov(r13d, count)?;
        self.place(&mut again)?;
        body(self)?;
        self.dec(r13d)?;
        self.jnz(again)
    }

    /// Lets time pass: `rounds` turns of a loop.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    pub fn spin(&mut self, rounds: u32) -> Emit {
        let mut again = self.create_label();
        self.push(rcx)?;
        self.mov(ecx, rounds)?;
        self.place(&mut again)?;
        self.pause()?;
        self.dec(ecx)?;
        self.jnz(again)?;
        self.pop(rcx)
    }

    /// Writes instructions that are not run here, and returns their label.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    pub fn out_of_line(
        &mut self,
        body: impl FnOnce(&mut Self) -> Emit,
    ) -> Result<CodeLabel, iced_x86::IcedError> {
        let (mut here, mut over) = (self.create_label(), self.create_label());
        self.jmp(over)?;
        self.place(&mut here)?;
        body(self)?;
        self.place(&mut over)?;
        Ok(here)
    }

    /// Puts compatibility-mode code of level 0, which ends with a far RET, into frame 0, and has a far pointer to it written to `pointer`:
    /// CALL by that runs it.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    pub fn narrow_code(&mut self, pointer: u64, code: impl Into<Vec<u8>>) -> Emit {
        self.put_bytes(frame(0), code);
        self.mov(dword_ptr(pointer), frame(0) as i32)?;
        self.mov(dword_ptr(pointer + 4), i32::from(CODE_32_SELECTOR))
    }

    /// Loads word `n` of the frame that the handler of the last exception found: 0 RIP, 1 CS, 2 RFLAGS, 3 RSP, 4 SS, and 5
    /// where the frame's RIP was.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    pub fn load_frame(&mut self, register: AsmRegister64, n: u64) -> Emit {
        self.mov(register, qword_ptr(variable::FRAME + 8 * n))
    }

    /// Reports word `n` of that frame, which must be `value`.
    ///
    /// # Errors
    /// The instructions cannot be encoded.
    #[track_caller]
    pub fn expect_frame(&mut self, n: u64, value: u64) -> Emit {
        self.expect_memory(variable::FRAME + 8 * n, value)
    }
}
