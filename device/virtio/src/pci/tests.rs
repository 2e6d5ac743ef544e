//! The transport as drivers use and misuse it, with a device that copies.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use vm_memory::GuestAddress;

use super::*;
use crate::device::{Duty, Identity, Served, Worker};
use crate::driver::register::*;
use crate::driver::{INDIRECT, NEXT, PciDriver, RING_SIZE, Ring};
use crate::saved::DeviceState;

const MEMORY: usize = 0x10_0000;
const MOST: u16 = 16;

/// Copies what may be read to what may be written; queue 1 does so in its own time, one buffer per signal of `held`.
#[derive(Debug, Default)]
struct Copier {
    configuration: Mutex<[u8; 8]>,
    resets: AtomicU32,
    release: Mutex<Option<Receiver<()>>>,
}

impl Copier {
    /// The device, and who decides when queue 1 is done.
    fn held() -> (Arc<Self>, Sender<()>) {
        let (sender, receiver) = channel();
        (Arc::new(Self { release: Mutex::new(Some(receiver)), ..Self::default() }), sender)
    }
}

struct Copying {
    session: Session,
    release: Option<Receiver<()>>,
    held: Vec<crate::queue::Chain>,
}

impl VirtioDevice for Copier {
    fn identity(&self) -> Identity {
        Identity { id: 42, class: 0xff_00_00 }
    }

    fn features(&self) -> u64 {
        1 << 3
    }

    fn queues(&self) -> &[u16] {
        &[MOST, MOST]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let configuration = self.configuration.lock().unwrap();
        for (byte, value) in data.iter_mut().zip(configuration.iter().skip(offset as usize)) {
            *byte = *value;
        }
    }

    fn write_config(&self, offset: u64, data: &[u8]) {
        let mut configuration = self.configuration.lock().unwrap();
        for (place, value) in configuration.iter_mut().skip(offset as usize).zip(data) {
            *place = *value;
        }
    }

    fn start(&self, session: &Session) -> io::Result<Vec<Duty>> {
        let worker = |release| {
            Box::new(Copying { session: session.clone(), release, held: Vec::new() }) as Box<dyn Worker>
        };
        let release = self.release.lock().unwrap().take();
        Ok(vec![Duty { queues: 0..1, worker: worker(None) }, Duty { queues: 1..2, worker: worker(release) }])
    }

    fn reset(&self) {
        self.resets.fetch_add(1, Ordering::SeqCst);
    }

    fn save(&self) -> DeviceState {
        DeviceState::Nothing
    }
}

impl Copying {
    fn copy(session: &Session, chain: &crate::queue::Chain) -> u32 {
        let mut bytes = vec![0; chain.readable.total() as usize];
        chain.readable.read(session.memory(), &mut bytes).unwrap();
        chain.writable.write(session.memory(), &bytes).unwrap() as u32
    }
}

impl Worker for Copying {
    fn serve(&mut self, index: u16) -> Result<Served, Violation> {
        let mut queue = self.session.queue(index).unwrap();
        if self.release.is_none() {
            return queue.each(|chain| Ok(Self::copy(&self.session, chain)));
        }
        while let Some(chain) = queue.pop()? {
            self.held.push(chain);
        }
        Ok(Served::All)
    }

    fn drain(&mut self) -> Result<(), Violation> {
        for chain in self.held.drain(..) {
            let _ = self.release.as_ref().unwrap().recv();
            let mut queue = self.session.queue(1).unwrap();
            queue.push(chain.head, Self::copy(&self.session, &chain))?;
        }
        Ok(())
    }
}

fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap()
}

fn ring(memory: &GuestMemory, index: u16) -> Ring {
    Ring::new(memory, index, 0x1_0000 + u64::from(index) * RING_SIZE, MOST, MOST)
}

fn working() -> (PciDriver, [Ring; 2]) {
    let memory = memory();
    let rings = [ring(&memory, 0), ring(&memory, 1)];
    let driver = PciDriver::new(Arc::new(Copier::default()), memory);
    driver.start(&[&rings[0], &rings[1]]);
    (driver, rings)
}

/// Has the device copy five bytes.
fn copy(driver: &PciDriver, ring: &mut Ring) {
    ring.put(0x8_0000, b"hello");
    ring.put(0x8_1000, &[0; 5]);
    ring.send(2, &[(0x8_0000, 5, false), (0x8_1000, 5, true)]);
    driver.ring(ring.setup().index);
    assert_eq!(driver.wait_used(ring), (2, 5));
    assert_eq!(ring.get(0x8_1000, 5), b"hello");
}

#[test]
fn a_driver_gets_its_buffers_back_and_an_interrupt() {
    let (driver, [mut first, mut second]) = working();
    copy(&driver, &mut first);
    copy(&driver, &mut second);
    driver.interrupted.wait_until("both have interrupted", || {
        driver.interrupted.count(0) == 1 && driver.interrupted.count(1) == 1
    });
    assert_eq!(driver.interrupted.count(2), 0, "the configuration has not changed");
}

#[test]
fn buffers_from_before_the_driver_was_ready_are_found() {
    let memory = memory();
    let mut ring = ring(&memory, 0);
    let driver = PciDriver::new(Arc::new(Copier::default()), memory);
    assert!(driver.negotiate(driver.offered()));
    driver.enable(&ring);
    ring.send(0, &[(0x8_0000, 5, false), (0x8_1000, 5, true)]);
    assert_eq!(ring.used(), None);
    driver.ready();
    assert_eq!(driver.wait_used(&mut ring), (0, 5));
}

#[test]
fn without_messages_the_line_interrupts_until_the_status_is_read() {
    let (driver, [mut ring, _]) = working();
    // MSI-X is off after a reset of the function only.
    driver.function.reset();
    ring = Ring::new(&driver.memory, 0, ring.setup().descriptors, MOST, MOST);
    driver.start(&[&ring]);
    copy(&driver, &mut ring);
    driver.interrupted.wait_until("the line is high", || driver.interrupted.line());
    let mut status = [0; 2];
    driver.function.read_config(6, &mut status);
    assert_eq!(status[0] & 8, 8);
    assert_eq!((driver.byte(0x1000), driver.interrupted.line()), (1, false));
}

#[test]
fn a_driver_that_asks_for_what_is_not_offered_is_not_agreed_with() {
    let driver = PciDriver::new(Arc::new(Copier::default()), memory());
    let offered = driver.offered();
    assert_eq!(offered, feature::OF_EVERY_DEVICE | 1 << 3);
    for (features, agreed) in [(offered, true), (offered | 1 << 33, false), (1 << 3, false)] {
        assert_eq!(driver.negotiate(features), agreed, "{features:#x}");
    }
    driver.ready();
    driver.wait_broken();
    assert_eq!(driver.function.violation(), Some(Violation::NotNegotiated));
}

/// A working device that meets this must ask for a reset, and work again after it.
#[track_caller]
fn breaks(mistake: impl FnOnce(&PciDriver, &mut Ring)) -> Violation {
    let (driver, [mut ring, _]) = working();
    mistake(&driver, &mut ring);
    driver.wait_broken();
    driver.interrupted.wait_until("the driver hears of it", || driver.interrupted.count(2) > 0);
    let violation = driver.function.violation().unwrap();
    // Nothing more is done.
    let interrupts = driver.interrupted.count(0);
    driver.ring(0);
    driver.ring(1);
    assert_eq!((driver.interrupted.count(0), ring.used()), (interrupts, None));
    driver.reset();
    let mut ring = self::ring(&driver.memory, 0);
    driver.start(&[&ring]);
    copy(&driver, &mut ring);
    violation
}

#[test]
fn every_broken_rule_of_a_queue_ends_in_needs_reset_and_a_reset_repairs_it() {
    let outside = breaks(|driver, ring| {
        ring.send(0, &[(MEMORY as u64, 1, false)]);
        driver.ring(0);
    });
    assert_eq!(outside, Violation::BufferOutside { address: MEMORY as u64, length: 1 });
    let circle = breaks(|driver, ring| {
        ring.describe(ring.setup().descriptors, 0, (0x8_0000, 1), NEXT, 0);
        ring.offer(0);
        driver.ring(0);
    });
    assert_eq!(circle, Violation::Endless);
    let index = breaks(|driver, ring| {
        ring.put(ring.setup().driver + 2, &0x8000_u16.to_le_bytes());
        driver.ring(0);
    });
    assert_eq!(index, Violation::TooManyAvailable);
    let table = breaks(|driver, ring| {
        ring.describe(ring.setup().descriptors, 0, (0x8_0000, 7), INDIRECT, 0);
        ring.offer(0);
        driver.ring(0);
    });
    assert_eq!(table, Violation::IndirectSize(7));
    assert_eq!(breaks(|driver, _| driver.write(DEVICE_STATUS, &[1])), Violation::StatusCleared);
}

#[test]
fn queues_that_cannot_be_end_in_needs_reset_when_they_are_enabled() {
    let broken = |mistake: fn(&PciDriver)| {
        let memory = memory();
        let ring = ring(&memory, 0);
        let driver = PciDriver::new(Arc::new(Copier::default()), memory);
        assert!(driver.negotiate(driver.offered()));
        driver.write(QUEUE_SELECT, &[0, 0]);
        for (register, value) in [
            (QUEUE_DESC, ring.setup().descriptors),
            (QUEUE_DRIVER, ring.setup().driver),
            (QUEUE_DEVICE, ring.setup().device),
        ] {
            driver.write(register, &value.to_le_bytes());
        }
        mistake(&driver);
        driver.write(QUEUE_ENABLE, &[1, 0]);
        assert!(driver.status().contains(Status::NEEDS_RESET));
        assert_eq!((0..3).map(|vector| driver.interrupted.count(vector)).sum::<u32>(), 0, "not ready yet");
        driver.function.violation().unwrap()
    };
    let size = broken(|driver| driver.write(QUEUE_SIZE, &[12, 0]));
    assert_eq!(size, Violation::QueueSize { queue: 0, size: 12 });
    let size = broken(|driver| driver.write(QUEUE_SIZE, &[32, 0]));
    assert_eq!(size, Violation::QueueSize { queue: 0, size: 32 });
    for mistake in [
        |driver: &PciDriver| driver.write(QUEUE_DESC, &[0x08, 0, 1, 0]),
        |driver: &PciDriver| driver.write(QUEUE_DRIVER, &[0xff; 8]),
        |driver: &PciDriver| driver.write(QUEUE_DEVICE + 4, &[1, 0, 0, 0]),
        |driver: &PciDriver| driver.write(QUEUE_DEVICE, &[0; 8]),
    ] {
        assert_eq!(broken(mistake), Violation::QueuePlace { queue: 0 });
    }
}

#[test]
fn a_reset_waits_for_what_is_in_flight_and_the_driver_sees_that() {
    let (device, release) = Copier::held();
    let memory = memory();
    let mut ring = ring(&memory, 1);
    let driver = PciDriver::new(Arc::<Copier>::clone(&device), memory);
    driver.start(&[&ring]);
    let resets = device.resets.load(Ordering::SeqCst);
    ring.put(0x8_0000, b"hello");
    ring.send(0, &[(0x8_0000, 5, false), (0x8_1000, 5, true)]);
    driver.ring(1);
    // It is taken, and not given back.
    let taken = || driver.function.save().queues[1].progress.taken == 1;
    driver.interrupted.wait_until("the buffer is taken", taken);
    driver.write(DEVICE_STATUS, &[0]);
    for _ in 0..10 {
        assert_eq!(driver.status().bits(), 0xf);
        driver.write(DEVICE_STATUS, &[1]);
    }
    release.send(()).unwrap();
    driver.interrupted.wait_until("the device is reset", || driver.status().is_empty());
    assert_eq!(ring.get(0x8_1000, 5), b"hello");
    assert_eq!(device.resets.load(Ordering::SeqCst), resets + 1);
    assert_eq!(driver.read(QUEUE_ENABLE), [0, 0]);
}

#[test]
fn a_queue_is_reset_alone_and_can_be_used_again() {
    let (device, release) = Copier::held();
    let memory = memory();
    let (mut first, mut second) = (ring(&memory, 0), ring(&memory, 1));
    let driver = PciDriver::new(device, memory);
    driver.start(&[&first, &second]);
    second.send(0, &[(0x8_0000, 5, false), (0x8_1000, 5, true)]);
    driver.ring(1);
    let taken = || driver.function.save().queues[1].progress.taken == 1;
    driver.interrupted.wait_until("the buffer is taken", taken);
    driver.write(QUEUE_SELECT, &[1, 0]);
    driver.write(QUEUE_RESET, &[1, 0]);
    assert_eq!((driver.read(QUEUE_RESET), driver.read(QUEUE_ENABLE)), ([1, 0], [1, 0]));
    copy(&driver, &mut first);
    release.send(()).unwrap();
    driver.interrupted.wait_until("the queue is reset", || driver.read(QUEUE_RESET) == [0, 0]);
    assert_eq!((driver.read(QUEUE_ENABLE), driver.read(QUEUE_SIZE)), ([0, 0], [MOST as u8, 0]));
    second = ring(&driver.memory, 1);
    driver.enable(&second);
    release.send(()).unwrap();
    second.send(3, &[(0x8_0000, 5, false), (0x8_1000, 5, true)]);
    driver.ring(1);
    driver.interrupted.wait_until("the buffer is taken", taken);
    driver.function.pause();
    assert_eq!(second.used(), Some((3, 5)));
}

#[test]
fn a_paused_device_has_nothing_in_flight_and_goes_on_where_it_stopped() {
    let (driver, [mut ring, _]) = working();
    copy(&driver, &mut ring);
    driver.function.pause();
    ring.send(5, &[(0x8_0000, 5, false), (0x8_1000, 5, true)]);
    driver.ring(0);
    let state = driver.function.save();
    assert_eq!((state.queues[0].progress.taken, state.queues[0].progress.used), (1, 1));
    assert_eq!(ring.used(), None);
    driver.function.resume();
    assert_eq!(driver.wait_used(&mut ring), (5, 5));
}

#[test]
fn a_device_goes_on_elsewhere_from_its_state() {
    let (driver, [mut ring, _]) = working();
    copy(&driver, &mut ring);
    driver.function.place(0xc000_0000);
    driver.function.pause();
    ring.send(5, &[(0x8_0000, 5, false), (0x8_1000, 5, true)]);
    let state = driver.function.save();
    let other = PciDriver::new(Arc::new(Copier::default()), driver.memory.clone());
    other.function.restore(&state).unwrap();
    assert_eq!(other.function.decoded(), driver.function.decoded());
    assert_eq!(other.function.save(), state);
    other.function.resume();
    assert_eq!(other.wait_used(&mut ring), (5, 5));
    other.interrupted.wait_until("it interrupts", || other.interrupted.count(0) == 1);
    copy(&other, &mut ring);
}

#[test]
fn states_that_no_device_can_be_in_are_refused() {
    let (driver, _) = working();
    driver.function.pause();
    let good = driver.function.save();
    for damage in [
        |state: &mut State| state.endpoint.config[0] = 0,
        |state: &mut State| state.interrupts.queue_vectors[0] = 3,
        |state: &mut State| state.common.driver_features = 0,
        |state: &mut State| state.common.status = Status::DRIVER_OK,
        |state: &mut State| state.queues[0].setup.size = 3,
        |state: &mut State| state.queues[0].setup.descriptors = MEMORY as u64,
        |state: &mut State| state.queues[0].setup.index = 1,
        |state: &mut State| state.queues[1].setup.most = 64,
        |state: &mut State| state.queues[1].progress.taken = MOST + 1,
        |state: &mut State| state.queues.truncate(1),
    ] {
        let mut state = good.clone();
        damage(&mut state);
        assert!(driver.function.restore(&state).is_err());
    }
    driver.function.restore(&good).unwrap();
}

#[test]
fn the_window_reaches_the_region_through_configuration_space() {
    let driver = PciDriver::new(Arc::new(Copier::default()), memory());
    let window = {
        let mut register = driver.config_byte(0x34);
        while driver.config_byte(register + 3) != 5 {
            register = driver.config_byte(register + 1);
        }
        u16::from(register)
    };
    let choose = |offset: u32, length: u32| {
        driver.function.write_config(window + 4, &[0]);
        driver.function.write_config(window + 8, &offset.to_le_bytes());
        driver.function.write_config(window + 12, &length.to_le_bytes());
    };
    let read = || {
        let mut data = [0; 4];
        driver.function.read_config(window + 16, &mut data);
        u32::from_le_bytes(data)
    };
    choose(0x12, 2);
    assert_eq!(read() & 0xffff, 2, "two queues");
    choose(0x2000, 4);
    driver.function.write_config(window + 16, &[1, 2, 3, 4]);
    assert_eq!(driver.read(DEVICE), [1, 2, 3, 4]);
    assert_eq!(read(), 0x0403_0201);
    // None of these leads anywhere.
    for (offset, length) in [(0x2000, 3), (0x2001, 4), (0x8000, 4), (u32::MAX, 1), (0x2000, 0)] {
        choose(offset, length);
        driver.function.write_config(window + 16, &[9; 4]);
        let _ = read();
    }
    assert_eq!(driver.read(DEVICE), [1, 2, 3, 4]);
}

#[test]
fn any_access_to_any_place_is_survived() {
    let (driver, _) = working();
    for offset in (0..0x6010).chain([0x7ff8, 0x8000, u64::MAX - 7]) {
        for length in [1, 2, 4, 8] {
            let mut data = [0xa5; 8];
            driver.function.read_region(offset, &mut data[..length]);
            if !(0x14..0x18).contains(&offset) {
                driver.function.write_region(offset, &[0xff; 8][..length]);
            }
        }
    }
    for register in 0..0x1000 {
        driver.function.write_config(register, &[0xff]);
        driver.function.read_config(register, &mut [0; 4]);
    }
}
