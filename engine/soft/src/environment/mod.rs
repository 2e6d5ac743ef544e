//! What surrounds a processor of the software engine: [`SoftEnvironment`] implements [`Environment`] on the host.
//!
//! | file | what it answers |
//! |---|---|
//! | `memory` | loads and stores: software TLB, page walk, page crossings |
//! | `device` | accesses that are not RAM: the engine's own controllers, and questions to the machine |
//! | `translation` | where translated code is, and what becomes hot |
//! | `unit_cache` | where it is, by the guest code's physical address |
//! | `large_pages` | what INVLPG must drop |
//! | `strikes` | when a page stops being one of code |
//! | `fetch` | where the next block is: translation of the instruction pointer, decoding |

mod device;
mod fetch;
mod large_pages;
mod memory;
mod strikes;
mod translation;
mod unit_cache;

pub use fetch::{execute, finish};
pub use memory::Answer;
pub use translation::HOT_PREDECESSOR;

use std::sync::Arc;

use iced_x86::Instruction;
use tern_engine::{Statistics, TickLine, VmExit};
use tern_x86::cpu::{Cpu, LazyFlags, Word};
use tern_x86::cpuid::InstructionSets;
use tern_x86::environment::{Environment, MsrAnswer, Stale, VectorOperand};
use tern_x86::exception::{Exception, Stop};
use tern_x86::state::{Cr0, Cr4, Msrs, Rflags, SegmentRegister};
use tern_x86::vector::VectorInfo;

use crate::HotCode;
use crate::blocks::{Blocks, JumpCache, SoftOp};
use crate::doorbells::Doorbells;
use crate::interrupts::{Interrupts, Mailbox};
use crate::native::NativeUnit;
use crate::profile::SharedJitDump;
use crate::profile::gauge::Gauge;
use crate::ram::Ram;
use crate::random::RandomSource;
use crate::rendezvous::Rendezvous;
use crate::stage::Seat;
use crate::time::TimeStampCounter;
use crate::tlb::{Tlb, View};
use crate::translator::{RunState, Translator, TrialPages};
use device::Conversation;
use large_pages::LargePages;
use strikes::Strikes;
use unit_cache::UnitCache;

/// What all processors of a machine share.
pub struct Shared {
    /// Guest memory.
    pub ram: Arc<Ram>,
    /// Interrupt controllers and interval timer.
    pub interrupts: Arc<Interrupts>,
    /// Writes that signal events.
    pub doorbells: Arc<Doorbells>,
    /// For the log of written pages.
    pub rendezvous: Arc<Rendezvous>,
    /// What the processor is at: its own.
    pub gauge: Arc<Gauge>,
    /// Where translated code is written down.
    pub jitdump: SharedJitDump,
}

/// What a processor's surroundings must know of its model.
#[derive(Debug, Clone, Copy)]
pub struct Abilities {
    /// The time-stamp counter's frequency in kHz.
    pub tsc_khz: u32,
    /// What it offers beyond x86-64-v2.
    pub instruction_sets: InstructionSets,
}

/// One processor's surroundings.
pub struct SoftEnvironment {
    ram: Arc<Ram>,
    instruction_sets: InstructionSets,
    /// How often a block is executed before it is translated, and how often once code has been dropped.
    hot_after: u32,
    hot_after_drop: u32,
    pub(crate) tlb: Seat<Tlb>,
    view: View,
    /// Accesses must be compared with the debug registers: nothing is looked up in the TLB.
    watching: bool,
    /// DR6 bits of data breakpoints that the running instruction has hit.
    pub(crate) watch_hits: u64,
    pub(crate) interrupts: Arc<Interrupts>,
    pub(crate) mailbox: Arc<Mailbox>,
    doorbells: Arc<Doorbells>,
    pub(crate) rendezvous: Arc<Rendezvous>,
    conversation: Conversation,
    native: NativeUnit,
    random: RandomSource,
    blocks: Blocks,
    jumps: JumpCache,
    units: UnitCache,
    fetch: fetch::FetchCache,
    /// Of code of level 3 and of other levels: moves on whenever translations of it change; part of every jump's context.
    epochs: [u64; 2],
    /// Since the last look something happened that no code may go on behind without one: a translation of addresses changed, code was
    /// dropped or is to be, or the interpreter left something for the run loop.
    pub(crate) unchained: bool,
    /// The operation behind the running block's last; null to stop behind the present one.
    pub(crate) block_end: *const SoftOp,
    /// The time-stamp counter, which deadlines must be converted with.
    pub(crate) tsc: TimeStampCounter,
    /// Where the guest was last given kvm-clock (KVM's register of that name).
    system_time: u64,
    /// Programs must not read the time-stamp counter (CR4.TSD).
    hides_time_stamps: bool,
    pub(crate) statistics: Statistics,
    /// What the processor is at.
    pub(crate) gauge: Arc<Gauge>,
    /// Hot code.
    pub(crate) translator: Translator,
    /// Where it is made, unless it is being used.
    desk: Option<Box<translation::Desk>>,
    /// Operations of the block that is decoded, or of the last one.
    decoded: Vec<SoftOp>,
    /// What translated code works with.
    pub(crate) translated: Seat<RunState>,
    /// The translator is full: all code is dropped as soon as none runs.
    must_drop_code: bool,
    /// The pages of a unit that runs on trial.
    trial: Option<TrialPages>,
    /// Large pages that translations are remembered of.
    large: LargePages,
    /// Pages with code that are written often.
    strikes: Strikes,
    /// How often the guest has waited in a loop.
    pauses: u32,
    /// How often code had been written when jump tables were looked at last.
    code_changes: u64,
}

// SAFETY: `block_end` is only meaningful while a block runs, on one thread; everything else is `Send` by itself.
unsafe impl Send for SoftEnvironment {}

impl SoftEnvironment {
    /// The surroundings of the processor that `mailbox` belongs to.
    ///
    /// # Errors
    /// The host gives no executable memory.
    pub fn new(
        shared: Shared,
        mailbox: Arc<Mailbox>,
        abilities: Abilities,
        hot_code: HotCode,
        (tlb, mut translated): (Seat<Tlb>, Seat<RunState>),
    ) -> std::io::Result<Self> {
        let Shared { ram, interrupts, doorbells, rendezvous, gauge, jitdump } = shared;
        translated.gauge = Arc::as_ptr(&gauge);
        translated.attention = mailbox.attention_flag();
        let translator = Translator::new(interrupts.processors(), hot_code, jitdump)?;
        translated.set_code_at_zero(translator.code_at_zero());
        Ok(Self {
            ram,
            instruction_sets: abilities.instruction_sets,
            hot_after: hot_code.after,
            hot_after_drop: hot_code.after_drop,
            tlb,
            view: View::Supervisor,
            watching: false,
            watch_hits: 0,
            blocks: Blocks::new(hot_code.share(interrupts.processors())),
            interrupts,
            mailbox,
            doorbells,
            rendezvous,
            conversation: Conversation::default(),
            native: NativeUnit::new()?,
            random: RandomSource::new(),
            jumps: JumpCache::new(),
            units: UnitCache::new(),
            fetch: fetch::FetchCache::new(),
            // No context is zero: `JumpCache` relies on it.
            epochs: [1; 2],
            unchained: false,
            block_end: std::ptr::null(),
            tsc: TimeStampCounter::new(abilities.tsc_khz),
            system_time: 0,
            hides_time_stamps: false,
            statistics: Statistics::default(),
            gauge,
            translated,
            translator,
            desk: None,
            decoded: Vec::new(),
            must_drop_code: false,
            pauses: 0,
            code_changes: 0,
            trial: None,
            strikes: Strikes::default(),
            large: LargePages::new(),
        })
    }

    /// The question that the last [`Stop::Exit`] stands for.
    pub fn take_exit(&mut self) -> Option<VmExit> {
        self.conversation.take_exit()
    }

    /// Notes the machine's answer to the last question.
    pub fn answer(&mut self, value: u64) {
        self.conversation.answer(value);
    }

    /// Where the view of memory is, in bytes from the start.
    pub(crate) const VIEW: usize = std::mem::offset_of!(Self, view);

    /// Adapts to registers that may have changed: what SYSCALL and SYSRET do, and the guest's clocks.
    pub fn update_registers(&mut self, cpu: &Cpu) {
        self.translated.fast_calls.update(cpu);
        let Msrs { tsc_offset, kvm_system_time, .. } = cpu.msrs;
        let hidden = cpu.cr4.contains(Cr4::TSD);
        if self.hides_time_stamps != hidden {
            self.hides_time_stamps = hidden;
            self.forget_time_line();
        }
        if self.tsc.offset == tsc_offset && self.system_time == kvm_system_time {
            return;
        }
        self.forget_time_line();
        self.tsc.offset = tsc_offset;
        self.system_time = kvm_system_time;
        let now = self.interrupts.clock().now();
        self.mailbox.poll_timer(now, self.tsc);
        self.tsc.publish(self.ram.memory(), kvm_system_time, now, self.interrupts.kvm_clock(now));
    }

    /// Translated code must ask for the time: the machine's clock may have stood still, or the guest's counter changed.
    pub fn forget_time_line(&mut self) {
        self.translated.time_stamps = TickLine::default();
    }

    /// Whether answers wait to be used by the next instruction.
    pub fn has_answers(&self) -> bool {
        self.conversation.has_answers()
    }

    /// The instruction that the answers were for is complete.
    pub fn forget_answers(&mut self) {
        self.conversation.clear();
    }

    /// Forgets which pages may be written; see `rendezvous`.
    pub fn forget_writable_pages(&mut self) {
        self.tlb.flush();
    }

    /// The number of blocks in the cache.
    pub fn cached_blocks(&self) -> usize {
        self.blocks.len()
    }

    fn forget_translations(&mut self) {
        self.translator.counters.flushes[0] += 1;
        self.tlb.flush();
        self.large.forget();
        self.forget_code_places();
    }

    /// From now on, what is written is written to copies.
    pub fn begin_trial(&mut self) {
        self.tlb.flush();
        self.trial = Some(TrialPages::default());
    }

    /// The second trial begins, from the same memory.
    pub fn rewind_trial(&mut self) {
        self.tlb.flush();
        if let Some(trial) = &mut self.trial {
            trial.rewind();
        }
    }

    /// Writes are for good again. Returns what the trials wrote.
    pub fn end_trial(&mut self) -> TrialPages {
        self.tlb.flush();
        self.trial.take().unwrap_or_default()
    }

    /// Whether other processors may write the same memory meanwhile.
    pub fn has_several_processors(&self) -> bool {
        !self.ram.readers().is_one()
    }

    /// Adapts to debug registers that may have changed.
    pub fn update_watching(&mut self, cpu: &Cpu) {
        // Each breakpoint has two enable bits, and two condition bits that are zero for instructions.
        let dr7 = cpu.dr7.bits();
        let data = (0..4).any(|n| dr7 >> (2 * n) & 3 != 0 && dr7 >> (16 + 4 * n) & 3 != 0);
        if data != self.watching {
            self.watching = data;
            self.tlb.flush();
        }
    }
}

/// After so many PAUSEs (some 50 microseconds) a processor leaves its thread's place to others: what the guest waits for may be
/// another processor's to do, and that has no place to run. The same idea as hardware's pause filter.
const PATIENCE: u32 = 2048;

/// Set in a vector instruction's handle if it reads or writes the arithmetic flags; stubs are far fewer than this.
const USES_FLAGS: u32 = 1 << 31;

fn view(cpu: &Cpu) -> View {
    let ac = cpu.system_flags.contains(Rflags::AC);
    match cpu.cpl {
        3 if ac && cpu.cr0.contains(Cr0::AM) => View::AlignedUser,
        3 => View::User,
        _ if ac => View::SupervisorAc,
        _ => View::Supervisor,
    }
}

impl Environment for SoftEnvironment {
    #[inline(always)]
    fn load<W: Word>(&mut self, cpu: &mut Cpu, segment: SegmentRegister, linear: u64) -> Result<W, Stop> {
        self.load_word(cpu, segment, linear)
    }

    #[inline(always)]
    fn store<W: Word>(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        value: W,
    ) -> Result<(), Stop> {
        self.store_word(cpu, segment, linear, value)
    }

    #[inline(always)]
    fn update<W: Word>(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        locked: bool,
        change: impl FnMut(W) -> Option<W>,
    ) -> Result<W, Stop> {
        self.update_word(cpu, segment, linear, locked, change)
    }

    fn update_16_bytes(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        change: impl FnMut(u128) -> Option<u128>,
    ) -> Result<u128, Stop> {
        self.update_pair(cpu, segment, linear, change)
    }

    #[inline]
    fn load_16_bytes(&mut self, cpu: &mut Cpu, segment: SegmentRegister, linear: u64) -> Result<u128, Stop> {
        self.load_pair(cpu, segment, linear)
    }

    #[inline]
    fn store_16_bytes(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        value: u128,
    ) -> Result<(), Stop> {
        self.store_pair(cpu, segment, linear, value)
    }

    fn load_system<W: Word>(&mut self, cpu: &mut Cpu, linear: u64) -> Result<W, Stop> {
        self.load_implicit(cpu, linear)
    }

    fn store_system<W: Word>(&mut self, cpu: &mut Cpu, linear: u64, value: W) -> Result<(), Stop> {
        self.store_implicit(cpu, linear, value)
    }

    fn load_bytes(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        bytes: &mut [u8],
    ) -> Result<(), Stop> {
        self.load_range(cpu, segment, linear, bytes)
    }

    fn store_bytes(
        &mut self,
        cpu: &mut Cpu,
        segment: SegmentRegister,
        linear: u64,
        bytes: &[u8],
    ) -> Result<(), Stop> {
        self.store_range(cpu, segment, linear, bytes)
    }

    fn copy_elements<W: Word>(&mut self, _: &mut Cpu, source: u64, destination: u64, count: u64) -> u64 {
        self.copy_within_pages::<W>(source, destination, count)
    }

    fn fill_elements<W: Word>(&mut self, _: &mut Cpu, destination: u64, value: W, count: u64) -> u64 {
        self.fill_within_page(destination, value, count)
    }

    fn retire(&mut self) {
        self.conversation.clear();
    }

    fn port_in(&mut self, port: u16, size: u8) -> Result<u32, Stop> {
        self.read_port(port, size)
    }

    fn port_out(&mut self, port: u16, size: u8, value: u32) -> Result<(), Stop> {
        self.write_port(port, size, value)
    }

    fn forget(&mut self, cpu: &Cpu, stale: Stale) {
        match stale {
            Stale::All => self.forget_translations(),
            Stale::Page(linear) if self.large.may_cover(linear) => self.forget_translations(),
            Stale::NonGlobal => {
                self.translator.counters.flushes[1] += 1;
                self.tlb.flush_local();
                self.forget_local_code_places();
            }
            Stale::Page(linear) => {
                self.tlb.flush_page(linear);
                if self.fetch.may_know(linear) {
                    self.forget_code_places();
                }
            }
            Stale::Privilege => {}
        }
        self.view = view(cpu);
        self.unchained = true;
    }

    fn fence(&mut self) {
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    }

    fn pause(&mut self) {
        std::hint::spin_loop();
        self.pauses = self.pauses.wrapping_add(1);
        if self.pauses.is_multiple_of(PATIENCE) {
            std::thread::yield_now();
        }
    }

    fn breakpoints_hit(&mut self, dr6: u64) {
        self.watch_hits |= dr6;
    }

    fn timestamp(&mut self) -> u64 {
        let (now, line) = self.interrupts.clock().now_and_line();
        let line = line.filter(|_| !self.hides_time_stamps).and_then(|line| self.tsc.line(line));
        self.translated.time_stamps = line.unwrap_or_default();
        self.tsc.base(now)
    }

    fn random(&mut self) -> u64 {
        self.random.next()
    }

    fn read_msr(&mut self, number: u32) -> MsrAnswer {
        self.read_apic_msr(number)
    }

    fn write_msr(&mut self, number: u32, value: u64) -> MsrAnswer {
        self.write_apic_msr(number, value)
    }

    fn task_priority(&mut self) -> u8 {
        self.mailbox.apic().cr8()
    }

    fn set_task_priority(&mut self, priority: u8) {
        self.mailbox.apic().set_cr8(priority);
        self.mailbox.notify();
    }

    fn apic_id(&self) -> u32 {
        self.mailbox.apic().id()
    }

    fn wake(&mut self, apic_id: u32) {
        self.interrupts.wake(apic_id);
    }

    fn send_interrupt(&mut self, apic_id: u32, icr: u32) -> bool {
        self.interrupts.send_one(apic_id, icr)
    }

    fn instruction_sets(&self) -> InstructionSets {
        self.instruction_sets
    }

    fn prepare_vector(&mut self, instruction: &Instruction, info: &VectorInfo) -> Option<u32> {
        let stub = self.native.prepare(instruction, info).ok()?;
        let flags = if info.flags_read || info.flags_written { USES_FLAGS } else { 0 };
        Some(stub.0 | flags)
    }

    #[inline]
    fn execute_vector(
        &mut self,
        cpu: &mut Cpu,
        handle: u32,
        operand: &mut VectorOperand,
    ) -> Result<(), Stop> {
        use crate::native::{Outcome, StubId};
        let uses_flags = handle & USES_FLAGS != 0;
        let mut flags = if uses_flags { cpu.flags.bits().bits() } else { 0 };
        let stub = StubId(handle & !USES_FLAGS);
        debug_assert!(
            !(self.translated.x87_loaded && self.native.uses_x87(stub)),
            "they are in translated code"
        );
        // SAFETY: the operand is 64 bytes, aligned to 64, and ours.
        let outcome =
            unsafe { self.native.run(stub, &mut cpu.fpu, &mut cpu.gpr, &mut flags, operand.0.as_mut_ptr()) };
        if uses_flags {
            cpu.flags = LazyFlags::from_bits(Rflags::from_bits_truncate(flags));
        }
        match outcome {
            Outcome::Completed => Ok(()),
            Outcome::SimdException => Err(cpu.raise(Exception::SIMD_FLOATING_POINT)),
            Outcome::X87Pending => Err(cpu.raise(Exception::FLOATING_POINT)),
            // The handler notes where it happened.
            Outcome::X87Exception { .. } => Ok(()),
        }
    }
}
