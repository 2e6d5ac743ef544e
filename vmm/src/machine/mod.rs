//! The machine as a whole, and its life.
//!
//! ```text
//!  Machine::new: memory, devices, processors, guest loaded
//!       │ run                    ┌────────────┐
//!       ▼                pause   │            │ reset: processors stopped, devices and interrupt controllers reset,
//!    Running ◀──────────────────▶ Paused      │ memory cleared, guest loaded again
//!       │  ▲             resume               │
//!       │  └──────────────────────────────────┘
//!       ▼ power-off, reboot (OnReboot::End), debug exit, crash, stop, failure
//!    Outcome
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
use std::thread;
use std::time::{Duration, Instant};

use thiserror::Error;

use tern_engine::{Clock, Engine, EngineError, GuestMemory, Statistics, Vcpu, Vm, VmConfig};
use tern_x86::state::VcpuState;

use crate::bus::{Overlap, Request};
use crate::config::{ConfigError, MachineConfig, OnReboot};
use crate::console::ConsoleInput;
use crate::crash::CrashReport;
use crate::device::{Devices, Surroundings};
pub use crate::firmware::LoadError;
use crate::firmware::load_guest;
use crate::memory::{self, MemoryError};
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
    /// Two devices were put in the same place.
    #[error("the machine's devices do not fit beside each other")]
    Devices(#[from] Overlap),
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
    /// The guest crashed.
    Crash(Box<CrashReport>),
    /// It was stopped by [`MachineHandle::stop`].
    Stopped,
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
    first_state: VcpuState,
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
        let clock = Arc::new(Clock::new());
        clock.pause();
        let cpu_model = config.cpu_model.clone().with_cpus(config.cpus);
        let vm_config = VmConfig { cpu_model, cpus: config.cpus, clock: Arc::clone(&clock) };
        let vm = engine.create_vm(&vm_config, memory.clone())?;
        let vcpus = (0..config.cpus).map(|index| vm.create_vcpu(index)).collect::<Result<_, _>>()?;
        let schedule = Schedule::new(Arc::clone(&clock));
        let devices = Devices::new(Surroundings {
            vm: Arc::clone(&vm),
            clock: Arc::clone(&clock),
            schedule: Arc::clone(&schedule),
            output: Box::new(output),
            memory: config.memory,
            debug_exit: config.debug_exit,
        })?;
        Ok(Self {
            config,
            memory,
            clock,
            schedule,
            vm,
            vcpus,
            devices: Arc::new(devices),
            first_state,
            events: channel(),
        })
    }

    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> MachineHandle {
        MachineHandle { events: self.events.0.clone(), devices: Arc::clone(&self.devices) }
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
        let timer = thread::Builder::new().name("timer".to_owned()).spawn(move || timer.run());
        let timer = timer.map_err(MachineError::Thread)?;
        let mut director = Director { config, memory, clock, schedule, vm, devices, crew, paused: true };
        director.crew.reset(&first_state);
        let end = director.resume().and_then(|()| director.direct());
        director.schedule.end();
        let statistics = director.crew.end();
        // It only calls devices; if that panicked, the machine's end is as it is.
        let _ = timer.join();
        Ok(Outcome { end: end?, statistics, wall: started.elapsed() })
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
    fn direct(&mut self) -> Result<End, MachineError> {
        loop {
            match self.crew.next_event() {
                Event::Stop => return Ok(End::Stopped),
                Event::Pause(done) => {
                    self.pause()?;
                    // Whoever asked may not wait for it.
                    let _ = done.send(());
                }
                Event::Resume => self.resume()?,
                Event::Vcpu(_, Notice::Requested(Request::PowerOff)) => return Ok(End::PowerOff),
                Event::Vcpu(_, Notice::Requested(Request::DebugExit(status))) => {
                    return Ok(End::DebugExit(status));
                }
                Event::Vcpu(_, Notice::Requested(Request::Reset)) => match self.config.on_reboot {
                    OnReboot::End => return Ok(End::Reboot),
                    OnReboot::Restart => self.restart()?,
                },
                Event::Vcpu(index, Notice::TripleFault(state)) => {
                    // What is read for the report holds still.
                    self.crew.pause();
                    return Ok(End::Crash(Box::new(CrashReport::new(index, *state, &self.memory))));
                }
                Event::Vcpu(_, Notice::Failed(error)) => return Err(error.into()),
                // The panic itself comes to light when the threads are joined.
                Event::Vcpu(_, Notice::Panicked) => return Ok(End::Stopped),
                Event::Vcpu(_, Notice::Paused) => {}
            }
        }
    }

    fn pause(&mut self) -> Result<(), MachineError> {
        if !self.paused {
            self.paused = true;
            self.crew.pause();
            self.schedule.set_paused(true);
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
            self.schedule.set_paused(false);
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
    devices: Arc<Devices>,
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

    /// Presses the power button: the guest is asked to switch the machine off.
    pub fn press_power_button(&self) {
        self.devices.press_power_button();
    }

    fn send(&self, event: Event) {
        // Nobody hears it after the machine's end.
        let _ = self.events.send(event);
    }
}
