//! A device in use: from the moment when its driver is ready to the next reset.
//!
//! ```text
//!   processors' threads                          the workers' threads (crew.rs)
//!   doorbell ──▶ EventFd ─────────────────────▶ Worker::serve ──▶ Session::queue ──▶ buffers
//!   queue_reset ──▶ Slot::leave ──────────────▶ drain, forget, the slot is empty
//!   status ◀── needs_reset ◀── Session::fail ◀── Violation
//! ```

mod crew;

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tern_engine::{EventFd, GuestMemory};

use crate::interrupts::Interrupts;
use crate::queue::{Chain, Violation, Virtqueue};

pub use crew::{Crew, Order};

/// What a device's workers and its transport share. Clones are the same session.
#[derive(Clone)]
pub struct Session(Arc<Inner>);

struct Inner {
    memory: GuestMemory,
    features: u64,
    shared: Arc<Shared>,
}

/// What outlives a session: the queues' places, and what the driver is told.
pub struct Shared {
    slots: Vec<Slot>,
    interrupts: Arc<Interrupts>,
    /// The rule that was broken first.
    broken: Mutex<Option<Violation>>,
    is_broken: AtomicBool,
    /// Counts the changes of the device's configuration.
    generation: AtomicU8,
}

/// A queue's place.
pub struct Slot {
    doorbell: EventFd,
    queue: Mutex<Option<Virtqueue>>,
    /// There is one: processors ask, who must not wait for a worker that has it.
    is_taken: AtomicBool,
    /// The driver resets it.
    is_leaving: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// With a place for each of these doorbells.
    #[must_use]
    pub fn new(doorbells: Vec<EventFd>, interrupts: Arc<Interrupts>) -> Arc<Self> {
        let slot = |doorbell| Slot {
            doorbell,
            queue: Mutex::new(None),
            is_taken: AtomicBool::new(false),
            is_leaving: AtomicBool::new(false),
        };
        Arc::new(Self {
            slots: doorbells.into_iter().map(slot).collect(),
            interrupts,
            broken: Mutex::new(None),
            is_broken: AtomicBool::new(false),
            generation: AtomicU8::new(0),
        })
    }

    /// A queue's place.
    #[must_use]
    pub fn slot(&self, index: u16) -> Option<&Slot> {
        self.slots.get(usize::from(index))
    }

    /// All places.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The rule that the driver has broken, if it has.
    #[must_use]
    pub fn violation(&self) -> Option<Violation> {
        *lock(&self.broken)
    }

    /// Whether it has.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::SeqCst)
    }

    /// Notes a broken rule; only the first counts.
    pub fn fail(&self, violation: Violation) {
        lock(&self.broken).get_or_insert(violation);
        self.is_broken.store(true, Ordering::SeqCst);
    }

    /// How often the configuration has changed.
    #[must_use]
    pub fn generation(&self) -> u8 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Puts back how often it had.
    pub fn set_generation(&self, generation: u8) {
        self.generation.store(generation, Ordering::SeqCst);
    }

    /// Forgets everything but the configuration's count, which drivers may compare across a reset.
    pub fn reset(&self) {
        for slot in &self.slots {
            slot.clear();
            // Nobody has rung: an error says just that.
            let _ = slot.doorbell.read();
        }
        *lock(&self.broken) = None;
        self.is_broken.store(false, Ordering::SeqCst);
    }
}

impl Slot {
    /// What the driver rings.
    #[must_use]
    pub const fn doorbell(&self) -> &EventFd {
        &self.doorbell
    }

    /// Rings for the driver.
    pub fn ring(&self) {
        // It fails if nobody has taken 2^64 signals: then one is waiting.
        let _ = self.doorbell.write(1);
    }

    /// Puts a queue there.
    pub fn enable(&self, queue: Virtqueue) {
        *lock(&self.queue) = Some(queue);
        self.is_taken.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Has the queue taken away as soon as nothing of it is in flight.
    pub fn leave(&self) {
        self.is_leaving.store(true, Ordering::SeqCst);
        self.ring();
    }

    /// Whether it is still there though it is to be taken away.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.is_leaving.load(Ordering::SeqCst)
    }

    /// Whether there is a queue.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.is_taken.load(Ordering::SeqCst)
    }

    /// Takes the queue away.
    pub fn clear(&self) {
        *lock(&self.queue) = None;
        self.is_taken.store(false, Ordering::SeqCst);
        self.is_leaving.store(false, Ordering::SeqCst);
    }

    /// Looks at the queue, if there is one.
    pub fn look<T>(&self, look: impl FnOnce(&Virtqueue) -> T) -> Option<T> {
        lock(&self.queue).as_ref().map(look)
    }
}

impl Session {
    /// A session with these features agreed on.
    #[must_use]
    pub fn new(memory: GuestMemory, features: u64, shared: Arc<Shared>) -> Self {
        Self(Arc::new(Inner { memory, features, shared }))
    }

    /// Guest memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.0.memory
    }

    /// Whether all of these features were agreed on.
    #[must_use]
    pub fn has(&self, features: u64) -> bool {
        self.0.features & features == features
    }

    /// What the session shares with its transport.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// A queue, if the driver has enabled it.
    #[must_use]
    pub fn queue(&self, index: u16) -> Option<ActiveQueue<'_>> {
        let shared = self.shared();
        let queue = lock(&shared.slot(index)?.queue);
        queue.is_some().then_some(ActiveQueue { index, queue, shared, has_given: false })
    }

    /// Tells the driver that the device's configuration has changed.
    pub fn config_changed(&self) {
        self.shared().generation.fetch_add(1, Ordering::SeqCst);
        self.shared().interrupts.config();
    }

    /// The driver has broken a rule: nothing more is done for it until a reset.
    pub fn fail(&self, violation: Violation) {
        self.shared().fail(violation);
        self.shared().interrupts.config();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let broken = self.shared().violation();
        f.debug_struct("Session")
            .field("features", &self.0.features)
            .field("broken", &broken)
            .finish_non_exhaustive()
    }
}

/// A queue while a worker works on it. Dropped, it interrupts the driver if that wants to hear of what was given back.
pub struct ActiveQueue<'a> {
    index: u16,
    queue: MutexGuard<'a, Option<Virtqueue>>,
    shared: &'a Shared,
    has_given: bool,
}

impl ActiveQueue<'_> {
    fn queue(&mut self) -> Result<&mut Virtqueue, Violation> {
        // Only made with a queue, which nobody takes meanwhile.
        self.queue.as_mut().ok_or(Violation::Host)
    }

    /// How many entries it has.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.queue.as_ref().map_or(0, |queue| queue.setup().size)
    }

    /// [`Virtqueue::pop`].
    ///
    /// # Errors
    /// The driver has broken a rule.
    pub fn pop(&mut self) -> Result<Option<Chain>, Violation> {
        self.queue()?.pop()
    }

    /// [`Virtqueue::put_back`].
    ///
    /// # Errors
    /// There is no queue.
    pub fn put_back(&mut self) -> Result<(), Violation> {
        self.queue()?.put_back();
        Ok(())
    }

    /// [`Virtqueue::push`].
    ///
    /// # Errors
    /// The driver has broken a rule.
    pub fn push(&mut self, head: u16, written: u32) -> Result<(), Violation> {
        self.has_given = true;
        self.queue()?.push(head, written)
    }

    /// [`Virtqueue::quiet`].
    ///
    /// # Errors
    /// The driver has broken a rule.
    pub fn quiet(&mut self) -> Result<(), Violation> {
        self.queue()?.quiet()
    }

    /// [`Virtqueue::listen`].
    ///
    /// # Errors
    /// The driver has broken a rule.
    pub fn listen(&mut self) -> Result<bool, Violation> {
        self.queue()?.listen()
    }

    /// Takes each available buffer in turn, with the driver's doorbell quiet, and gives it back with the number of bytes that
    /// `work` says. No more than the queue has entries, so that nobody is kept busy for ever.
    ///
    /// # Errors
    /// The driver has broken a rule.
    pub fn each(
        &mut self,
        work: impl FnMut(&Chain) -> Result<u32, Violation>,
    ) -> Result<super::device::Served, Violation> {
        self.some(self.size(), work)
    }

    /// As [`ActiveQueue::each`] with at most this many buffers, for work that takes long.
    ///
    /// # Errors
    /// The driver has broken a rule.
    pub fn some(
        &mut self,
        most: u16,
        mut work: impl FnMut(&Chain) -> Result<u32, Violation>,
    ) -> Result<super::device::Served, Violation> {
        use super::device::Served;
        self.quiet()?;
        for _ in 0..most {
            let Some(chain) = self.pop()? else {
                return Ok(if self.listen()? { Served::Some } else { Served::All });
            };
            let written = work(&chain)?;
            self.push(chain.head, written)?;
        }
        Ok(Served::Some)
    }

    /// Interrupts the driver if it wants to hear of what was given back.
    ///
    /// # Errors
    /// The driver has broken a rule.
    pub fn notify(&mut self) -> Result<(), Violation> {
        if std::mem::take(&mut self.has_given) && self.queue()?.wants_interrupt()? {
            self.shared.interrupts.queue(self.index);
        }
        Ok(())
    }
}

impl Drop for ActiveQueue<'_> {
    fn drop(&mut self) {
        // The rings were there when the queue was made; should they not be, the next access says so.
        let _ = self.notify();
    }
}
