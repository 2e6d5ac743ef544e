//! What surrounds a processor while it executes: memory, ports, time. Engines implement it; instructions only use it.

use iced_x86::Instruction;

use crate::cpu::{Cpu, Word};
use crate::cpuid::InstructionSets;
use crate::decode::Op;
use crate::exception::Stop;
use crate::state::SegmentRegister;
use crate::vector::VectorInfo;

/// Which cached translations became stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// All of them, global ones included.
    All,
    /// All but global ones (MOV to CR3).
    NonGlobal,
    /// Those of the page at this linear address, in the present address space and global.
    Page(u64),
    /// None of the translations, but who uses them: CPL, RFLAGS.AC (which opens user pages under SMAP, and demands
    /// alignment of user code under CR0.AM).
    Privilege,
}

/// An access to a model-specific register that the chipset owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MsrAnswer {
    /// The value read, or zero after a write.
    Done(u64),
    /// It exists and refuses: #GP(0).
    Refused,
    /// There is no such register out there.
    Unknown,
}

/// One processor's surroundings.
///
/// Every memory method takes a *linear* address, translates it with the processor's present paging state and privilege,
/// and either does the whole access or nothing: an access that crosses into a faulting page leaves the first page
/// untouched. Errors are [`Stop::Exception`] with the exception recorded in `cpu`, or [`Stop::Exit`] when a device must
/// answer; the instruction is then executed again from its start and the same access succeeds. `segment` only chooses
/// between #SS and #GP for a non-canonical address.
pub trait Environment: Sized + 'static {
    /// Reads memory; naturally aligned accesses are atomic.
    fn load<W: Word>(&mut self, cpu: &mut Cpu, segment: SegmentRegister, linear: u64) -> Result<W, Stop>;

    /// Writes memory; naturally aligned accesses are atomic.
    fn store<W: Word>(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        value: W,
    ) -> Result<(), Stop>;

    /// Reads memory, and writes `change(old)` back if it is `Some`. The page must be writable even where nothing is
    /// written. With `locked` the whole is atomic, and `change` may be called several times. Returns the old value.
    fn update<W: Word>(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        locked: bool,
        change: impl FnMut(W) -> Option<W>,
    ) -> Result<W, Stop>;

    /// [`Environment::update`] of 16 bytes, always atomic. `linear` is a multiple of 16.
    fn update_16_bytes(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        change: impl FnMut(u128) -> Option<u128>,
    ) -> Result<u128, Stop>;

    /// Reads 16 bytes. `linear` is a multiple of 16. Environments of processors that offer AVX make it one access, which
    /// software then relies on (APM volume 2, section 7.3.2).
    fn load_16_bytes(&mut self, cpu: &mut Cpu, segment: SegmentRegister, linear: u64) -> Result<u128, Stop> {
        let low = self.load::<u64>(cpu, segment, linear)?;
        let high = self.load::<u64>(cpu, segment, linear.wrapping_add(8))?;
        Ok(u128::from(low) | u128::from(high) << 64)
    }

    /// Writes 16 bytes, as [`Environment::load_16_bytes`] reads them.
    fn store_16_bytes(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        value: u128,
    ) -> Result<(), Stop> {
        self.store::<u64>(cpu, segment, linear, value as u64)?;
        self.store::<u64>(cpu, segment, linear.wrapping_add(8), (value >> 64) as u64)
    }

    /// Reads a system structure (descriptor table, TSS) with supervisor privilege whatever the CPL.
    fn load_system<W: Word>(&mut self, cpu: &mut Cpu, linear: u64) -> Result<W, Stop>;

    /// Writes a system structure with supervisor privilege whatever the CPL.
    fn store_system<W: Word>(&mut self, cpu: &mut Cpu, linear: u64, value: W) -> Result<(), Stop>;

    /// Reads `bytes.len()` (at most 4096) bytes.
    fn load_bytes(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        bytes: &mut [u8],
    ) -> Result<(), Stop>;

    /// Writes `bytes.len()` (at most 4096) bytes: all or none.
    fn store_bytes(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        bytes: &[u8],
    ) -> Result<(), Stop>;

    /// Fast path of REP MOVS: copies up to `count` ascending elements of type `W` as long as source and destination
    /// stay in one page each and are RAM, with the result that element-wise copying would have. Returns how many were
    /// copied; 0 tells the caller to go on element by element.
    fn copy_elements<W: Word>(&mut self, cpu: &mut Cpu, source: u64, destination: u64, count: u64) -> u64;

    /// Fast path of REP STOS: as [`Environment::copy_elements`].
    fn fill_elements<W: Word>(&mut self, cpu: &mut Cpu, destination: u64, value: W, count: u64) -> u64;

    /// One iteration of a repeated instruction is complete: answers from outside that it used are used up.
    fn retire(&mut self);

    /// Reads an I/O port; `size` is 1, 2 or 4 bytes. Permission was checked.
    fn port_in(&mut self, port: u16, size: u8) -> Result<u32, Stop>;

    /// Writes an I/O port; `size` is 1, 2 or 4 bytes. Permission was checked.
    fn port_out(&mut self, port: u16, size: u8, value: u32) -> Result<(), Stop>;

    /// Drops translations, or what is derived from the processor's privilege.
    fn forget(&mut self, cpu: &Cpu, stale: Stale);

    /// Orders this processor's earlier memory accesses before its later ones (MFENCE and serialising instructions).
    fn fence(&mut self);

    /// The guest waits in a loop (PAUSE): something that another processor does, most often.
    fn pause(&mut self) {}

    /// The running instruction accesses ports on which there are breakpoints: these bits of DR6 are due when it is
    /// complete. Breakpoints on memory are the environment's own to find.
    fn breakpoints_hit(&mut self, _dr6: u64) {}

    /// The time-stamp counter before the processor's own offset is added.
    fn timestamp(&mut self) -> u64;

    /// 64 random bits from the host's generator.
    fn random(&mut self) -> u64;

    /// Reads a register that the processor core does not have itself: the local APIC's.
    fn read_msr(&mut self, number: u32) -> MsrAnswer;

    /// Writes a register that the processor core does not have itself: the local APIC's.
    fn write_msr(&mut self, number: u32, value: u64) -> MsrAnswer;

    /// CR8: bits 7:4 of the local APIC's task priority.
    fn task_priority(&mut self) -> u8;

    /// Sets CR8; `priority` is 0 to 15.
    fn set_task_priority(&mut self, priority: u8);

    /// This processor's local APIC ID, which CPUID shows.
    fn apic_id(&self) -> u32;

    /// Wakes the processor with this APIC ID, should it be halted or halt next, without an interrupt.
    fn wake(&mut self, _apic_id: u32) {}

    /// Sends what the low half of a local APIC's ICR stands for to the processor with this APIC ID; whether there is one.
    fn send_interrupt(&mut self, _apic_id: u32, _icr: u32) -> bool {
        false
    }

    /// The instruction sets that the processor's model offers beyond x86-64-v2.
    fn instruction_sets(&self) -> InstructionSets {
        InstructionSets::empty()
    }

    /// Prepares a vector or x87 instruction for [`Environment::execute_vector`]; `None` refuses it, and it becomes #UD.
    fn prepare_vector(&mut self, instruction: &Instruction, info: &VectorInfo) -> Option<u32>;

    /// Executes an instruction prepared under `handle` on `cpu`'s registers. Its memory operand, if it has one, has been
    /// read into `operand` and is written back by the caller.
    fn execute_vector(&mut self, cpu: &mut Cpu, handle: u32, operand: &mut VectorOperand)
    -> Result<(), Stop>;
}

/// A memory operand on its way into or out of a vector instruction.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub struct VectorOperand(pub [u8; 64]);

/// A processor with its surroundings: what instructions execute on.
#[derive(Debug)]
pub struct Processor<E> {
    /// The processor.
    pub cpu: Cpu,
    /// Its surroundings.
    pub env: E,
}

/// The execution of one decoded operation.
pub type Handler<E> = fn(&mut Processor<E>, &Op<E>) -> Result<(), Stop>;
