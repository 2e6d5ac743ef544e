//! A processor's thread.
//!
//! ```text
//!            Run                    Pause
//!   Paused ───────▶ Running ───────────────────▶ Paused      each Pause is answered by Notice::Paused,
//!     │  ▲             │ a request, a triple fault,           in whatever state it arrives
//!     │  └─────────────┘ a failure: Notice, and wait
//!     │ End
//!     ▼
//!   Exited
//! ```
//!
//! A processor that pauses first completes the instruction that it is in. Whoever sends a command kicks the processor after it; the thread looks for commands whenever it was kicked.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};

use tern_engine::{Clock, EngineError, Statistics, Vcpu, VmEntry, VmExit};
use tern_x86::state::VcpuState;

use super::Event;
use crate::bus::Request;
use crate::device::Devices;

/// What a processor's thread is told to do.
#[derive(Debug)]
pub(super) enum Command {
    /// Go on.
    Run,
    /// Stop, and say so.
    Pause,
    /// Take this state; only while paused.
    SetState(Box<VcpuState>),
    /// Tell the state; only while paused.
    TellState,
    /// Leave.
    End,
}

/// What a processor's thread tells. After each of these it waits for commands.
#[derive(Debug)]
pub(super) enum Notice {
    /// It stopped because it was told to.
    Paused,
    /// Its state.
    State(Box<VcpuState>),
    /// The guest asked for something that concerns the machine.
    Requested(Request),
    /// The guest crashed in this state.
    TripleFault(Box<VcpuState>),
    /// The engine failed.
    Failed(EngineError),
    /// The thread panicked and is gone.
    Panicked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Paused,
    Running,
    Exited,
}

/// What belongs to one processor's thread.
pub(super) struct VcpuThread {
    pub(super) index: u32,
    pub(super) vcpu: Box<dyn Vcpu>,
    pub(super) devices: Arc<Devices>,
    pub(super) clock: Arc<Clock>,
    pub(super) commands: Receiver<Command>,
    pub(super) events: Sender<Event>,
}

impl VcpuThread {
    /// The thread: runs until told to leave, and returns what the processor did.
    pub(super) fn run(mut self) -> Statistics {
        let _guard = PanicGuard { index: self.index, events: self.events.clone() };
        let mut entry = VmEntry::Resume;
        let mut state = State::Paused;
        loop {
            state = match state {
                State::Paused => match self.commands.recv() {
                    Ok(command) => self.obey(command, &mut entry, state),
                    Err(_) => State::Exited,
                },
                State::Running => self.enter(&mut entry),
                State::Exited => return self.vcpu.statistics(),
            }
        }
    }

    /// Runs the guest until something else is to be done than to answer it.
    fn enter(&mut self, entry: &mut VmEntry) -> State {
        loop {
            let exit = match self.vcpu.run(*entry) {
                Ok(exit) => exit,
                Err(error) => return self.wait_after(Notice::Failed(error)),
            };
            *entry = VmEntry::Resume;
            match exit {
                VmExit::Kicked => match self.commands.try_recv() {
                    Ok(command) => return self.obey(command, entry, State::Running),
                    Err(TryRecvError::Empty) => {}
                    Err(TryRecvError::Disconnected) => return State::Exited,
                },
                VmExit::TripleFault => {
                    return self.wait_after(Notice::TripleFault(Box::new(self.vcpu.state())));
                }
                exit => {
                    let (answer, request) = self.devices.answer(exit, self.clock.now());
                    *entry = answer;
                    if let Some(request) = request {
                        return self.wait_after(Notice::Requested(request));
                    }
                }
            }
        }
    }

    fn obey(&mut self, command: Command, entry: &mut VmEntry, state: State) -> State {
        match command {
            Command::Run => State::Running,
            Command::Pause => {
                self.finish(entry);
                self.wait_after(Notice::Paused)
            }
            Command::TellState => self.wait_after(Notice::State(Box::new(self.vcpu.state()))),
            Command::SetState(new) => {
                self.vcpu.set_state(&new);
                *entry = VmEntry::Resume;
                state
            }
            Command::End => State::Exited,
        }
    }

    /// Completes an instruction that was begun.
    fn finish(&mut self, entry: &mut VmEntry) {
        loop {
            match self.vcpu.finish(std::mem::replace(entry, VmEntry::Resume)) {
                // What shut down will say so when it is to run again.
                Ok(None | Some(VmExit::TripleFault)) => return,
                Ok(Some(exit)) => {
                    let (answer, request) = self.devices.answer(exit, self.clock.now());
                    *entry = answer;
                    if let Some(request) = request {
                        send(&self.events, self.index, Notice::Requested(request));
                    }
                }
                Err(error) => return send(&self.events, self.index, Notice::Failed(error)),
            }
        }
    }

    fn wait_after(&self, notice: Notice) -> State {
        send(&self.events, self.index, notice);
        State::Paused
    }
}

fn send(events: &Sender<Event>, index: u32, notice: Notice) {
    // If the machine is gone, so is who would want to know; the next command is missing then.
    let _ = events.send(Event::Vcpu(index, notice));
}

/// Tells of a panic, for which the machine would wait in vain otherwise.
struct PanicGuard {
    index: u32,
    events: Sender<Event>,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            send(&self.events, self.index, Notice::Panicked);
        }
    }
}
