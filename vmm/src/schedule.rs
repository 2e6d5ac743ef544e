//! Deadlines: devices that will change by themselves say when, and one thread calls them then.
//!
//! Processors' and interrupt controllers' timers are the engine's; what is left here rings rarely, so the thread sleeps
//! nearly always.

use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Duration;

use tern_chipset::Time;
use tern_engine::Clock;

use crate::lock;

/// What can be called when its time has come.
pub(crate) trait Timed: Send + Sync {
    /// `now` is at or after the deadline that its [`Alarm`] was set to. The device sets the next one.
    fn ring(&self, now: Time);
}

/// All deadlines of a machine.
pub(crate) struct Schedule {
    clock: Arc<Clock>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    slots: Vec<Slot>,
    /// Devices are being called.
    ringing: bool,
    paused: bool,
    ended: bool,
}

struct Slot {
    deadline: Option<Time>,
    device: Option<Weak<dyn Timed>>,
}

/// A device's own deadline.
pub(crate) struct Alarm {
    schedule: Arc<Schedule>,
    slot: usize,
    deadline: Option<Time>,
}

impl Alarm {
    /// Sets, moves or (`None`) calls off the deadline.
    pub(crate) fn set(&mut self, deadline: Option<Time>) {
        if deadline == self.deadline {
            return;
        }
        self.deadline = deadline;
        lock(&self.schedule.state).slots[self.slot].deadline = deadline;
        self.schedule.changed.notify_all();
    }
}

impl Schedule {
    /// No deadlines.
    pub(crate) fn new(clock: Arc<Clock>) -> Arc<Self> {
        Arc::new(Self { clock, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Makes a device that has an alarm.
    pub(crate) fn attach<D: Timed + 'static>(self: &Arc<Self>, make: impl FnOnce(Alarm) -> D) -> Arc<D> {
        let slot = {
            let mut state = lock(&self.state);
            state.slots.push(Slot { deadline: None, device: None });
            state.slots.len() - 1
        };
        let device = Arc::new(make(Alarm { schedule: Arc::clone(self), slot, deadline: None }));
        let weak: Weak<D> = Arc::downgrade(&device);
        lock(&self.state).slots[slot].device = Some(weak);
        device
    }

    /// Stops ringing, and returns when no device is being called any more.
    pub(crate) fn pause(&self) {
        let mut state = lock(&self.state);
        state.paused = true;
        while state.ringing {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Goes on ringing.
    pub(crate) fn resume(&self) {
        lock(&self.state).paused = false;
        self.changed.notify_all();
    }

    /// Makes [`Schedule::run`] return.
    pub(crate) fn end(&self) {
        lock(&self.state).ended = true;
        self.changed.notify_all();
    }

    /// The thread: calls each device whose deadline has come, until [`Schedule::end`].
    pub(crate) fn run(&self) {
        let mut state = lock(&self.state);
        while !state.ended {
            let now = self.clock.now();
            match state.next(now) {
                Next::Nothing => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Next::At(deadline) => {
                    let rest = Duration::from_nanos((deadline - now).as_nanos());
                    let waited = self.changed.wait_timeout(state, rest);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                Next::Due(devices) => {
                    // A device takes its own lock first and the schedule's second.
                    state.ringing = true;
                    drop(state);
                    for device in devices.iter().filter_map(Weak::upgrade) {
                        device.ring(now);
                    }
                    state = lock(&self.state);
                    state.ringing = false;
                    self.changed.notify_all();
                }
            }
        }
    }
}

/// What the thread does next.
enum Next {
    /// Wait for a deadline to be set.
    Nothing,
    /// Wait for this one.
    At(Time),
    /// Call these.
    Due(Vec<Weak<dyn Timed>>),
}

impl State {
    fn next(&self, now: Time) -> Next {
        let deadlines = self.slots.iter().filter_map(|slot| slot.deadline);
        match deadlines.min() {
            Some(first) if !self.paused && first > now => Next::At(first),
            Some(_) if !self.paused => {
                let is_due = |slot: &&Slot| slot.deadline.is_some_and(|deadline| deadline <= now);
                Next::Due(self.slots.iter().filter(is_due).filter_map(|slot| slot.device.clone()).collect())
            }
            _ => Next::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::{Sender, channel};
    use std::thread;

    use super::*;

    /// Tells when it rang, and sets the next deadline from its list.
    struct Bell {
        state: Mutex<(Alarm, Vec<Time>)>,
        rang: Sender<Time>,
    }

    impl Timed for Bell {
        fn ring(&self, now: Time) {
            let (alarm, next) = &mut *self.state.lock().unwrap();
            alarm.set(next.pop());
            self.rang.send(now).unwrap();
        }
    }

    #[test]
    fn devices_ring_at_or_after_each_of_their_deadlines() {
        let schedule = Schedule::new(Arc::default());
        let (rang, rings) = channel();
        let at = Time::from_nanos;
        let _bell = schedule.attach(|mut alarm| {
            alarm.set(Some(at(1000)));
            Bell { state: Mutex::new((alarm, vec![at(2_000_000), at(1_000_000)])), rang }
        });
        thread::scope(|scope| {
            scope.spawn(|| schedule.run());
            for deadline in [1000, 1_000_000, 2_000_000] {
                assert!(rings.recv().unwrap() >= at(deadline));
            }
            schedule.end();
        });
        assert!(rings.try_recv().is_err());
    }

    /// Rings until it is told that it was heard.
    struct LongBell(Mutex<std::sync::mpsc::Receiver<()>>, AtomicBool, Sender<()>);

    impl Timed for LongBell {
        fn ring(&self, _now: Time) {
            self.2.send(()).unwrap();
            self.0.lock().unwrap().recv().unwrap();
            self.1.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_pause_waits_for_the_device_that_rings() {
        let schedule = Schedule::new(Arc::default());
        let (rings, ringing) = channel();
        let (hear, heard) = channel();
        let bell = schedule.attach(|mut alarm| {
            alarm.set(Some(Time::ZERO));
            LongBell(Mutex::new(heard), AtomicBool::new(false), rings)
        });
        thread::scope(|scope| {
            scope.spawn(|| schedule.run());
            ringing.recv().unwrap();
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(20));
                hear.send(()).unwrap();
            });
            schedule.pause();
            assert!(bell.1.load(Ordering::SeqCst), "a device is still being called");
            schedule.end();
        });
    }

    #[test]
    fn a_paused_schedule_lets_deadlines_pass() {
        let schedule = Schedule::new(Arc::default());
        let (rang, _) = channel();
        let _bell = schedule.attach(|mut alarm| {
            alarm.set(Some(Time::ZERO));
            Bell { state: Mutex::new((alarm, Vec::new())), rang }
        });
        let next = || lock(&schedule.state).next(Time::from_nanos(1));
        assert!(matches!(next(), Next::Due(devices) if devices.len() == 1));
        schedule.pause();
        assert!(matches!(next(), Next::Nothing));
        schedule.resume();
        assert!(matches!(next(), Next::Due(_)));
    }
}
