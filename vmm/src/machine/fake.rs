//! An engine whose processors follow a script instead of executing code.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use tern_engine::{
    Availability, Coalescing, DirtyLog, DirtyRegion, Doorbell, DoorbellPlace, Engine, EngineError, EventFd,
    ExitKind, GuestMemory, Kick, LineInterrupt, MessageInterrupt, Standstill, Statistics, Vcpu, Vm, VmConfig,
    VmEntry, VmExit, VmState, Wiring, WriteRange, WriteSink,
};
use tern_x86::cpuid::InstructionSets;
use tern_x86::state::{Activity, VcpuState};

/// What a processor does next.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    /// It asks the machine.
    Exit(VmExit),
    /// The engine fails.
    Fail,
}

/// Remembers what the machine did with it.
#[derive(Default)]
pub(crate) struct FakeVm {
    lines: Mutex<Vec<(u32, bool)>>,
    doorbells: Mutex<Vec<DoorbellPlace>>,
    messages: Mutex<Vec<(u64, u32)>>,
    /// It has no room for doorbells.
    refuses: AtomicBool,
    resets: AtomicUsize,
    scripts: Mutex<Vec<VecDeque<Step>>>,
    /// Every answer to a question, and every state set, by processor.
    log: Mutex<Vec<(u32, Told)>>,
    in_guest: AtomicUsize,
    entered: Mutex<usize>,
    entry: Condvar,
}

/// What a processor was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    Value(u64),
    State { rip: u64, activity: Activity },
}

impl FakeVm {
    /// Every change of an interrupt line.
    pub(crate) fn lines(&self) -> Vec<(u32, bool)> {
        self.lines.lock().unwrap().clone()
    }

    /// Where there are doorbells.
    pub(crate) fn doorbells(&self) -> Vec<DoorbellPlace> {
        self.doorbells.lock().unwrap().clone()
    }

    /// The messages that were sent.
    pub(crate) fn messages(&self) -> Vec<(u64, u32)> {
        self.messages.lock().unwrap().clone()
    }

    /// Takes no more doorbells.
    pub(crate) fn refuse(&self) {
        self.refuses.store(true, Ordering::SeqCst);
    }

    pub(crate) fn resets(&self) -> usize {
        self.resets.load(Ordering::SeqCst)
    }

    pub(crate) fn log(&self) -> Vec<(u32, Told)> {
        self.log.lock().unwrap().clone()
    }

    /// How many processors are in the guest now.
    pub(crate) fn in_guest(&self) -> usize {
        self.in_guest.load(Ordering::SeqCst)
    }

    /// Waits until processors have entered the guest `count` times.
    pub(crate) fn wait_for_entries(&self, count: usize) {
        let entered = self.entered.lock().unwrap();
        drop(self.entry.wait_while(entered, |entered| *entered < count).unwrap());
    }

    fn note(&self, index: u32, told: Told) {
        self.log.lock().unwrap().push((index, told));
    }
}

impl Vm for FakeVm {
    fn create_vcpu(&self, _index: u32) -> Result<Box<dyn Vcpu>, EngineError> {
        unreachable!("processors are made by FakeMachine")
    }

    fn set_irq_line(&self, gsi: u32, level: bool) {
        self.lines.lock().unwrap().push((gsi, level));
    }

    fn signal_msi(&self, address: u64, data: u32) {
        self.messages.lock().unwrap().push((address, data));
    }

    fn save(&self) -> Result<VmState, EngineError> {
        none()
    }

    fn restore(&self, _: &VmState) -> Result<(), EngineError> {
        none()
    }

    fn reset(&self) {
        assert_eq!(self.in_guest(), 0, "a processor is running");
        self.resets.fetch_add(1, Ordering::SeqCst);
    }
}

/// What the machine sees.
struct FakeMachine(Arc<FakeVm>);

impl Vm for FakeMachine {
    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, EngineError> {
        let script = std::mem::take(&mut self.0.scripts.lock().unwrap()[index as usize]);
        let state = VcpuState::reset();
        Ok(Box::new(FakeVcpu {
            index,
            vm: Arc::clone(&self.0),
            script,
            state,
            kick: Arc::default(),
            asked: false,
        }))
    }

    fn set_irq_line(&self, gsi: u32, level: bool) {
        self.0.set_irq_line(gsi, level);
    }

    fn signal_msi(&self, address: u64, data: u32) {
        self.0.signal_msi(address, data);
    }

    fn save(&self) -> Result<VmState, EngineError> {
        none()
    }

    fn restore(&self, _: &VmState) -> Result<(), EngineError> {
        none()
    }

    fn reset(&self) {
        self.0.reset();
    }
}

/// What a script cannot ask for.
fn none<T>() -> Result<T, EngineError> {
    Err(EngineError::Unsupported("the script has no such thing".into()))
}

impl FakeVm {
    fn attach(&self, doorbell: &Doorbell) -> Result<(), EngineError> {
        if self.refuses.load(Ordering::SeqCst) {
            return none();
        }
        self.doorbells.lock().unwrap().push(doorbell.place);
        Ok(())
    }

    fn detach(&self, doorbell: &Doorbell) {
        self.doorbells.lock().unwrap().retain(|place| *place != doorbell.place);
    }
}

impl FakeMachine {
    fn attach(&self, doorbell: &Doorbell) -> Result<(), EngineError> {
        self.0.attach(doorbell)
    }

    fn detach(&self, doorbell: &Doorbell) {
        self.0.detach(doorbell);
    }
}

macro_rules! nothing_else {
    ($vm:ty) => {
        impl Wiring for $vm {
            fn attach_doorbell(&self, doorbell: &Doorbell, _: &EventFd) -> Result<(), EngineError> {
                self.attach(doorbell)
            }

            fn detach_doorbell(&self, doorbell: &Doorbell, _: &EventFd) -> Result<(), EngineError> {
                self.detach(doorbell);
                Ok(())
            }

            fn message_interrupt(&self) -> Result<Box<dyn MessageInterrupt>, EngineError> {
                none()
            }

            fn line_interrupt(&self, _: u32) -> Result<Box<dyn LineInterrupt>, EngineError> {
                none()
            }
        }

        impl Coalescing for $vm {
            fn set_write_sink(&self, _: Box<WriteSink>) {}

            fn coalesce(&self, _: WriteRange) -> Result<(), EngineError> {
                Ok(())
            }

            fn flush_writes(&self) {}
        }

        impl DirtyLog for $vm {
            fn start_dirty_log(&self) -> Result<(), EngineError> {
                none()
            }

            fn take_dirty_log(&self) -> Result<Vec<DirtyRegion>, EngineError> {
                none()
            }

            fn stop_dirty_log(&self) -> Result<(), EngineError> {
                none()
            }
        }

        impl Standstill for $vm {
            fn pause_time(&self) -> Result<(), EngineError> {
                Ok(())
            }

            fn resume_time(&self) -> Result<(), EngineError> {
                Ok(())
            }
        }
    };
}

nothing_else!(FakeVm);
nothing_else!(FakeMachine);

pub(crate) struct FakeEngine(pub(crate) Arc<FakeVm>);

impl FakeEngine {
    /// Processors that follow these scripts and then spin, with interrupts off, until they are kicked out.
    pub(crate) fn new<const N: usize>(scripts: [&[Step]; N]) -> Self {
        let scripts = scripts.into_iter().map(|script| script.iter().copied().collect()).collect();
        Self(Arc::new(FakeVm { scripts: Mutex::new(scripts), ..FakeVm::default() }))
    }
}

impl Engine for FakeEngine {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn description(&self) -> &'static str {
        "a script"
    }

    fn probe(&self) -> Availability {
        Availability::Available(String::new())
    }

    fn instruction_sets(&self) -> InstructionSets {
        InstructionSets::empty()
    }

    fn create_vm(&self, _config: &VmConfig, _memory: GuestMemory) -> Result<Arc<dyn Vm>, EngineError> {
        Ok(Arc::new(FakeMachine(Arc::clone(&self.0))))
    }
}

struct FakeVcpu {
    index: u32,
    vm: Arc<FakeVm>,
    script: VecDeque<Step>,
    state: VcpuState,
    kick: Arc<FakeKick>,
    asked: bool,
}

#[derive(Default)]
struct FakeKick {
    kicked: Mutex<bool>,
    told: Condvar,
}

impl Kick for FakeKick {
    fn kick(&self) {
        *self.kicked.lock().unwrap() = true;
        self.told.notify_one();
    }
}

impl FakeVcpu {
    fn follow(&mut self) -> Result<VmExit, EngineError> {
        let mut kicked = self.kick.kicked.lock().unwrap();
        if !std::mem::take(&mut *kicked) {
            match self.script.pop_front() {
                Some(Step::Exit(exit)) => {
                    self.asked = matches!(exit, VmExit::PortIn { .. } | VmExit::MmioRead { .. });
                    return Ok(exit);
                }
                Some(Step::Fail) => return Err(EngineError::Unsupported("the script says so".into())),
                None => {
                    kicked = self.kick.told.wait_while(kicked, |kicked| !*kicked).unwrap();
                    *kicked = false;
                }
            }
        }
        Ok(VmExit::Kicked)
    }
}

impl Vcpu for FakeVcpu {
    fn run(&mut self, entry: VmEntry) -> Result<VmExit, EngineError> {
        match (std::mem::take(&mut self.asked), entry) {
            (true, VmEntry::Value(value)) => self.vm.note(self.index, Told::Value(value)),
            (false, VmEntry::Resume) => {}
            (asked, entry) => panic!("asked: {asked}, but entered with {entry:?}"),
        }
        self.vm.in_guest.fetch_add(1, Ordering::SeqCst);
        *self.vm.entered.lock().unwrap() += 1;
        self.vm.entry.notify_all();
        let exit = self.follow();
        self.vm.in_guest.fetch_sub(1, Ordering::SeqCst);
        exit
    }

    fn finish(&mut self, entry: VmEntry) -> Result<Option<VmExit>, EngineError> {
        if std::mem::take(&mut self.asked)
            && let VmEntry::Value(value) = entry
        {
            self.vm.note(self.index, Told::Value(value));
        }
        Ok(None)
    }

    fn state(&self) -> VcpuState {
        self.state.clone()
    }

    fn set_state(&mut self, state: &VcpuState) {
        self.vm.note(self.index, Told::State { rip: state.rip, activity: state.activity });
        self.state = state.clone();
        self.asked = false;
    }

    fn kicker(&self) -> Arc<dyn Kick> {
        Arc::<FakeKick>::clone(&self.kick)
    }

    fn statistics(&self) -> Statistics {
        let mut statistics = Statistics { instructions: 1, ..Statistics::default() };
        statistics.count(ExitKind::Kicked);
        statistics
    }
}
