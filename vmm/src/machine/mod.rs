//! The machine as a whole, and its life.
//!
//! ```text
//!  Machine::new: memory, devices, processors, guest loaded
//!       │ run                    ┌────────────┐
//!       ▼                pause   │            │ reset: processors stopped, devices and interrupt controllers reset,
//!    Running ◀──────────────────▶ Paused      │ memory cleared, guest loaded again
//!       │  ▲             resume               │
//!       │  └──────────────────────────────────┘
//!       ▼ power-off, reboot (OnReboot::End), debug exit, crash, stop, departure, failure
//!    Outcome, or Departed: what it takes to go on elsewhere (Machine::arrive)
//! ```
//!
//! The thread that calls [`Machine::run`] directs: it waits for events, which come from the processors' threads and from
//! [`MachineHandle`]s. Processors answer their own exits; only what concerns the whole machine comes here.

mod crew;
#[cfg(test)]
pub(crate) mod fake;
#[cfg(test)]
mod tests;
mod vcpu;

use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::{Duration, Instant};

use thiserror::Error;

use tern_chipset::{InvalidState, Time};
use tern_engine::{Clock, Engine, EngineError, GuestMemory, Statistics, Vcpu, Vm, VmConfig, start_thread};
use tern_x86::cpuid::CpuModel;
use tern_x86::state::VcpuState;

use crate::bus::Request;
use crate::config::{ConfigError, MachineConfig, OnReboot};
use crate::console::ConsoleInput;
use crate::crash::CrashReport;
pub use crate::device::DeviceError;
use crate::device::{Devices, Surroundings};
pub use crate::firmware::LoadError;
use crate::firmware::load_guest;
use crate::memory::{self, MemoryError};
use crate::saved::{Departed, MachineState};
use crate::schedule::Schedule;
use crew::Crew;
use vcpu::Notice;

/// Why there is no machine, or no longer.
#[derive(Debug, Error)]
pub enum MachineError {
    /// There can be no such machine.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The guest cannot be put into the machine.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The host gives no memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The engine cannot run the machine, or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The state that was to go on is no machine's.
    #[error("the machine's state is damaged")]
    State(#[from] InvalidState),
    /// It is another machine's.
    #[error("the state is of a machine with {state} processors, not {machine}")]
    Processors {
        /// How many it is of.
        state: usize,
        /// How many the machine has.
        machine: u32,
    },
    /// It cannot have its devices.
    #[error(transparent)]
    Devices(#[from] DeviceError),
    /// The host gives no thread.
    #[error("cannot start a thread: raise the limit (`ulimit -u`), or give the machine fewer processors")]
    Thread(#[source] std::io::Error),
}

/// How a machine ended.
#[derive(Debug)]
pub enum End {
    /// The guest switched it off.
    PowerOff,
    /// The guest asked for a reboot, under [`OnReboot::End`].
    Reboot,
    /// The guest ended it with this status, `(value << 1) | 1` in eight bits.
    DebugExit(u8),
    /// The guest crashed, or the engine gave up on it.
    Crash(Box<CrashReport>),
    /// It was stopped by [`MachineHandle::stop`].
    Stopped,
    /// It left by [`MachineHandle::depart`], to go on elsewhere.
    Departed(Box<Departed>),
}

/// As [`End`], before the machine is taken apart.
enum Ending {
    Here(End),
    Elsewhere(Box<MachineState>),
}

/// What is known after a run.
#[derive(Debug)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// What its processors did, added up.
    pub statistics: Statistics,
    /// How long it ran, pauses included.
    pub wall: Duration,
}

/// What the directing thread hears.
#[derive(Debug)]
enum Event {
    /// From the processor with this number.
    Vcpu(u32, Notice),
    /// Stop the processors and the clock; tell when it is done.
    Pause(SyncSender<()>),
    /// Go on.
    Resume,
    /// End.
    Stop,
    /// End here, to go on elsewhere.
    Depart,
    /// Somebody pressed the power button.
    PowerButton,
}

/// A machine that has not begun to run.
pub struct Machine {
    config: MachineConfig,
    memory: GuestMemory,
    clock: Arc<Clock>,
    schedule: Arc<Schedule>,
    vm: Arc<dyn Vm>,
    vcpus: Vec<Box<dyn Vcpu>>,
    devices: Arc<Devices>,
    /// The first processor's, unless all have theirs already.
    first_state: Option<VcpuState>,
    events: (Sender<Event>, Receiver<Event>),
}

impl Machine {
    /// Makes a machine on `engine` and loads its guest. The console's output goes to `output`, which may wait for whoever
    /// reads it, and the guest with it.
    ///
    /// # Errors
    /// The configuration is impossible, the guest does not fit, or the host or the engine refuse something.
    pub fn new(
        config: MachineConfig,
        engine: &dyn Engine,
        output: impl Write + Send + 'static,
    ) -> Result<Self, MachineError> {
        config.validate()?;
        let memory = memory::create(config.memory, config.pages)?;
        let first_state = load_guest(&config, &memory)?;
        let cpu_model = config.cpu_model.clone().with_cpus(config.cpus);
        let machine = Self::assemble(config, cpu_model, memory, Time::ZERO, engine, output)?;
        Ok(Self { first_state: Some(first_state), ..machine })
    }

    /// Lets a machine that has left another engine, or another machine of this one, go on here, with its console's output
    /// to `output`.
    ///
    /// # Errors
    /// The engine cannot be what the machine ran on, the state is no machine's, or the host refuses something.
    pub fn arrive(
        departed: Departed,
        engine: &dyn Engine,
        output: impl Write + Send + 'static,
    ) -> Result<Self, MachineError> {
        let Departed { config, memory, state } = departed;
        if state.vcpus.len() != config.cpus as usize {
            return Err(MachineError::Processors { state: state.vcpus.len(), machine: config.cpus });
        }
        let cpu_model = CpuModel::exactly(&state.vm.identity);
        let mut machine = Self::assemble(config, cpu_model, memory, state.time, engine, output)?;
        // Lines first: what the controllers made of them follows.
        machine.devices.restore(&state.devices)?;
        machine.vm.restore(&state.vm)?;
        for (vcpu, state) in machine.vcpus.iter_mut().zip(&state.vcpus) {
            vcpu.set_state(state);
        }
        Ok(machine)
    }

    /// The machine with all its parts, and nothing in them.
    fn assemble(
        config: MachineConfig,
        cpu_model: CpuModel,
        memory: GuestMemory,
        time: Time,
        engine: &dyn Engine,
        output: impl Write + Send + 'static,
    ) -> Result<Self, MachineError> {
        let clock = Arc::new(Clock::paused_at(time));
        let vm_config = VmConfig { cpu_model, cpus: config.cpus, clock: Arc::clone(&clock) };
        let vm = engine.create_vm(&vm_config, memory.clone())?;
        let vcpus = (0..config.cpus).map(|index| vm.create_vcpu(index)).collect::<Result<_, _>>()?;
        let schedule = Schedule::new(Arc::clone(&clock));
        schedule.pause();
        let devices = Devices::new(Surroundings {
            vm: Arc::clone(&vm),
            clock: Arc::clone(&clock),
            schedule: Arc::clone(&schedule),
            output: Box::new(output),
            memory: memory.clone(),
            memory_size: config.memory,
            debug_exit: config.debug_exit,
            pci: &config.devices,
        })?;
        Ok(Self {
            config,
            memory,
            clock,
            schedule,
            vm,
            vcpus,
            devices: Arc::new(devices),
            first_state: None,
            events: channel(),
        })
    }

    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> MachineHandle {
        MachineHandle { events: self.events.0.clone() }
    }

    /// Where what is typed goes.
    #[must_use]
    pub fn console_input(&self) -> ConsoleInput {
        ConsoleInput(Arc::clone(&self.devices.console))
    }

    /// Runs the machine until it ends.
    ///
    /// # Errors
    /// The host gives no threads, or the engine fails.
    pub fn run(self) -> Result<Outcome, MachineError> {
        let started = Instant::now();
        let Self { config, memory, clock, schedule, vm, vcpus, devices, first_state, events } = self;
        let crew = Crew::start(vcpus, &devices, &clock, events).map_err(MachineError::Thread)?;
        let timer = Arc::clone(&schedule);
        let timer = start_thread("timer", move || timer.run()).map_err(MachineError::Thread)?;
        let mut director = Director { config, memory, clock, schedule, vm, devices, crew, paused: true };
        if let Some(first_state) = &first_state {
            director.crew.reset(first_state);
        }
        let ending = director.direct();
        director.schedule.end();
        let Director { config, memory, crew, devices, .. } = director;
        let statistics = crew.end();
        devices.end();
        // It only calls devices; if that panicked, the machine's end is as it is.
        let _ = timer.join();
        let end = match ending? {
            Ending::Here(end) => end,
            Ending::Elsewhere(state) => End::Departed(Box::new(Departed { config, memory, state: *state })),
        };
        Ok(Outcome { end, statistics, wall: started.elapsed() })
    }
}

/// A running machine, seen from the thread that directs it.
struct Director {
    config: MachineConfig,
    memory: GuestMemory,
    clock: Arc<Clock>,
    schedule: Arc<Schedule>,
    vm: Arc<dyn Vm>,
    devices: Arc<Devices>,
    crew: Crew,
    paused: bool,
}

impl Director {
    /// Starts the machine, which is paused, and directs it to its end.
    fn direct(&mut self) -> Result<Ending, MachineError> {
        let mut is_wanted_running = true;
        while let Some(event) = self.crew.early_event() {
            // A machine that leaves before its first instruction takes its time along.
            self.vm.pause_time()?;
            match event {
                Event::Pause(_) => is_wanted_running = false,
                Event::Resume => is_wanted_running = true,
                _ => {}
            }
            if let Some(ending) = self.hear(event)? {
                return Ok(ending);
            }
        }
        if is_wanted_running {
            self.resume()?;
        }
        loop {
            let event = self.crew.next_event();
            if let Some(ending) = self.hear(event)? {
                return Ok(ending);
            }
        }
    }

    /// Does what was told; the machine's end, if that is it.
    fn hear(&mut self, event: Event) -> Result<Option<Ending>, MachineError> {
        let end = match event {
            Event::Stop => End::Stopped,
            Event::Depart => {
                self.pause()?;
                // An end that came before is the machine's end.
                if !self.crew.has_more() {
                    return Ok(Some(Ending::Elsewhere(Box::new(self.save()?))));
                }
                self.crew.put_back(Event::Depart);
                return Ok(None);
            }
            Event::Pause(done) => {
                self.pause()?;
                // Whoever asked may not wait for it.
                let _ = done.send(());
                return Ok(None);
            }
            Event::Resume => {
                self.resume()?;
                return Ok(None);
            }
            Event::PowerButton => {
                self.devices.press_power_button();
                return Ok(None);
            }
            Event::Vcpu(_, Notice::Requested(Request::PowerOff)) => End::PowerOff,
            Event::Vcpu(_, Notice::Requested(Request::DebugExit(status))) => End::DebugExit(status),
            Event::Vcpu(_, Notice::Requested(Request::Reset)) => match self.config.on_reboot {
                OnReboot::End => End::Reboot,
                OnReboot::Restart => {
                    self.restart()?;
                    return Ok(None);
                }
            },
            Event::Vcpu(index, Notice::TripleFault(state)) => {
                // What is read for the report holds still.
                self.crew.pause();
                End::Crash(Box::new(CrashReport::triple_fault(index, *state, &self.memory)))
            }
            Event::Vcpu(index, Notice::Failed(EngineError::GaveUp { reason, state })) => {
                self.crew.pause();
                End::Crash(Box::new(CrashReport::given_up(index, *state, &self.memory, reason)))
            }
            Event::Vcpu(_, Notice::Failed(error)) => return Err(error.into()),
            // The panic itself comes to light when the threads are joined.
            Event::Vcpu(_, Notice::Panicked) => End::Stopped,
            Event::Vcpu(_, Notice::Paused | Notice::State(_)) => return Ok(None),
        };
        Ok(Some(Ending::Here(end)))
    }

    /// The state of the paused machine, whose devices take nothing any more.
    fn save(&mut self) -> Result<MachineState, MachineError> {
        // What reaches a device until now, the interrupt controllers have heard of, and nothing reaches it after.
        let devices = self.devices.depart();
        let vcpus = self.crew.states();
        Ok(MachineState { time: self.clock.now(), vcpus, vm: self.vm.save()?, devices })
    }

    fn pause(&mut self) -> Result<(), MachineError> {
        if !self.paused {
            self.paused = true;
            self.crew.pause();
            self.devices.pause();
            self.schedule.pause();
            self.vm.pause_time()?;
            self.clock.pause();
        }
        Ok(())
    }

    fn resume(&mut self) -> Result<(), MachineError> {
        if self.paused {
            self.paused = false;
            self.clock.resume();
            self.vm.resume_time()?;
            self.schedule.resume();
            self.devices.resume();
            self.crew.run();
        }
        Ok(())
    }

    /// Starts the machine over, as after a press on the reset button.
    fn restart(&mut self) -> Result<(), MachineError> {
        self.crew.pause();
        self.devices.reset(self.clock.now());
        self.vm.reset();
        memory::clear(&self.memory).map_err(LoadError::from)?;
        let first_state = load_guest(&self.config, &self.memory)?;
        self.crew.reset(&first_state);
        if !self.paused {
            self.crew.run();
        }
        Ok(())
    }
}

/// Directs a machine from any thread. After the machine's end nothing here has an effect.
#[derive(Clone)]
pub struct MachineHandle {
    events: Sender<Event>,
}

impl MachineHandle {
    /// Stops the processors and the clock, and returns when they stand still; at once if the machine has ended.
    pub fn pause(&self) {
        let (done, waiting) = sync_channel(1);
        self.send(Event::Pause(done));
        // An error is the machine's end.
        let _ = waiting.recv();
    }

    /// Lets a paused machine go on.
    pub fn resume(&self) {
        self.send(Event::Resume);
    }

    /// Ends the machine at once, whatever the guest does. If the machine does not run yet, it ends when it starts.
    pub fn stop(&self) {
        self.send(Event::Stop);
    }

    /// Ends the machine here, between two instructions, with all that it takes to go on elsewhere ([`End::Departed`]). If the
    /// machine ends by itself before, that is its end.
    pub fn depart(&self) {
        self.send(Event::Depart);
    }

    /// Presses the power button: the guest is asked to switch the machine off.
    pub fn press_power_button(&self) {
        self.send(Event::PowerButton);
    }

    fn send(&self, event: Event) {
        // Nobody hears it after the machine's end.
        let _ = self.events.send(event);
    }
}
