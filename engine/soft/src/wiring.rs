//! Interrupts that devices raise by events: a thread waits for all of them and carries them to the controllers. It is
//! started when the first one is made, and ends with the machine.
//!
//! ```text
//!  EventFd ──▶ epoll ──▶ thread ──▶ message: Interrupts::send
//!                                   line:    asserted; at its end (Interrupts' observer): released, `ended` signalled
//! ```

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use tern_engine::{EngineError, EventFd, LineInterrupt, Message, MessageInterrupt, start_thread};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::interrupts::Interrupts;

/// The token of the event that ends the thread.
const END: u64 = u64::MAX;
/// How many events are taken from the host at once.
const BATCH: usize = 16;

/// What an event stands for.
#[derive(Debug, Clone)]
enum Target {
    Message(Message),
    Line(u32),
}

/// What is waited for, shared with the thread.
#[derive(Debug)]
struct Waiting {
    epoll: Epoll,
    end: EventFd,
    /// By token; a masked message's event is not in here, and not in `epoll`.
    targets: Mutex<HashMap<u64, (EventFd, Target)>>,
}

impl Waiting {
    fn targets(&self) -> MutexGuard<'_, HashMap<u64, (EventFd, Target)>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, token: u64, event: &EventFd, target: Option<Target>) -> std::io::Result<()> {
        let mut targets = self.targets();
        let interest = EpollEvent::new(EventSet::IN, token);
        let fd = event.as_raw_fd();
        match (target, targets.contains_key(&token)) {
            (Some(target), true) => {
                targets.insert(token, (event.try_clone()?, target));
            }
            (Some(target), false) => {
                targets.insert(token, (event.try_clone()?, target));
                if let Err(error) = self.epoll.ctl(ControlOperation::Add, fd, interest) {
                    targets.remove(&token);
                    return Err(error);
                }
            }
            (None, true) => {
                targets.remove(&token);
                self.epoll.ctl(ControlOperation::Delete, fd, interest)?;
            }
            (None, false) => {}
        }
        Ok(())
    }

    /// The thread.
    fn run(&self, interrupts: &Interrupts) {
        let mut events = [EpollEvent::default(); BATCH];
        loop {
            // An error is a signal that was handled meanwhile.
            let count = self.epoll.wait(-1, &mut events).unwrap_or(0);
            for event in &events[..count] {
                if event.data() == END {
                    return;
                }
                // Under the lock: once a message is masked, none is sent any more.
                let targets = self.targets();
                let Some((event, target)) = targets.get(&event.data()) else { continue };
                if event.read().is_err() {
                    continue;
                }
                match target {
                    Target::Message(Message { address, data }) => interrupts.send_msi(*address, *data),
                    Target::Line(gsi) => interrupts.set_line(*gsi, true),
                }
            }
        }
    }
}

/// The thread that waits, and what it waits for.
#[derive(Debug)]
pub struct Events {
    interrupts: Arc<Interrupts>,
    waiting: OnceLock<Arc<Waiting>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    next_token: Mutex<u64>,
}

impl Events {
    /// For the machine with these controllers; no thread yet.
    pub fn new(interrupts: Arc<Interrupts>) -> Self {
        Self { interrupts, waiting: OnceLock::new(), thread: Mutex::default(), next_token: Mutex::default() }
    }

    /// [`tern_engine::Wiring::message_interrupt`].
    ///
    /// # Errors
    /// The host has no more descriptors, or no thread.
    pub fn message(&self) -> Result<Box<dyn MessageInterrupt>, EngineError> {
        let waiting = Arc::clone(self.waiting()?);
        let interrupts = Arc::clone(&self.interrupts);
        Ok(Box::new(SoftMessage { waiting, interrupts, token: self.token(), event: new_event()? }))
    }

    /// [`tern_engine::Wiring::line_interrupt`].
    ///
    /// # Errors
    /// There is no such line, or it is driven by events already; or as for messages.
    pub fn line(&self, gsi: u32) -> Result<Box<dyn LineInterrupt>, EngineError> {
        let waiting = Arc::clone(self.waiting()?);
        let (event, ended) = (new_event()?, new_event()?);
        let signal = ended.try_clone().map_err(no_event)?;
        let is_connected = Arc::new(AtomicBool::new(true));
        let observer = Box::new({
            let is_connected = Arc::clone(&is_connected);
            // It fails if nobody has taken 2^64 signals: then one is waiting.
            move || drop(is_connected.load(Ordering::SeqCst).then(|| signal.write(1)))
        });
        if !self.interrupts.observe_end(gsi, observer) {
            return Err(EngineError::Unsupported(format!(
                "there is no interrupt line {gsi}, or it is driven by events already"
            )));
        }
        let interrupts = Arc::clone(&self.interrupts);
        let line = SoftLine { waiting, interrupts, gsi, token: self.token(), event, ended, is_connected };
        line.waiting.set(line.token, &line.event, Some(Target::Line(gsi))).map_err(no_event)?;
        Ok(Box::new(line))
    }

    fn token(&self) -> u64 {
        let mut next = self.next_token.lock().unwrap_or_else(PoisonError::into_inner);
        *next += 1;
        *next
    }

    /// What is waited for; starts the thread.
    fn waiting(&self) -> Result<&Arc<Waiting>, EngineError> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = self.waiting.get() {
            return Ok(waiting);
        }
        let end = new_event()?;
        let epoll = Epoll::new().map_err(no_event)?;
        let interest = EpollEvent::new(EventSet::IN, END);
        epoll.ctl(ControlOperation::Add, end.as_raw_fd(), interest).map_err(no_event)?;
        let waiting = Arc::new(Waiting { epoll, end, targets: Mutex::default() });
        let work = Arc::clone(&waiting);
        let interrupts = Arc::clone(&self.interrupts);
        let started = start_thread("interrupts", move || work.run(&interrupts));
        let no_thread = |source| EngineError::Host { action: "start the interrupts' thread", source };
        *thread = Some(started.map_err(no_thread)?);
        Ok(self.waiting.get_or_init(|| waiting))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Some(waiting) = self.waiting.get() {
            // An event that is written once has room for it.
            let _ = waiting.end.write(1);
        }
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // Its panic has been told already.
            let _ = thread.join();
        }
    }
}

struct SoftMessage {
    waiting: Arc<Waiting>,
    interrupts: Arc<Interrupts>,
    token: u64,
    event: EventFd,
}

impl MessageInterrupt for SoftMessage {
    fn event(&self) -> &EventFd {
        &self.event
    }

    fn signal(&self) {
        // Under the lock, as in the thread.
        match self.waiting.targets().get(&self.token) {
            Some((_, Target::Message(Message { address, data }))) => {
                self.interrupts.send_msi(*address, *data)
            }
            // It waits in the event.
            _ => drop(self.event.write(1)),
        }
    }

    fn set_message(&self, message: Option<Message>) -> Result<(), EngineError> {
        self.waiting.set(self.token, &self.event, message.map(Target::Message)).map_err(no_event)
    }
}

impl Drop for SoftMessage {
    fn drop(&mut self) {
        // Should the host refuse, the event waits for nobody.
        let _ = self.waiting.set(self.token, &self.event, None);
    }
}

struct SoftLine {
    waiting: Arc<Waiting>,
    interrupts: Arc<Interrupts>,
    gsi: u32,
    token: u64,
    event: EventFd,
    ended: EventFd,
    is_connected: Arc<AtomicBool>,
}

impl LineInterrupt for SoftLine {
    fn event(&self) -> &EventFd {
        &self.event
    }

    fn ended(&self) -> &EventFd {
        &self.ended
    }
}

impl Drop for SoftLine {
    fn drop(&mut self) {
        self.is_connected.store(false, Ordering::SeqCst);
        // As for messages.
        let _ = self.waiting.set(self.token, &self.event, None);
        self.interrupts.forget_end(self.gsi);
        self.interrupts.set_line(self.gsi, false);
    }
}

fn new_event() -> Result<EventFd, EngineError> {
    EventFd::new(libc::EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(no_event)
}

const fn no_event(source: std::io::Error) -> EngineError {
    EngineError::Host { action: "connect an interrupt's event", source }
}
