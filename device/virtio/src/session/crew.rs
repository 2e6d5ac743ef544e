//! The workers' threads: each waits for its queues' doorbells and its worker's descriptor, and for orders.
//!
//! ```text
//!            Park                               End
//!   Run ───────────▶ drained, parked    any ───────────▶ drained, the thread ends
//!       ◀───────────
//!            Run: every queue is looked at again
//! ```

use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use tern_engine::{EventFd, start_thread};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::{Session, lock};
use crate::device::{Duty, Served, Worker};
use crate::new_event;
use crate::queue::Violation;

/// What all workers of a device are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Work.
    Run,
    /// Finish what is in flight and touch nothing.
    Park,
    /// The same, and end.
    End,
}

#[derive(Debug)]
struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    order: Order,
    /// How many threads touch nothing now.
    parked: usize,
    /// How many are gone, or nearly.
    ended: usize,
}

/// The threads of one session.
#[derive(Debug)]
pub struct Crew {
    control: Arc<Control>,
    threads: Vec<JoinHandle<()>>,
    wakes: Vec<EventFd>,
}

impl Crew {
    /// Starts a thread for each duty.
    ///
    /// # Errors
    /// The host gives no thread or no descriptor.
    pub fn start(session: &Session, duties: Vec<Duty>, name: &str, order: Order) -> io::Result<Self> {
        let state = Mutex::new(State { order, parked: 0, ended: 0 });
        let control = Arc::new(Control { state, changed: Condvar::new() });
        let mut crew = Self { control, threads: Vec::new(), wakes: Vec::new() };
        for (number, duty) in duties.into_iter().enumerate() {
            let wake = new_event()?;
            let thread = Thread {
                session: session.clone(),
                control: Arc::clone(&crew.control),
                waiting: waiting(session, &duty, &wake)?,
                wake: wake.try_clone()?,
                rung: vec![true; duty.queues.len()],
                queues: duty.queues,
                worker: duty.worker,
            };
            let name = format!("{name}.{number}");
            crew.threads.push(start_thread(name, move || thread.run())?);
            crew.wakes.push(wake);
        }
        Ok(crew)
    }

    fn order(&self, order: Order) {
        lock(&self.control.state).order = order;
        self.control.changed.notify_all();
        for wake in &self.wakes {
            // It fails if nobody has taken 2^64 signals: then one is waiting.
            let _ = wake.write(1);
        }
    }

    /// Lets parked workers go on.
    pub fn run(&self) {
        self.order(Order::Run);
    }

    /// Parks all workers, and returns when they are.
    pub fn park(&self) {
        self.order(Order::Park);
        let mut state = lock(&self.control.state);
        // A thread that ended by a panic parks nowhere.
        while state.parked + state.ended < self.threads.len() {
            state = self.control.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Has all workers finish and end.
    pub fn end(&self) {
        self.order(Order::End);
    }

    /// Whether all have ended: none touches anything any more.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        lock(&self.control.state).ended == self.threads.len()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.end();
        for thread in self.threads.drain(..) {
            // Its panic has been told already.
            let _ = thread.join();
        }
    }
}

/// What the thread waits for: orders, its queues by their numbers, and its worker's own. Doorbells tell of each time that they are rung,
/// so that they need not be read.
fn waiting(session: &Session, duty: &Duty, wake: &EventFd) -> io::Result<Epoll> {
    let epoll = Epoll::new()?;
    let add = |descriptor, events, token| {
        epoll.ctl(ControlOperation::Add, descriptor, EpollEvent::new(events, token))
    };
    add(wake.as_raw_fd(), EventSet::IN, ORDER)?;
    for index in duty.queues.clone() {
        if let Some(slot) = session.shared().slot(index) {
            let doorbell = slot.doorbell().as_raw_fd();
            add(doorbell, EventSet::IN | EventSet::EDGE_TRIGGERED, index.into())?;
        }
    }
    if let Some(descriptor) = duty.worker.wait_descriptor() {
        add(descriptor.as_raw_fd(), EventSet::IN, WORKER)?;
    }
    Ok(epoll)
}

/// The tokens of what is no queue.
const ORDER: u64 = 1 << 16;
const WORKER: u64 = ORDER + 1;
/// How many events are taken from the host at once.
const BATCH: usize = 8;

struct Thread {
    session: Session,
    control: Arc<Control>,
    waiting: Epoll,
    wake: EventFd,
    queues: Range<u16>,
    /// Which of them to look at.
    rung: Vec<bool>,
    worker: Box<dyn Worker>,
}

impl Thread {
    fn run(mut self) {
        let _guard = Ended(Arc::clone(&self.control));
        loop {
            let order = lock(&self.control.state).order;
            match order {
                Order::Run => {}
                Order::Park => {
                    self.drain();
                    self.let_queues_leave();
                    self.wait_parked();
                    self.rung.fill(true);
                    continue;
                }
                Order::End => return self.drain(),
            }
            self.let_queues_leave();
            let done = if self.session.shared().is_broken() { Ok(()) } else { self.serve() };
            if let Err(violation) = done {
                self.session.fail(violation);
            }
            self.wait();
        }
    }

    /// What a broken device still has in flight is finished, too: only then is the driver's memory its own again.
    fn drain(&mut self) {
        if let Err(violation) = self.worker.drain() {
            self.session.fail(violation);
        }
    }

    fn wait_parked(&self) {
        let mut state = lock(&self.control.state);
        state.parked += 1;
        self.control.changed.notify_all();
        while state.order == Order::Park {
            state = self.control.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.parked -= 1;
    }

    fn let_queues_leave(&mut self) {
        for index in self.queues.clone() {
            if let Some(slot) = self.session.shared().slot(index)
                && slot.is_leaving()
            {
                if let Err(violation) = self.worker.drain() {
                    self.session.fail(violation);
                }
                self.worker.forget(index);
                slot.clear();
            }
        }
    }

    fn serve(&mut self) -> Result<(), Violation> {
        for (index, rung) in self.queues.clone().zip(&mut self.rung) {
            if std::mem::take(rung) && self.session.queue(index).is_some() {
                *rung = self.worker.serve(index)? == Served::Some;
            }
        }
        Ok(())
    }

    /// Waits until there is something to do, notes which queues were rung, and lets the worker do what is its own.
    fn wait(&mut self) {
        let is_broken = self.session.shared().is_broken();
        let has_more = !is_broken && self.rung.contains(&true);
        let mut events = [EpollEvent::default(); BATCH];
        // An error is a signal that was handled meanwhile.
        let count = self.waiting.wait(if has_more { 0 } else { -1 }, &mut events).unwrap_or(0);
        for event in &events[..count] {
            match event.data() {
                // Somebody else may have read it: an error says just that.
                ORDER => drop(self.wake.read()),
                WORKER if is_broken => {
                    // It would be ready for ever, and nobody is to look.
                    if let Some(descriptor) = self.worker.wait_descriptor() {
                        let nothing = EpollEvent::default();
                        let _ = self.waiting.ctl(ControlOperation::Delete, descriptor.as_raw_fd(), nothing);
                    }
                }
                WORKER if lock(&self.control.state).order == Order::Run => match self.worker.wake() {
                    Ok(Served::All) => {}
                    Ok(Served::Some) => self.rung.fill(true),
                    Err(violation) => self.session.fail(violation),
                },
                WORKER => {}
                token => self.note_doorbell(token),
            }
        }
    }

    fn note_doorbell(&mut self, token: u64) {
        let Ok(index) = u16::try_from(token) else { return };
        let place = index.checked_sub(self.queues.start).map(usize::from);
        if let Some(rung) = place.and_then(|place| self.rung.get_mut(place)) {
            *rung = true;
        }
    }
}

/// Tells whoever waits for the threads, also when one panics.
struct Ended(Arc<Control>);

impl Drop for Ended {
    fn drop(&mut self) {
        lock(&self.0.state).ended += 1;
        self.0.changed.notify_all();
    }
}
