//! A device on the bus, from its driver's side: registers, doorbells, interrupts.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tern_chipset::pci::MsiMessage;
use tern_engine::GuestMemory;

use super::ring::Ring;
use crate::device::VirtioDevice;
use crate::interrupts::{InterruptSink, Interrupts};
use crate::new_event;
use crate::pci::{Status, VirtioPci, doorbell};
use crate::queue::{Progress, Virtqueue};
use crate::session::{Session, Shared};

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// The interrupts of a device: how many of each vector, and the line.
#[derive(Debug, Clone, Default)]
pub struct Interrupted(Arc<(Mutex<Counts>, Condvar)>);

#[derive(Debug, Default)]
struct Counts {
    vectors: Vec<u32>,
    line: bool,
}

impl Interrupted {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many interrupts of this vector have come.
    #[must_use]
    pub fn count(&self, vector: u16) -> u32 {
        self.lock().vectors.get(usize::from(vector)).copied().unwrap_or(0)
    }

    /// Whether the line is high.
    #[must_use]
    pub fn line(&self) -> bool {
        self.lock().line
    }

    /// Waits until `condition` holds, which an interrupt may have changed.
    ///
    /// # Panics
    /// It does not in time.
    #[track_caller]
    pub fn wait_until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let started = Instant::now();
        while !condition() {
            assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
            let moment = Duration::from_millis(2);
            drop(self.0.1.wait_timeout(self.lock(), moment).unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl InterruptSink for Interrupted {
    fn send(&mut self, vector: u16, _message: MsiMessage) {
        let mut counts = self.lock();
        let place = usize::from(vector);
        if counts.vectors.len() <= place {
            counts.vectors.resize(place + 1, 0);
        }
        counts.vectors[place] += 1;
        self.0.1.notify_all();
    }

    fn set_line(&mut self, level: bool) {
        self.lock().line = level;
        self.0.1.notify_all();
    }
}

/// A session with these queues and features, for a worker that no thread calls but the test: it sees what one call does.
///
/// # Panics
/// There can be no such queues.
#[must_use]
pub fn session(memory: &GuestMemory, features: u64, rings: &[&Ring]) -> Session {
    let count = rings.iter().map(|ring| ring.setup().index + 1).max().unwrap_or(0);
    let doorbells = (0..count).map(|_| new_event().expect("the host has descriptors")).collect();
    let interrupts = Interrupts::new(count, Box::new(Interrupted::default()));
    let shared = Shared::new(doorbells, Arc::new(interrupts));
    for (slot, ring) in rings.iter().filter_map(|ring| Some((shared.slot(ring.setup().index)?, ring))) {
        let queue = Virtqueue::new(memory, ring.setup(), features, Progress::default());
        slot.enable(queue.expect("the driver sets queues up as it must"));
    }
    Session::new(memory.clone(), features, shared)
}

/// A driver and its device.
pub struct PciDriver {
    /// The device.
    pub function: VirtioPci,
    /// Guest memory.
    pub memory: GuestMemory,
    /// The device's interrupts.
    pub interrupted: Interrupted,
}

/// Offsets in the common configuration.
#[allow(missing_docs)]
pub mod register {
    pub const DEVICE_FEATURE_SELECT: u64 = 0x00;
    pub const DEVICE_FEATURE: u64 = 0x04;
    pub const DRIVER_FEATURE_SELECT: u64 = 0x08;
    pub const DRIVER_FEATURE: u64 = 0x0c;
    pub const CONFIG_MSIX_VECTOR: u64 = 0x10;
    pub const DEVICE_STATUS: u64 = 0x14;
    pub const CONFIG_GENERATION: u64 = 0x15;
    pub const QUEUE_SELECT: u64 = 0x16;
    pub const QUEUE_SIZE: u64 = 0x18;
    pub const QUEUE_MSIX_VECTOR: u64 = 0x1a;
    pub const QUEUE_ENABLE: u64 = 0x1c;
    pub const QUEUE_DESC: u64 = 0x20;
    pub const QUEUE_DRIVER: u64 = 0x28;
    pub const QUEUE_DEVICE: u64 = 0x30;
    pub const QUEUE_RESET: u64 = 0x3a;
    /// The device's own configuration, in the region.
    pub const DEVICE: u64 = 0x2000;
    /// MSI-X's table, in the region.
    pub const TABLE: u64 = 0x4000;
}

use register::*;

impl PciDriver {
    /// A driver of `device`, which has this memory. MSI-X is enabled, all its vectors are unmasked.
    ///
    /// # Panics
    /// The device cannot be put on a bus.
    #[must_use]
    pub fn new(device: Arc<dyn VirtioDevice>, memory: GuestMemory) -> Self {
        let interrupted = Interrupted::default();
        let sink = Box::new(interrupted.clone());
        let function =
            VirtioPci::new("test", device, memory.clone(), sink).expect("there can be such a device");
        let driver = Self { function, memory, interrupted };
        driver.enable_messages();
        driver
    }

    /// Enables MSI-X and unmasks all vectors.
    pub fn enable_messages(&self) {
        // Message control of the last capability: its number of vectors is there, too.
        let mut register = self.config_byte(0x34);
        while self.config_byte(register) != 0x11 {
            register = self.config_byte(register + 1);
        }
        let register = u16::from(register) + 2;
        let mut control = [0; 2];
        self.function.read_config(register, &mut control);
        let last = u16::from_le_bytes(control) & 0x7ff;
        self.function.write_config(register, &(1_u16 << 15).to_le_bytes());
        for vector in 0..=u64::from(last) {
            self.function.write_region(TABLE + 16 * vector + 12, &[0; 4]);
        }
    }

    /// A byte of the configuration space.
    #[must_use]
    pub fn config_byte(&self, register: u8) -> u8 {
        let mut byte = [0];
        self.function.read_config(register.into(), &mut byte);
        byte[0]
    }

    /// Reads from the region.
    #[must_use]
    pub fn read<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        self.function.read_region(offset, &mut data);
        data
    }

    /// Reads a byte of the region.
    #[must_use]
    pub fn byte(&self, offset: u64) -> u8 {
        let [byte] = self.read(offset);
        byte
    }

    /// Writes to the region.
    pub fn write(&self, offset: u64, data: &[u8]) {
        self.function.write_region(offset, data);
    }

    /// The device's status.
    #[must_use]
    pub fn status(&self) -> Status {
        Status::from_bits_retain(self.byte(DEVICE_STATUS))
    }

    /// The features that the device offers.
    #[must_use]
    pub fn offered(&self) -> u64 {
        let half = |select: u32| {
            self.write(DEVICE_FEATURE_SELECT, &select.to_le_bytes());
            u64::from(u32::from_le_bytes(self.read(DEVICE_FEATURE)))
        };
        half(0) | half(1) << 32
    }

    /// Resets the device and agrees with it on these features; whether it does.
    #[must_use]
    pub fn negotiate(&self, features: u64) -> bool {
        self.reset();
        self.write(DEVICE_STATUS, &[1]);
        self.write(DEVICE_STATUS, &[3]);
        for (select, half) in [(0_u32, features as u32), (1, (features >> 32) as u32)] {
            self.write(DRIVER_FEATURE_SELECT, &select.to_le_bytes());
            self.write(DRIVER_FEATURE, &half.to_le_bytes());
        }
        self.write(DEVICE_STATUS, &[0xb]);
        self.status().contains(Status::FEATURES_OK)
    }

    /// Resets the device and waits until it is.
    pub fn reset(&self) {
        self.write(DEVICE_STATUS, &[0]);
        self.interrupted.wait_until("the device is reset", || self.status().is_empty());
    }

    /// Sets a queue up and enables it; its vector is its number, the configuration's the one behind the last queue's.
    pub fn enable(&self, ring: &Ring) {
        let setup = ring.setup();
        self.write(QUEUE_SELECT, &setup.index.to_le_bytes());
        self.write(QUEUE_SIZE, &setup.size.to_le_bytes());
        self.write(QUEUE_DESC, &setup.descriptors.to_le_bytes());
        self.write(QUEUE_DRIVER, &setup.driver.to_le_bytes());
        self.write(QUEUE_DEVICE, &setup.device.to_le_bytes());
        self.write(QUEUE_MSIX_VECTOR, &setup.index.to_le_bytes());
        self.write(QUEUE_ENABLE, &1_u16.to_le_bytes());
    }

    /// The driver is ready.
    pub fn ready(&self) {
        self.write(DEVICE_STATUS, &[0xf]);
    }

    /// A device that works, with all that it offers agreed on, and these queues.
    ///
    /// # Panics
    /// It does not work.
    pub fn start(&self, rings: &[&Ring]) {
        assert!(self.negotiate(self.offered()), "the device agrees on what it offers");
        rings.iter().for_each(|ring| self.enable(ring));
        let queues: [u8; 2] = self.read(0x12);
        self.write(CONFIG_MSIX_VECTOR, &queues);
        self.ready();
        assert_eq!(self.status(), Status::from_bits_retain(0xf));
    }

    /// Rings a queue's doorbell.
    pub fn ring(&self, queue: u16) {
        self.write(doorbell(queue), &queue.to_le_bytes());
    }

    /// Waits for the next buffer that comes back.
    ///
    /// # Panics
    /// None does in time.
    #[track_caller]
    pub fn wait_used(&self, ring: &mut Ring) -> (u32, u32) {
        let mut used = None;
        self.interrupted.wait_until("a buffer comes back", || {
            used = used.or_else(|| ring.used());
            used.is_some()
        });
        used.expect("it has come")
    }

    /// Waits until the device asks for a reset.
    ///
    /// # Panics
    /// It does not in time.
    #[track_caller]
    pub fn wait_broken(&self) {
        let needs_reset = || self.status().contains(Status::NEEDS_RESET);
        self.interrupted.wait_until("the device needs a reset", needs_reset);
    }
}
