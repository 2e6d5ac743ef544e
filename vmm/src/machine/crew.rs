//! All processors' threads, commanded together.

use std::collections::VecDeque;
use std::io;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use tern_engine::{Clock, Kick, Statistics, Vcpu, start_thread};
use tern_x86::state::{Activity, VcpuState};

use super::Event;
use super::vcpu::{Command, Notice, VcpuThread};
use crate::device::Devices;

/// The processors' threads and what they, and others, have told.
pub(super) struct Crew {
    members: Vec<Member>,
    events: Receiver<Event>,
    /// What was told while something else was waited for.
    deferred: VecDeque<Event>,
}

struct Member {
    commands: Sender<Command>,
    kick: Arc<dyn Kick>,
    thread: JoinHandle<Statistics>,
}

impl Member {
    /// Gives a command, also to a processor that is in the guest.
    fn tell(&self, command: Command) {
        // A thread that is gone has panicked, and has said so.
        let _ = self.commands.send(command);
        self.kick.kick();
    }
}

impl Crew {
    /// Starts a thread per processor; all are paused.
    ///
    /// # Errors
    /// The host gives no thread.
    pub(super) fn start(
        vcpus: Vec<Box<dyn Vcpu>>,
        devices: &Arc<Devices>,
        clock: &Arc<Clock>,
        (sender, events): (Sender<Event>, Receiver<Event>),
    ) -> io::Result<Self> {
        let mut members = Vec::new();
        for (index, vcpu) in (0..).zip(vcpus) {
            let (commands, receiver) = channel();
            let kick = vcpu.kicker();
            let work = VcpuThread {
                index,
                vcpu,
                devices: Arc::clone(devices),
                clock: Arc::clone(clock),
                commands: receiver,
                events: sender.clone(),
            };
            let thread = start_thread(format!("vcpu{index}"), move || work.run())?;
            members.push(Member { commands, kick, thread });
        }
        Ok(Self { members, events, deferred: VecDeque::new() })
    }

    /// What was told next, by a processor or by someone outside.
    pub(super) fn next_event(&mut self) -> Event {
        self.deferred.pop_front().unwrap_or_else(|| self.receive())
    }

    /// What was already told next, if anything.
    pub(super) fn early_event(&mut self) -> Option<Event> {
        self.deferred.pop_front().or_else(|| self.events.try_recv().ok())
    }

    /// Whether something was told that nobody has heard yet.
    pub(super) fn has_more(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// Lets this be heard after all that was told before.
    pub(super) fn put_back(&mut self, event: Event) {
        self.deferred.push_back(event);
    }

    /// Lets all processors go on.
    pub(super) fn run(&self) {
        self.members.iter().for_each(|member| member.tell(Command::Run));
    }

    /// Stops all processors between two instructions, and returns when they have. Also stops one that was stopped.
    pub(super) fn pause(&mut self) {
        self.members.iter().for_each(|member| member.tell(Command::Pause));
        let mut running = self.members.len();
        while running > 0 {
            match self.receive() {
                Event::Vcpu(_, Notice::Paused) => running -= 1,
                Event::Vcpu(_, Notice::Panicked) => {
                    running -= 1;
                    self.deferred.push_back(Event::Stop);
                }
                other => self.deferred.push_back(other),
            }
        }
    }

    /// The paused processors' states, by number.
    pub(super) fn states(&mut self) -> Vec<VcpuState> {
        self.members.iter().for_each(|member| member.tell(Command::TellState));
        let mut states: Vec<_> = self.members.iter().map(|_| None).collect();
        let mut missing = states.len();
        while missing > 0 {
            match self.receive() {
                Event::Vcpu(index, Notice::State(state)) => {
                    states[index as usize] = Some(*state);
                    missing -= 1;
                }
                Event::Vcpu(_, Notice::Panicked) => {
                    missing -= 1;
                    self.deferred.push_back(Event::Stop);
                }
                other => self.deferred.push_back(other),
            }
        }
        states.into_iter().flatten().collect()
    }

    /// Puts the paused processors into their first states: the first one's is `first`, the others wait to be started.
    pub(super) fn reset(&mut self, first: &VcpuState) {
        for (index, member) in self.members.iter().enumerate() {
            let state = match index {
                0 => first.clone(),
                _ => VcpuState { activity: Activity::WaitForSipi, ..VcpuState::reset() },
            };
            member.tell(Command::SetState(Box::new(state)));
        }
        // What the guest wanted before is past; failures are not.
        let is_past =
            |event: &Event| matches!(event, Event::Vcpu(_, Notice::Requested(_) | Notice::TripleFault(_)));
        self.deferred.retain(|event| !is_past(event));
    }

    /// Ends all threads and adds up what the processors did.
    pub(super) fn end(self) -> Statistics {
        self.members.iter().for_each(|member| member.tell(Command::End));
        let mut sum = Statistics::default();
        for member in self.members {
            drop(member.commands);
            match member.thread.join() {
                Ok(statistics) => sum.add(&statistics),
                Err(panic) => resume_unwind(panic),
            }
        }
        sum
    }

    fn receive(&self) -> Event {
        self.events.recv().expect("every thread holds a sender")
    }
}
