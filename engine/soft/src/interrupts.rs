//! The machine's interrupt controllers and interval timer, shared by its processors.
//!
//! The controllers themselves are `tern-chipset`'s; this file connects them: lines to pins, messages to local APICs, and
//! whatever concerns a processor to its [`Mailbox`], where its thread notices it. A local APIC's lock is never held while
//! another lock is taken.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tern_chipset::InvalidState;
use tern_chipset::Time;
use tern_chipset::interrupt::{DeliveryMode, Destination, Message, Trigger, lowest_priority};
use tern_chipset::ioapic::IoApic;
use tern_chipset::lapic::{Effect, LocalApic, Signal};
use tern_chipset::layout::irq;
use tern_chipset::pic::Pic;
use tern_chipset::pit::Pit;
use tern_engine::{Clock, Kick, VmState};
use tern_x86::cpuid::CpuIdentity;

/// Something that a processor must do between two instructions.
pub mod event {
    /// Leave the guest.
    pub const KICK: u32 = 1 << 0;
    /// Take a non-maskable interrupt.
    pub const NMI: u32 = 1 << 1;
    /// Take INIT.
    pub const INIT: u32 = 1 << 2;
    /// Take a start-up interrupt.
    pub const STARTUP: u32 = 1 << 3;
    /// Do not halt, or not the next time.
    pub const WAKE: u32 = 1 << 4;
}

use crate::time::TimeStampCounter;

/// A redirection entry's Remote IRR: its interrupt is being served.
const REMOTE_IRR: u64 = 1 << 14;
/// OCW2 of the 8259: the bits that tell it from other commands and that it ends an interrupt.
const PIC_COMMAND: u8 = 0b0011_1000;
const PIC_END_OF_INTERRUPT: u8 = 0b0010_0000;

/// No deadline.
const NEVER: u64 = u64::MAX;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What reaches one processor from outside its thread.
#[derive(Debug)]
pub struct Mailbox {
    /// Set when anything below may concern the processor; its thread looks at every block.
    attention: AtomicBool,
    events: AtomicU32,
    startup_vector: AtomicU32,
    /// When the local APIC's timer is due next, in nanoseconds.
    deadline: AtomicU64,
    apic: Mutex<LocalApic>,
    asleep: Mutex<()>,
    wake: Condvar,
}

impl Mailbox {
    fn new(id: u32) -> Self {
        Self {
            attention: AtomicBool::new(false),
            events: AtomicU32::new(0),
            startup_vector: AtomicU32::new(0),
            deadline: AtomicU64::new(NEVER),
            apic: Mutex::new(power_on_apic(id)),
            asleep: Mutex::default(),
            wake: Condvar::new(),
        }
    }

    /// Whether anything waits; cheap enough for every block, and for every operation that translated code leaves to the interpreter.
    #[inline(always)]
    pub fn attention(&self) -> bool {
        self.attention.load(Ordering::Relaxed)
    }

    /// Where [`Mailbox::attention`] is kept, as long as the mailbox is.
    pub fn attention_flag(&self) -> *const AtomicBool {
        &raw const self.attention
    }

    /// Takes the notice down, before looking at what it was for.
    pub fn take_attention(&self) {
        self.attention.store(false, Ordering::SeqCst);
    }

    /// Takes all events.
    pub fn take_events(&self) -> u32 {
        self.events.swap(0, Ordering::SeqCst)
    }

    /// Leaves an event for the processor's thread, and makes it look.
    pub fn post(&self, event: u32) {
        self.events.fetch_or(event, Ordering::SeqCst);
        self.notify();
    }

    /// The page number of the last start-up interrupt.
    pub fn startup_vector(&self) -> u8 {
        self.startup_vector.load(Ordering::SeqCst) as u8
    }

    /// The local APIC.
    pub fn apic(&self) -> MutexGuard<'_, LocalApic> {
        lock(&self.apic)
    }

    /// When the local APIC's timer is due.
    pub fn deadline(&self) -> Time {
        Time::from_nanos(self.deadline.load(Ordering::Relaxed))
    }

    /// Lets the local APIC's timer do what is due, and notes when it is due next.
    pub fn poll_timer(&self, now: Time, tsc: TimeStampCounter) {
        let mut apic = self.apic();
        apic.poll(now, tsc.at(now));
        let counting = apic.deadline().map_or(NEVER, Time::as_nanos);
        let tsc = apic.tsc_deadline().map_or(NEVER, |deadline| tsc.reaches(deadline).as_nanos());
        self.deadline.store(counting.min(tsc), Ordering::Relaxed);
        if apic.pending().is_some() {
            self.attention.store(true, Ordering::SeqCst);
        }
    }

    /// Makes the processor's thread look.
    pub fn notify(&self) {
        self.attention.store(true, Ordering::SeqCst);
        // Taking the lock orders this after a sleeper's last look at `attention`.
        drop(lock(&self.asleep));
        self.wake.notify_one();
    }

    /// Sleeps until somebody notifies or `timeout` has passed.
    pub fn sleep(&self, timeout: Option<Duration>) {
        let guard = lock(&self.asleep);
        if self.attention.load(Ordering::SeqCst) {
            return;
        }
        // Spurious wake-ups are harmless: the sleeper looks and sleeps again.
        match timeout {
            Some(timeout) => drop(self.wake.wait_timeout(guard, timeout)),
            None => drop(self.wake.wait(guard)),
        }
    }

    fn signal(&self, signal: Signal) {
        let event = match signal {
            Signal::Nmi => event::NMI,
            Signal::Init => event::INIT,
            Signal::Startup(vector) => {
                self.startup_vector.store(u32::from(vector), Ordering::SeqCst);
                event::STARTUP
            }
            // There is no SMM; ExtINT is looked for whenever the processor looks at all.
            Signal::Smi | Signal::ExtInt => 0,
        };
        self.events.fetch_or(event, Ordering::SeqCst);
    }
}

impl Kick for Mailbox {
    fn kick(&self) {
        self.post(event::KICK);
    }
}

/// A local APIC as firmware would leave it: the first processor's lets the 8259's interrupts through.
fn power_on_apic(id: u32) -> LocalApic {
    let mut apic = LocalApic::new(id, id == 0);
    if id == 0 {
        apic.enter_virtual_wire_mode();
    }
    apic
}

/// The 8259s and the IO-APIC as firmware would leave them.
fn power_on_lines() -> Lines {
    let mut ioapic = IoApic::new();
    ioapic.enter_virtual_wire_mode();
    Lines { pic: Pic::new(), ioapic }
}

/// Is called when the guest has ended the interrupt of a line.
pub type EndObserver = Box<dyn Fn() + Send + Sync>;

/// Who is told of the ends of lines' interrupts.
#[derive(Default)]
struct Observers {
    /// Bit `n`: somebody observes line `n`.
    observed: AtomicU32,
    observers: Mutex<[Option<EndObserver>; 24]>,
}

impl std::fmt::Debug for Observers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Observers").field("observed", &self.observed).finish_non_exhaustive()
    }
}

/// The pins of the machine's two kinds of interrupt controller.
#[derive(Debug)]
struct Lines {
    pic: Pic,
    ioapic: IoApic,
}

impl Lines {
    /// The line is not asserted any more.
    fn release(&mut self, gsi: u8) {
        if gsi < 16 {
            self.pic.set_line(gsi, false);
        }
        // A line that falls sends nothing.
        let _ = self.ioapic.set_line(pin(gsi), false);
    }

    /// Whether a local APIC that has ended `vector` has ended this line's level-triggered interrupt.
    fn serves(&self, gsi: u8, vector: u8) -> bool {
        let entry = self.ioapic.save().redirection[usize::from(pin(gsi))];
        let [its_vector, ..] = entry.to_le_bytes();
        its_vector == vector && entry & REMOTE_IRR != 0
    }
}

/// Where a line (below 24) arrives at the IO-APIC.
fn pin(gsi: u8) -> u8 {
    if gsi == irq::TIMER { irq::TIMER_PIN } else { gsi }
}

/// All of it.
#[derive(Debug)]
pub struct Interrupts {
    lines: Mutex<Lines>,
    pit: Mutex<Pit>,
    /// When channel 0 of the PIT is due next, in nanoseconds.
    pit_deadline: AtomicU64,
    processors: Vec<Arc<Mailbox>>,
    observers: Observers,
    clock: Arc<Clock>,
    /// What kvm-clock shows more than the machine's clock, in nanoseconds, wrapping.
    kvm_clock_offset: AtomicU64,
}

impl Interrupts {
    /// The controllers of a machine with `cpus` processors, after power-on.
    pub fn new(cpus: u32, clock: Arc<Clock>) -> Self {
        Self {
            lines: Mutex::new(power_on_lines()),
            pit: Mutex::new(Pit::new()),
            pit_deadline: AtomicU64::new(NEVER),
            processors: (0..cpus).map(|id| Arc::new(Mailbox::new(id))).collect(),
            observers: Observers::default(),
            clock,
            kvm_clock_offset: AtomicU64::new(0),
        }
    }

    /// Back to the state after power-on.
    pub fn reset(&self) {
        *lock(&self.lines) = power_on_lines();
        *lock(&self.pit) = Pit::new();
        self.pit_deadline.store(NEVER, Ordering::Relaxed);
        for (id, mailbox) in (0..).zip(&self.processors) {
            *mailbox.apic() = power_on_apic(id);
            mailbox.events.store(0, Ordering::SeqCst);
            mailbox.deadline.store(NEVER, Ordering::Relaxed);
        }
    }

    /// The controllers' and the timer's part of the machine's state; `identity` is the processors'.
    pub fn save(&self, identity: CpuIdentity) -> VmState {
        let lines = lock(&self.lines);
        VmState {
            identity,
            pic: lines.pic.save(),
            ioapic: lines.ioapic.save(),
            pit: lock(&self.pit).save(),
            local_apics: self.processors.iter().map(|mailbox| mailbox.apic().save()).collect(),
            kvm_clock: self.kvm_clock(self.clock.now()),
        }
    }

    /// Takes over a state. What is due is found when the processors run.
    ///
    /// # Errors
    /// It is the state of no such controllers.
    pub fn restore(&self, state: &VmState) -> Result<(), InvalidState> {
        let mut lines = lock(&self.lines);
        lines.pic.restore(&state.pic)?;
        lines.ioapic.restore(&state.ioapic)?;
        drop(lines);
        let mut pit = lock(&self.pit);
        pit.restore(&state.pit)?;
        self.note_pit_deadline(&pit);
        drop(pit);
        for (mailbox, apic) in self.processors.iter().zip(&state.local_apics) {
            mailbox.apic().restore(apic)?;
            mailbox.deadline.store(0, Ordering::Relaxed);
        }
        let offset = state.kvm_clock.wrapping_sub(self.clock.now().as_nanos());
        self.kvm_clock_offset.store(offset, Ordering::Relaxed);
        self.notify_all();
        Ok(())
    }

    /// What kvm-clock shows, in nanoseconds.
    pub fn kvm_clock(&self, now: Time) -> u64 {
        now.as_nanos().wrapping_add(self.kvm_clock_offset.load(Ordering::Relaxed))
    }

    /// Wakes the processor with this APIC ID from HLT.
    pub fn wake(&self, apic_id: u32) {
        if let Some(mailbox) = self.processors.iter().find(|mailbox| mailbox.apic().id() == apic_id) {
            mailbox.post(event::WAKE);
        }
    }

    /// Sends the processor with this APIC ID the interrupt, or the NMI, that the low half of an ICR tells; whether there is
    /// such a processor and such an interrupt.
    pub fn send_one(&self, apic_id: u32, icr: u32) -> bool {
        let [vector, mode, ..] = icr.to_le_bytes();
        let delivery_mode = match mode & 7 {
            0 => DeliveryMode::Fixed,
            4 => DeliveryMode::Nmi,
            _ => return false,
        };
        let destination = Destination::Physical(apic_id);
        let message = Message { destination, delivery_mode, vector, trigger: Trigger::Edge, assert: true };
        let receiver = self.processors.iter().find(|mailbox| mailbox.apic().accepts(&message, None));
        receiver.map(|mailbox| deliver(mailbox, &message)).is_some()
    }

    /// A processor's mailbox.
    pub fn mailbox(&self, index: usize) -> Option<&Arc<Mailbox>> {
        self.processors.get(index)
    }

    /// How many processors there are.
    pub fn processors(&self) -> usize {
        self.processors.len()
    }

    /// The clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Makes every processor look.
    pub fn notify_all(&self) {
        self.processors.iter().for_each(|mailbox| mailbox.notify());
    }

    /// Lets `observer` be told whenever the guest has ended line `gsi`'s interrupt; the line is released then. False if
    /// there is no such line or it has an observer.
    pub fn observe_end(&self, gsi: u32, observer: EndObserver) -> bool {
        let mut observers = lock(&self.observers.observers);
        match observers.get_mut(gsi as usize) {
            Some(place @ None) => {
                *place = Some(observer);
                self.observers.observed.fetch_or(1 << gsi, Ordering::SeqCst);
                true
            }
            _ => false,
        }
    }

    /// Undoes [`Interrupts::observe_end`].
    pub fn forget_end(&self, gsi: u32) {
        let mut observers = lock(&self.observers.observers);
        if let Some(place) = observers.get_mut(gsi as usize) {
            *place = None;
            self.observers.observed.fetch_and(!(1 << gsi), Ordering::SeqCst);
        }
    }

    /// Releases the observed lines that `concerned` picks, and tells their observers.
    fn lines_ended(&self, concerned: impl Fn(&Lines, u8) -> bool) {
        let observed = self.observers.observed.load(Ordering::SeqCst);
        if observed == 0 {
            return;
        }
        let mut ended = 0_u32;
        let mut lines = lock(&self.lines);
        for gsi in (0..24).filter(|gsi| observed >> gsi & 1 != 0) {
            if concerned(&lines, gsi) {
                lines.release(gsi);
                ended |= 1 << gsi;
            }
        }
        drop(lines);
        let observers = lock(&self.observers.observers);
        for observer in (0..24).filter(|gsi| ended >> gsi & 1 != 0).filter_map(|gsi| observers[gsi].as_ref())
        {
            observer();
        }
    }

    /// Drives a line: 0 to 15 reach both kinds of controller, 16 to 23 the IO-APIC alone.
    pub fn set_line(&self, gsi: u32, level: bool) {
        let Ok(gsi) = u8::try_from(gsi) else { return };
        let message = {
            let mut lines = lock(&self.lines);
            if gsi < 16 {
                lines.pic.set_line(gsi, level);
            }
            if gsi < 24 { lines.ioapic.set_line(pin(gsi), level) } else { None }
        };
        if let Some(message) = message {
            self.send(&message, None);
        }
        self.offer_legacy();
    }

    /// Tells the processor that listens to the 8259s that they may have something.
    fn offer_legacy(&self) {
        if !lock(&self.lines).pic.output() {
            return;
        }
        for mailbox in &self.processors {
            if mailbox.apic().accepts_extint() {
                mailbox.notify();
            }
        }
    }

    /// Carries what a device writes to an interrupt's address. What is no message has no effect.
    pub fn send_msi(&self, address: u64, data: u32) {
        if let Some(message) = Message::from_msi(address, data) {
            self.send(&message, None);
        }
    }

    /// Carries a message to the local APICs it is for. `sender` is an APIC ID, for shorthands.
    pub fn send(&self, message: &Message, sender: Option<u32>) {
        if message.delivery_mode == DeliveryMode::LowestPriority {
            let accepting = self.processors.iter().enumerate().filter_map(|(n, mailbox)| {
                let apic = mailbox.apic();
                apic.accepts(message, sender).then(|| (n, apic.processor_priority()))
            });
            if let Some(n) = lowest_priority(accepting) {
                deliver(&self.processors[n], message);
            }
            return;
        }
        for mailbox in &self.processors {
            if mailbox.apic().accepts(message, sender) {
                deliver(mailbox, message);
            }
        }
    }

    /// Does what a local APIC's register write asks for. `sender` is its ID.
    pub fn carry_out(&self, effect: Effect, sender: u32) {
        match effect {
            Effect::None => {}
            Effect::Send(message) => self.send(&message, Some(sender)),
            Effect::EndOfInterrupt(vector) => {
                self.lines_ended(|lines, gsi| lines.serves(gsi, vector));
                let messages = lock(&self.lines).ioapic.end_of_interrupt(vector);
                for message in messages {
                    self.send(&message, None);
                }
            }
        }
    }

    /// The vector that the processor shall take now, if any; it counts as taken.
    pub fn acknowledge(&self, mailbox: &Mailbox) -> Option<u8> {
        let (vector, legacy) = {
            let mut apic = mailbox.apic();
            (apic.acknowledge(), apic.accepts_extint())
        };
        if vector.is_some() || !legacy {
            return vector;
        }
        let mut lines = lock(&self.lines);
        lines.pic.output().then(|| lines.pic.acknowledge())
    }

    /// Whether [`Interrupts::acknowledge`] would give a vector.
    pub fn pending(&self, mailbox: &Mailbox) -> bool {
        let (pending, legacy) = {
            let apic = mailbox.apic();
            (apic.pending().is_some(), apic.accepts_extint())
        };
        pending || legacy && lock(&self.lines).pic.output()
    }

    /// Lets the PIT do what is due.
    pub fn poll_pit(&self, now: Time) {
        if now.as_nanos() < self.pit_deadline.load(Ordering::Relaxed) {
            return;
        }
        let risen = {
            let mut pit = lock(&self.pit);
            let risen = pit.poll(now);
            self.note_pit_deadline(&pit);
            risen
        };
        if risen {
            self.set_line(u32::from(irq::TIMER), false);
            self.set_line(u32::from(irq::TIMER), true);
        }
    }

    /// When the PIT is due next.
    pub fn pit_deadline(&self) -> Time {
        Time::from_nanos(self.pit_deadline.load(Ordering::Relaxed))
    }

    fn note_pit_deadline(&self, pit: &Pit) {
        let deadline = pit.deadline().map_or(NEVER, Time::as_nanos);
        self.pit_deadline.store(deadline, Ordering::Relaxed);
    }

    /// Reads a port byte, if it belongs to the controllers or the timer.
    pub fn port_in(&self, port: u16) -> Option<u8> {
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => Some(lock(&self.lines).pic.read(port)),
            0x40..=0x43 | 0x61 => Some(lock(&self.pit).read(port, self.clock.now())),
            _ => None,
        }
    }

    /// Writes a port byte, if it belongs to the controllers or the timer; says whether it does.
    pub fn port_out(&self, port: u16, value: u8) -> bool {
        match port {
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1 => {
                // Which interrupt a command ends is not asked: devices that want attention still say so again.
                if matches!(port, 0x20 | 0xa0) && value & PIC_COMMAND == PIC_END_OF_INTERRUPT {
                    self.lines_ended(|_, gsi| gsi < 16);
                }
                lock(&self.lines).pic.write(port, value);
                self.offer_legacy();
            }
            0x40..=0x43 | 0x61 => {
                let mut pit = lock(&self.pit);
                pit.write(port, value, self.clock.now());
                self.note_pit_deadline(&pit);
                drop(pit);
                // A processor that sleeps must sleep for another time now.
                if let Some(first) = self.processors.first() {
                    first.notify();
                }
            }
            _ => return false,
        }
        true
    }

    /// Reads an IO-APIC register.
    pub fn ioapic_read(&self, offset: u16) -> u32 {
        lock(&self.lines).ioapic.read(offset)
    }

    /// Writes an IO-APIC register.
    pub fn ioapic_write(&self, offset: u16, value: u32) {
        let messages = lock(&self.lines).ioapic.write(offset, value);
        for message in messages {
            self.send(&message, None);
        }
    }
}

fn deliver(mailbox: &Mailbox, message: &Message) {
    let signal = mailbox.apic().deliver(message);
    if let Some(signal) = signal {
        mailbox.signal(signal);
    }
    mailbox.notify();
}
