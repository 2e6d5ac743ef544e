//! The PCI transport (virtio 1.2, section 4.1): a device as a PCI function, for drivers of virtio 1 only.
//!
//! ```text
//!  configuration space ── layout.rs: capabilities, window.rs: a way into the region for those who cannot map it
//!  BAR 0 ┬ common configuration ── common.rs: registers in, events out; status.rs
//!        ├ ISR status, MSI-X ───── interrupts.rs
//!        ├ device configuration ── the device
//!        └ doorbells ───────────── the session's slots; an engine may ring them without coming here
//! ```
//!
//! A reset is asked for, not waited for: the status reads as before until the workers have finished what is in flight, and
//! what the driver writes meanwhile has no effect. That is what drivers must expect (section 2.4.2).

mod common;
mod layout;
mod saved;
mod status;
#[cfg(test)]
mod tests;
mod window;

use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tern_chipset::InvalidState;
use tern_chipset::pci::{Bar, Command, Endpoint, Function as _};
use tern_engine::{EventFd, GuestMemory};
use thiserror::Error;

use crate::device::VirtioDevice;
use crate::interrupts::{InterruptSink, Interrupts};
use crate::queue::{Progress, Violation, Virtqueue};
use crate::session::{Crew, Order, Session, Shared};
use crate::{feature, new_event};
use common::{Common, Event, Outside};
use layout::Part;

pub use common::SIZE as COMMON_SIZE;
pub use layout::{BAR, MOST_QUEUES, doorbell};
pub use saved::{CommonState, QueueState, State};
pub use status::Status;

/// Why a device cannot be put on the bus.
#[derive(Debug, Error)]
pub enum AttachError {
    /// It cannot be shown.
    #[error("the device cannot be shown as a PCI function")]
    Function(#[from] tern_chipset::pci::DoesNotFit),
    /// It has more queues than there are doorbells.
    #[error("a virtio device has at most {MOST_QUEUES} queues, not {0}: give it fewer")]
    Queues(usize),
    /// The host has no descriptors left.
    #[error("the host has no file descriptors left for a device: raise the limit (`ulimit -n`)")]
    Events(#[source] io::Error),
}

/// A virtio device as a PCI function.
pub struct VirtioPci {
    name: String,
    device: Arc<dyn VirtioDevice>,
    memory: GuestMemory,
    interrupts: Arc<Interrupts>,
    shared: Arc<Shared>,
    registers: Mutex<Registers>,
}

struct Registers {
    endpoint: Endpoint,
    /// Where the capability begins that is a window into the region.
    window: u16,
    common: Common,
    running: Running,
    /// The machine stands still: whoever is started is parked.
    is_paused: bool,
}

/// Whether there are workers.
enum Running {
    No,
    Yes(Crew),
    /// They finish what is in flight, for a reset.
    Ending(Crew),
}

impl VirtioPci {
    /// Puts `device` on the bus, after reset, with its memory region nowhere. `name` is for its threads.
    ///
    /// # Errors
    /// It cannot be shown, or the host has no descriptors left.
    pub fn new(
        name: &str,
        device: Arc<dyn VirtioDevice>,
        memory: GuestMemory,
        sink: Box<dyn InterruptSink>,
    ) -> Result<Self, AttachError> {
        let queues = device.queues();
        let too_many = || AttachError::Queues(queues.len());
        let count = u16::try_from(queues.len()).ok().filter(|count| *count <= MOST_QUEUES);
        let count = count.ok_or_else(too_many)?;
        let (endpoint, window) = layout::endpoint(device.identity(), count)?;
        let doorbells = queues.iter().map(|_| new_event()).collect::<Result<_, _>>();
        let interrupts = Arc::new(Interrupts::new(count, sink));
        let shared = Shared::new(doorbells.map_err(AttachError::Events)?, Arc::clone(&interrupts));
        let common = Common::new(feature::OF_EVERY_DEVICE | device.features(), queues);
        let registers = Registers { endpoint, window, common, running: Running::No, is_paused: false };
        let registers = Mutex::new(registers);
        Ok(Self { name: name.to_owned(), device, memory, interrupts, shared, registers })
    }

    fn lock(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rule that the driver has broken since the last reset, if it has.
    #[must_use]
    pub fn violation(&self) -> Option<Violation> {
        self.shared.violation()
    }

    /// Each queue's doorbell: its offset in the region, and what a write to it of any size and value signals.
    pub fn doorbells(&self) -> impl Iterator<Item = (u64, &EventFd)> {
        (0..).zip(self.shared.slots()).map(|(queue, slot)| (doorbell(queue), slot.doorbell()))
    }

    /// Puts the memory region to an address and enables the function, as firmware does.
    pub fn place(&self, address: u64) {
        let mut registers = self.lock();
        registers.endpoint.place_bar(BAR, address);
        registers.endpoint.enable();
    }

    /// Where the function answers as a memory region now.
    #[must_use]
    pub fn decoded(&self) -> Option<(Bar, Range<u64>)> {
        self.lock().endpoint.decoded(BAR).map(|addresses| (BAR, addresses))
    }

    /// Reads configuration registers, see [`tern_chipset::pci::Function`].
    pub fn read_config(&self, register: u16, data: &mut [u8]) {
        let (window, target) = {
            let mut registers = self.lock();
            let wants_line = self.interrupts.wants_line();
            registers.endpoint.show_interrupt(wants_line);
            registers.endpoint.read_config(register, data);
            (registers.window, window::target(&registers.endpoint, registers.window))
        };
        if let (true, Some(target)) = (window::is_data(window, register), target) {
            let mut value = [0; 4];
            self.read_region(target.offset, &mut value[..target.length]);
            window::part(&value, register, data);
        }
    }

    /// Writes configuration registers.
    pub fn write_config(&self, register: u16, data: &[u8]) {
        let (window, target) = {
            let mut registers = self.lock();
            registers.endpoint.write_config(register, data);
            let endpoint = &registers.endpoint;
            let is_line_disabled = endpoint.command().contains(Command::INTERRUPT_DISABLE);
            self.interrupts.set_control(endpoint.msix_control(), is_line_disabled);
            (registers.window, window::target(endpoint, registers.window))
        };
        if let (true, Some(target)) = (window::is_data(window, register), target)
            && data.len() == target.length
        {
            self.write_region(target.offset, data);
        }
    }

    /// Answers a read of 1 to 8 bytes at `offset` in the memory region.
    pub fn read_region(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let Some((part, offset)) = Part::at(offset) else { return };
        match part {
            Part::Common => self.read_common(offset, data),
            // It is one byte, and reading it has an effect.
            Part::Isr if offset == 0 => data[..1].fill(self.interrupts.read_isr()),
            Part::Device => self.device.read_config(offset, data),
            Part::Table => self.interrupts.read_table(offset, data),
            Part::Pending => self.interrupts.read_pending(offset, data),
            Part::Isr | Part::Notify => {}
        }
    }

    /// Takes a write of 1 to 8 bytes at `offset` in the memory region.
    pub fn write_region(&self, offset: u64, data: &[u8]) {
        let Some((part, offset)) = Part::at(offset) else { return };
        match part {
            Part::Common => self.write_common(offset, data),
            Part::Device => self.device.write_config(offset, data),
            Part::Table => self.interrupts.write_table(offset, data),
            Part::Notify => {
                let queue = u16::try_from(offset / u64::from(layout::NOTIFY_MULTIPLIER)).ok();
                if let Some(slot) = queue.and_then(|queue| self.shared.slot(queue)) {
                    slot.ring();
                }
            }
            Part::Isr | Part::Pending => {}
        }
    }

    fn read_common(&self, offset: u64, data: &mut [u8]) {
        let mut registers = self.lock();
        self.finish_resets(&mut registers);
        let selected = registers.common.selected();
        let is_broken = self.shared.is_broken();
        let outside = Outside {
            config_vector: self.interrupts.config_vector(),
            queue_vector: self.interrupts.queue_vector(selected),
            generation: self.shared.generation(),
            status: if is_broken { Status::NEEDS_RESET } else { Status::empty() },
            is_resetting: self.shared.slot(selected).is_some_and(|slot| slot.is_leaving()),
        };
        registers.common.read(offset, data, &outside);
    }

    fn write_common(&self, offset: u64, data: &[u8]) {
        let mut registers = self.lock();
        self.finish_resets(&mut registers);
        if matches!(registers.running, Running::Ending(_)) {
            return;
        }
        let Some(event) = registers.common.write(offset, data) else { return };
        match event {
            Event::Reset => self.begin_reset(&mut registers),
            Event::FeaturesOk => {
                if registers.common.may_agree() {
                    registers.common.agree();
                }
            }
            Event::DriverOk => {
                if let Err(violation) = self.start(&mut registers, &[]) {
                    self.fail(&registers, violation);
                }
            }
            Event::EnableQueue(index) => self.enable(&mut registers, index),
            Event::ResetQueue(index) => self.begin_queue_reset(&registers, index),
            Event::ConfigVector(vector) => self.interrupts.set_config_vector(vector),
            Event::QueueVector(index, vector) => self.interrupts.set_queue_vector(index, vector),
            Event::Broken(violation) => self.fail(&registers, violation),
        }
    }

    fn fail(&self, registers: &Registers, violation: Violation) {
        self.shared.fail(violation);
        // Before DRIVER_OK nobody may be interrupted.
        if registers.common.status().contains(Status::DRIVER_OK) {
            self.interrupts.config();
        }
    }

    /// A queue whose registers are set; whether they can be shows now.
    fn enable(&self, registers: &mut Registers, index: u16) {
        let Some(queue) = registers.common.queues().get(usize::from(index)) else { return };
        let features = registers.common.driver_features();
        match Virtqueue::new(&self.memory, queue.setup, features, Progress::default()) {
            Ok(queue) => {
                registers.common.enable(index);
                if let Some(slot) = self.shared.slot(index) {
                    slot.enable(queue);
                }
            }
            Err(violation) => self.fail(registers, violation),
        }
    }

    /// Starts the workers. `progress` is that of queues that were used elsewhere.
    fn start(&self, registers: &mut Registers, progress: &[Progress]) -> Result<(), Violation> {
        let features = registers.common.driver_features();
        for (index, progress) in progress.iter().enumerate() {
            let queue = &registers.common.queues()[index];
            if queue.is_enabled
                && let Some(slot) = self.shared.slot(queue.setup.index)
            {
                slot.enable(Virtqueue::new(&self.memory, queue.setup, features, *progress)?);
            }
        }
        let session = Session::new(self.memory.clone(), features, Arc::clone(&self.shared));
        let order = if registers.is_paused { Order::Park } else { Order::Run };
        let duties = self.device.start(&session);
        let crew = duties.and_then(|duties| Crew::start(&session, duties, &self.name, order));
        registers.running = Running::Yes(crew.map_err(|_| Violation::Host)?);
        Ok(())
    }

    fn begin_reset(&self, registers: &mut Registers) {
        match std::mem::replace(&mut registers.running, Running::No) {
            Running::Yes(crew) | Running::Ending(crew) => {
                crew.end();
                registers.running = Running::Ending(crew);
                self.finish_resets(registers);
            }
            Running::No => self.forget(registers),
        }
    }

    /// Notices that workers have ended, or given up a queue.
    fn finish_resets(&self, registers: &mut Registers) {
        match &registers.running {
            Running::Ending(crew) if crew.has_ended() => {
                registers.running = Running::No;
                self.forget(registers);
            }
            Running::Yes(..) => {
                for (index, slot) in (0..).zip(self.shared.slots()) {
                    let is_enabled = registers.common.queues().get(usize::from(index));
                    let is_gone = !slot.is_leaving() && !slot.is_taken();
                    if is_enabled.is_some_and(|queue| queue.is_enabled) && is_gone {
                        registers.common.reset_queue(index);
                    }
                }
            }
            Running::Ending(_) | Running::No => {}
        }
    }

    fn begin_queue_reset(&self, registers: &Registers, index: u16) {
        if let Some(slot) = self.shared.slot(index) {
            match registers.running {
                Running::Yes(..) => slot.leave(),
                // Nobody works on it.
                _ => slot.clear(),
            }
        }
    }

    /// The device is as new; its PCI function stays as it is.
    fn forget(&self, registers: &mut Registers) {
        registers.common.reset();
        self.shared.reset();
        self.interrupts.reset_device();
        self.device.reset();
    }

    /// Finishes what is in flight and stands still. Processors stand still already.
    pub fn pause(&self) {
        let mut registers = self.lock();
        registers.is_paused = true;
        match &registers.running {
            Running::Yes(crew) => crew.park(),
            // A reset is finished rather than saved half done.
            Running::Ending(_) => {
                registers.running = Running::No;
                self.forget(&mut registers);
            }
            Running::No => {}
        }
        self.finish_resets(&mut registers);
    }

    /// Goes on.
    pub fn resume(&self) {
        let mut registers = self.lock();
        registers.is_paused = false;
        if let Running::Yes(crew) = &registers.running {
            crew.run();
        }
    }

    /// Puts device and function into their reset state, with the memory region where it is placed next. Processors stand
    /// still.
    pub fn reset(&self) {
        let mut registers = self.lock();
        registers.running = Running::No;
        self.forget(&mut registers);
        // What could be built once can be built again.
        if let Ok((endpoint, _)) = layout::endpoint(self.device.identity(), self.interrupts.vectors() - 1) {
            registers.endpoint = endpoint;
        }
        self.interrupts.reset();
    }

    /// Finishes what is in flight and ends the workers: the machine's end.
    pub fn end(&self) {
        self.lock().running = Running::No;
    }

    /// All that the paused device holds.
    #[must_use]
    pub fn save(&self) -> State {
        let registers = self.lock();
        let queues = registers.common.queues().iter().map(|queue| {
            let slot = self.shared.slot(queue.setup.index);
            let progress = slot.and_then(|slot| slot.look(Virtqueue::progress));
            QueueState {
                setup: queue.setup,
                is_enabled: queue.is_enabled,
                progress: progress.unwrap_or_default(),
            }
        });
        State {
            endpoint: registers.endpoint.save(),
            interrupts: self.interrupts.save(),
            common: registers.common.save(),
            generation: self.shared.generation(),
            is_broken: self.shared.is_broken(),
            queues: queues.collect(),
            device: self.device.save(),
        }
    }

    /// Takes over what a device of the same kind held elsewhere. It stands still until [`VirtioPci::resume`].
    ///
    /// # Errors
    /// It is another device's, or no device's.
    pub fn restore(&self, state: &State) -> Result<(), InvalidState> {
        let mut registers = self.lock();
        registers.running = Running::No;
        registers.is_paused = true;
        self.forget(&mut registers);
        registers.endpoint.restore(&state.endpoint)?;
        registers.common.restore(&state.common, &state.queues)?;
        let endpoint = &registers.endpoint;
        let is_line_disabled = endpoint.command().contains(Command::INTERRUPT_DISABLE);
        self.interrupts.restore(&state.interrupts, endpoint.msix_control(), is_line_disabled)?;
        self.shared.set_generation(state.generation);
        self.device.restore(&state.device)?;
        let progress: Vec<_> = state.queues.iter().map(|queue| queue.progress).collect();
        if state.is_broken {
            self.shared.fail(Violation::Request("the driver broke a rule before the machine came here"));
        } else if state.common.status.contains(Status::DRIVER_OK) {
            let impossible =
                |_| InvalidState { device: "virtio device", reason: "its queues cannot be where it says" };
            self.start(&mut registers, &progress).map_err(impossible)?;
        } else {
            self.restore_waiting(&registers, &progress)?;
        }
        Ok(())
    }

    /// Queues that are enabled already, though the driver is not ready.
    fn restore_waiting(&self, registers: &Registers, progress: &[Progress]) -> Result<(), InvalidState> {
        let features = registers.common.driver_features();
        for (queue, progress) in registers.common.queues().iter().zip(progress) {
            if queue.is_enabled
                && let Some(slot) = self.shared.slot(queue.setup.index)
            {
                let queue = Virtqueue::new(&self.memory, queue.setup, features, *progress);
                slot.enable(queue.map_err(|_| InvalidState {
                    device: "virtio device",
                    reason: "its queues cannot be where it says",
                })?);
            }
        }
        Ok(())
    }
}
