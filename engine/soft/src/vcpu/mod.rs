//! One processor of the software engine: the run loop.
//!
//! ```text
//!   ┌────────────────────────────────────────────────────────────────────────────┐
//!   ▼                                                                            │
//! events, interrupts, time ──▶ block at RIP ──▶ execute ──▶ successor linked? ───┤
//!   │        │                     │               │           yes: execute it   │
//!   │ halted │ kicked              │ #PF           │ Stop                        │
//!   ▼        ▼                     ▼               ▼                             │
//! sleep    VmExit::Kicked     deliver exception, or VmExit, or go on ────────────┘
//! ```
//!
//! Whatever needs a look after each instruction (single-step, breakpoints, answers from outside, the shadow of STI) takes
//! the slow way, one operation at a time.

mod execution;
mod lockstep;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tern_chipset::Time;
use tern_engine::{EngineError, ExitKind, Kick, Statistics, Vcpu, VmEntry, VmExit};
use tern_x86::cpu::Cpu;
use tern_x86::decode::OpFlags;
use tern_x86::environment::{Environment, Processor, Stale};
use tern_x86::exception::{Exception, Stop, Vector};
use tern_x86::exec::system::instruction_breakpoints_hit;
use tern_x86::exec::transfer::{Interrupt, deliver_exception, deliver_interrupt};
use tern_x86::state::{self, Activity, Dr6, Rflags, VcpuState};

use crate::environment::SoftEnvironment;
use crate::interrupts::event;
use crate::profile::gauge::Work;
use crate::stage::{Seat, Stage};
use crate::tlb::Tlb;
use crate::translator::RunState;

/// Guest instructions between two looks at the clock: some tens of microseconds, or more where all is interpreted.
const POLL_INTERVAL: u64 = 16384;

/// How much sooner a look after so many instructions is, up to a sixteenth. What is sampled at these looks would else be the same
/// place of a loop each time, if its instructions happened to divide the interval.
const fn less(instructions: u64) -> u64 {
    const SIXTEENTH: u32 = POLL_INTERVAL.trailing_zeros() - 4;
    instructions.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (u64::BITS - SIXTEENTH)
}

/// What an exception, or a part of a repeated instruction, counts for in [`POLL_INTERVAL`].
pub const STOP_WEIGHT: u64 = 64;

/// Something whose delivery to the guest was interrupted by a question to the machine.
#[derive(Debug, Clone, Copy)]
enum Delivery {
    Exception(Exception),
    Interrupt(u8, Interrupt),
}

/// One processor.
pub struct SoftVcpu {
    p: Stage,
    index: usize,
    /// The last exit was a question; the next entry answers it.
    asked: bool,
    /// A delivery to be tried again.
    unfinished: Option<Delivery>,
    /// Another processor said not to halt, or not the next time.
    woken: bool,
    /// An interrupt may wait for RFLAGS.IF.
    window: bool,
    /// At how many instructions the clock is looked at next.
    next_poll: u64,
    slept: Duration,
    /// In lockstep, what the translator and the interpreter differ in.
    disagreement: Option<String>,
}

impl SoftVcpu {
    /// Processor `index` with the surroundings that `make` makes, in its reset state.
    ///
    /// # Errors
    /// The host gives no memory.
    pub fn new(
        cpu: Cpu,
        make: impl FnOnce(Seat<Tlb>, Seat<RunState>) -> std::io::Result<SoftEnvironment>,
        index: u32,
    ) -> std::io::Result<Self> {
        let mut vcpu = Self {
            p: Stage::new(|tlb, run_state| Ok(Processor { cpu, env: make(tlb, run_state)? }))?,
            index: index as usize,
            asked: false,
            unfinished: None,
            woken: false,
            window: false,
            next_poll: 0,
            slept: Duration::ZERO,
            disagreement: None,
        };
        let mut state = VcpuState::reset();
        if index != 0 {
            state.activity = Activity::WaitForSipi;
        }
        vcpu.set_state(&state);
        Ok(vcpu)
    }

    fn run_guest(&mut self) -> VmExit {
        loop {
            let p = &mut *self.p;
            p.env.look_for_changes(self.index);
            p.env.update_registers(&p.cpu);
            if (self.p.env.mailbox.attention() || self.window && self.interruptible() || self.nmi_due())
                && let Some(exit) = self.attend()
            {
                return exit;
            }
            if self.p.env.statistics.instructions >= self.next_poll {
                self.poll_time();
                continue;
            }
            let ran = match self.p.cpu.activity {
                Activity::Running => self.run_some(),
                Activity::Shutdown => return VmExit::TripleFault,
                Activity::Halted if std::mem::take(&mut self.woken) => {
                    self.p.cpu.activity = Activity::Running;
                    continue;
                }
                Activity::Halted | Activity::WaitForSipi => {
                    self.sleep();
                    continue;
                }
            };
            if let Err(exit) = ran {
                return exit;
            }
        }
    }

    /// Executes until something must be looked at.
    fn run_some(&mut self) -> Result<(), VmExit> {
        if let Some(delivery) = self.unfinished.take() {
            return self.deliver(delivery);
        }
        if let Some(exception) = self.p.cpu.deferred.take() {
            // Each delivery may defer the next one, without an instruction between them.
            self.next_poll = self.next_poll.saturating_sub(STOP_WEIGHT);
            return self.deliver(Delivery::Exception(exception));
        }
        let cpu = &self.p.cpu;
        let careful = cpu.pending.interrupt_shadow
            || cpu.system_flags.contains(Rflags::TF)
            || cpu.breakpoints_enabled()
            || self.p.env.has_answers();
        if careful {
            return self.step();
        }
        self.p.cpu.system_flags.remove(Rflags::RF);
        match self.run_blocks() {
            Ok(()) => Ok(()),
            Err(stop) => self.stopped(stop),
        }
    }

    /// Executes one operation, with everything that may have to happen around it.
    fn step(&mut self) -> Result<(), VmExit> {
        let p = &mut *self.p;
        let mut traps = p.cpu.system_flags.contains(Rflags::TF);
        let resume = p.cpu.system_flags.contains(Rflags::RF);
        p.env.update_watching(&p.cpu);
        p.env.watch_hits = 0;
        // What a load of SS has met is due behind this instruction, also where this one is INT n and enters a handler; an exception of
        // this one's own takes its place.
        let before = p.cpu.pending;
        if p.cpu.breakpoints_enabled() && !resume && before.debug_shadow.is_none() {
            let hits = instruction_breakpoints_hit(&p.cpu, p.cpu.linear_rip());
            if hits != 0 {
                // The handler's first instruction may meet one, too.
                self.next_poll = self.next_poll.saturating_sub(STOP_WEIGHT);
                return self.deliver(Delivery::Exception(Exception::debug(hits)));
            }
        }
        p.cpu.pending.interrupt_shadow = false;
        p.cpu.pending.debug_shadow = None;
        // INT n pushes flags without it, and what IRET sets is for the instruction that it returns to.
        p.cpu.system_flags.remove(Rflags::RF);
        match Self::interpret_one(p) {
            Ok(op) => {
                let clears = op.flags.contains(OpFlags::CLEARS_TF_AT_ONCE);
                traps &= !clears || p.cpu.system_flags.contains(Rflags::TF);
                traps &= !p.cpu.steps_by_branches() || op.has_branched(&p.cpu);
                p.env.statistics.instructions += 1;
                p.env.forget_answers();
            }
            // One iteration of a repeated instruction counts as an instruction for the debugger, but for its own breakpoint.
            Err(Stop::Restart) => {
                traps &= !p.cpu.steps_by_branches();
                p.cpu.system_flags.set(Rflags::RF, resume);
            }
            Err(stop) => {
                // General detect does not set RF, as other faults do, and leaves it as it was.
                let detected = stop == Stop::Exception && p.cpu.exception.vector == Vector::Db;
                if stop == Stop::Exit || detected {
                    p.cpu.system_flags.set(Rflags::RF, resume);
                }
                if stop == Stop::Exit {
                    p.cpu.pending = before;
                }
                return self.stopped(stop);
            }
        }
        // The instruction may have switched breakpoints off.
        p.env.update_watching(&p.cpu);
        let hits = std::mem::take(&mut p.env.watch_hits);
        if let (None, Some(held)) = (before.debug_shadow, &mut p.cpu.pending.debug_shadow) {
            *held = hits;
            return Ok(());
        }
        let single_step = if traps { Dr6::BS.bits() } else { 0 };
        match hits | before.debug_shadow.unwrap_or(0) | single_step {
            0 => Ok(()),
            hits => self.deliver(Delivery::Exception(Exception::debug(hits))),
        }
    }

    fn stopped(&mut self, stop: Stop) -> Result<(), VmExit> {
        self.next_poll = self.next_poll.saturating_sub(STOP_WEIGHT);
        match stop {
            Stop::Exception => {
                self.p.env.forget_answers();
                self.deliver(Delivery::Exception(self.p.cpu.exception))
            }
            Stop::Restart => Ok(()),
            Stop::Exit => Err(self.question()),
        }
    }

    fn question(&mut self) -> VmExit {
        match self.p.env.take_exit() {
            Some(exit) => {
                self.asked = true;
                exit
            }
            // One instruction asked for more than any can need.
            None => {
                self.p.cpu.activity = Activity::Shutdown;
                VmExit::TripleFault
            }
        }
    }

    fn deliver(&mut self, delivery: Delivery) -> Result<(), VmExit> {
        let p = &mut *self.p;
        p.env.statistics.count(match delivery {
            Delivery::Exception(_) => ExitKind::Exception,
            Delivery::Interrupt(..) => ExitKind::Interrupt,
        });
        // An interrupt may come right behind the instruction that enabled them.
        if p.cpu.breakpoints_enabled() {
            p.env.update_watching(&p.cpu);
        }
        p.env.watch_hits = 0;
        let delivered = match delivery {
            Delivery::Exception(exception) => deliver_exception(p, exception),
            Delivery::Interrupt(vector, kind) => match deliver_interrupt(p, vector, kind) {
                Err(Stop::Exception) => {
                    let second = p.cpu.exception;
                    deliver_exception(p, second)
                }
                other => other,
            },
        };
        match delivered {
            Err(Stop::Exit) => {
                self.unfinished = Some(delivery);
                Err(self.question())
            }
            _ => {
                p.env.forget_answers();
                let hits = std::mem::take(&mut p.env.watch_hits);
                if hits != 0 {
                    // What was pushed is told of before the handler's first instruction.
                    let debug = p.cpu.deferred.get_or_insert(Exception::debug(hits));
                    if debug.vector == Vector::Db {
                        debug.payload |= hits;
                    }
                }
                Ok(())
            }
        }
    }

    fn interruptible(&self) -> bool {
        self.p.cpu.system_flags.contains(Rflags::IF) && !self.p.cpu.pending.interrupt_shadow
    }

    fn nmi_due(&self) -> bool {
        let pending = &self.p.cpu.pending;
        pending.nmi && !pending.nmi_blocked && !pending.interrupt_shadow
    }

    /// Takes what has come for the processor itself; whether that was a kick.
    fn receive(&mut self) -> bool {
        let mailbox = Arc::clone(&self.p.env.mailbox);
        mailbox.take_attention();
        if self.p.env.rendezvous.catch_up(self.index) {
            self.p.env.forget_writable_pages();
        }
        let events = mailbox.take_events();
        if events & event::INIT != 0 {
            mailbox.apic().init();
            self.replace_state(&self.p.cpu.state().after_init());
        }
        if events & event::STARTUP != 0 && self.p.cpu.activity == Activity::WaitForSipi {
            self.replace_state(&self.p.cpu.state().after_sipi(mailbox.startup_vector()));
        }
        if events & event::NMI != 0 {
            self.p.cpu.pending.nmi = true;
        }
        self.woken |= events & event::WAKE != 0;
        events & event::KICK != 0
    }

    /// Looks at everything that may have come from outside.
    fn attend(&mut self) -> Option<VmExit> {
        let kicked = self.receive();
        let mailbox = Arc::clone(&self.p.env.mailbox);
        if kicked {
            mailbox.notify();
            return Some(VmExit::Kicked);
        }
        let delivering = self.unfinished.is_some() || self.p.cpu.deferred.is_some();
        if self.p.cpu.activity == Activity::WaitForSipi || delivering || self.p.env.has_answers() {
            self.window = true;
            return None;
        }
        if self.nmi_due() {
            self.p.cpu.pending.nmi = false;
            // What came with it is looked for behind it.
            self.window = true;
            return self.interrupt(Vector::Nmi as u8, Interrupt::Nmi);
        }
        self.window = self.p.env.interrupts.pending(&mailbox);
        if self.window
            && self.interruptible()
            && let Some(vector) = self.p.env.interrupts.acknowledge(&mailbox)
        {
            return self.interrupt(vector, Interrupt::External);
        }
        None
    }

    fn interrupt(&mut self, vector: u8, kind: Interrupt) -> Option<VmExit> {
        self.p.cpu.activity = Activity::Running;
        self.deliver(Delivery::Interrupt(vector, kind)).err()
    }

    fn poll_time(&mut self) {
        let instructions = self.p.env.statistics.instructions;
        self.next_poll = instructions + POLL_INTERVAL - less(instructions);
        let now = self.p.env.interrupts.clock().now();
        if self.index == 0 {
            self.p.env.interrupts.poll_pit(now);
        }
        if now >= self.p.env.mailbox.deadline() {
            self.p.env.mailbox.poll_timer(now, self.p.env.tsc);
        }
    }

    /// Waits for something to happen.
    fn sleep(&mut self) {
        self.p.env.statistics.count(ExitKind::Halt);
        let began = Instant::now();
        self.poll_time();
        let mut deadline = self.p.env.mailbox.deadline();
        if self.index == 0 {
            deadline = deadline.min(self.p.env.interrupts.pit_deadline());
        }
        let left = deadline - self.p.env.interrupts.clock().now();
        // A paused machine's clock stands still; whoever pauses it kicks.
        let timeout = (deadline != Time::from_nanos(u64::MAX)).then(|| Duration::from_nanos(left.as_nanos()));
        self.p.env.gauge.set(Work::Outside);
        self.p.env.rest(self.index);
        self.p.env.mailbox.sleep(timeout);
        self.p.env.gauge.set(Work::Interpreting);
        self.poll_time();
        self.slept += began.elapsed();
    }

    /// Takes over a state without touching what waits outside.
    fn replace_state(&mut self, state: &VcpuState) {
        let Processor { cpu, env } = &mut *self.p;
        cpu.set_state(state);
        env.update_registers(cpu);
        env.forget(cpu, Stale::All);
        env.update_watching(cpu);
        env.forget_answers();
        self.woken = state.pending.woken;
        self.unfinished = match state.pending.delivery {
            Some(state::Delivery::Interrupt { vector }) => {
                Some(Delivery::Interrupt(vector, Interrupt::External))
            }
            Some(state::Delivery::Nmi) => Some(Delivery::Interrupt(Vector::Nmi as u8, Interrupt::Nmi)),
            // Exceptions are `Cpu::deferred`.
            Some(state::Delivery::Exception { .. }) | None => None,
        };
    }

    /// Takes the answer to the last question, and does `what` among the machine's running processors.
    fn among_running<T>(&mut self, entry: VmEntry, what: impl FnOnce(&mut Self) -> T) -> T {
        if std::mem::take(&mut self.asked) {
            self.p.env.answer(match entry {
                VmEntry::Resume => 0,
                VmEntry::Value(value) => value,
            });
        }
        let (began, slept) = (Instant::now(), self.slept);
        if self.p.env.rendezvous.enter(self.index) {
            self.p.env.forget_writable_pages();
        }
        self.p.env.look_for_changes(self.index);
        // The machine's clock may have stood still.
        self.p.env.forget_time_line();
        self.p.env.gauge.set(Work::Interpreting);
        let result = what(self);
        self.p.env.gauge.set(Work::Outside);
        self.p.env.rest(self.index);
        self.p.env.rendezvous.leave(self.index);
        let busy = began.elapsed().saturating_sub(self.slept - slept);
        let statistics = &mut self.p.env.statistics;
        statistics.busy_nanoseconds += u64::try_from(busy.as_nanos()).unwrap_or(u64::MAX);
        result
    }

    /// Executes while there are answers that nothing has used.
    fn use_answers(&mut self) -> Option<VmExit> {
        while self.p.env.has_answers() {
            if let Err(exit) = self.run_some() {
                return Some(exit);
            }
        }
        if self.receive() {
            self.p.env.mailbox.kick();
        }
        // What else has come is looked for later.
        self.window = true;
        None
    }
}

impl Vcpu for SoftVcpu {
    fn run(&mut self, entry: VmEntry) -> Result<VmExit, EngineError> {
        let exit = self.among_running(entry, Self::run_guest);
        if let Some(disagreement) = self.disagreement.take() {
            return Err(EngineError::Unsupported(disagreement));
        }
        if exit == VmExit::Kicked {
            self.p.env.statistics.count(ExitKind::Kicked);
        }
        Ok(exit)
    }

    fn finish(&mut self, entry: VmEntry) -> Result<Option<VmExit>, EngineError> {
        Ok(self.among_running(entry, Self::use_answers))
    }

    fn state(&self) -> VcpuState {
        let mut state = self.p.cpu.state();
        state.pending.woken = self.woken;
        match self.unfinished {
            Some(Delivery::Exception(Exception { vector, error_code, .. })) => {
                let delivery = state::Delivery::Exception { vector: vector as u8, error_code };
                state.pending.delivery = Some(delivery);
            }
            Some(Delivery::Interrupt(_, Interrupt::Nmi)) => {
                state.pending.delivery = Some(state::Delivery::Nmi);
            }
            Some(Delivery::Interrupt(vector, _)) => {
                state.pending.delivery = Some(state::Delivery::Interrupt { vector });
            }
            None => {}
        }
        state
    }

    fn set_state(&mut self, state: &VcpuState) {
        self.asked = false;
        self.window = true;
        self.replace_state(state);
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::clone(&self.p.env.mailbox) as Arc<dyn Kick>
    }

    fn statistics(&self) -> Statistics {
        let mut statistics = self.p.env.statistics.clone();
        statistics.engine.push(("blocks", self.p.env.cached_blocks() as u64));
        statistics.engine.push(("translated-bytes", self.p.env.translator.used() as u64));
        statistics.engine.extend(self.p.env.translator.named(&self.p.env.translated));
        statistics.engine.extend(self.p.env.gauge.named());
        statistics
    }
}
