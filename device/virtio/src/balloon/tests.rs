//! The balloon as its driver uses and misuses it.

use tern_engine::GuestMemory;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::driver::register::DEVICE;
use crate::driver::{PciDriver, RING_SIZE, Ring};
use crate::feature::VERSION_1;
use crate::queue::Violation;

/// Where the driver has its page numbers.
const NUMBERS: u64 = 0x10_0000;
/// The pages that it gives.
const GIVEN: u64 = 0x20_0000;

struct Subject {
    device: Arc<Balloon>,
    driver: PciDriver,
    rings: Vec<Ring>,
}

fn rings(memory: &GuestMemory) -> Vec<Ring> {
    let ring = |index| Ring::new(memory, index, 0x1_0000 + u64::from(index) * RING_SIZE, 128, 128);
    (0..5).map(ring).collect()
}

fn subject() -> Subject {
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x40_0000)]).unwrap();
    let device = Arc::new(Balloon::new(0).unwrap());
    let rings = rings(&memory);
    let driver = PciDriver::new(Arc::<Balloon>::clone(&device), memory);
    driver.start(&rings.iter().collect::<Vec<_>>());
    Subject { device, driver, rings }
}

impl Subject {
    fn begin(&mut self, queue: u16, pages: &[u32]) {
        let bytes: Vec<u8> = pages.iter().flat_map(|page| page.to_le_bytes()).collect();
        self.rings[usize::from(queue)].put(NUMBERS, &bytes);
        self.rings[usize::from(queue)].send(0, &[(NUMBERS, bytes.len() as u32, false)]);
        self.driver.ring(queue);
    }

    fn send(&mut self, queue: u16, pages: &[u32]) {
        self.begin(queue, pages);
        self.driver.wait_used(&mut self.rings[usize::from(queue)]);
    }

    /// The first byte of each of the given pages.
    fn given<const N: usize>(&self) -> [u8; N] {
        let first = |page| self.driver.memory.read_obj(GuestAddress(GIVEN + page as u64 * PAGE)).unwrap();
        std::array::from_fn(first)
    }

    fn fill(&self) {
        self.driver.memory.write_slice(&[7; 0x1_0000], GuestAddress(GIVEN)).unwrap();
    }
}

const fn page(index: u64) -> u32 {
    (GIVEN / PAGE + index) as u32
}

#[test]
fn given_pages_leave_memory_and_others_stay() {
    let mut subject = subject();
    subject.fill();
    subject.send(0, &[page(5), page(1), page(2), page(2)]);
    assert_eq!(subject.given(), [7, 0, 0, 7, 7, 0, 7]);
    subject.send(1, &[page(1), page(2)]);
    subject.driver.memory.write_obj(9_u8, GuestAddress(GIVEN + PAGE)).unwrap();
    assert_eq!(subject.given(), [7, 9, 0, 7, 7, 0, 7]);
}

#[test]
fn the_target_and_what_was_given_are_in_the_configuration() {
    let subject = subject();
    subject.device.set_target(10 * PAGE - 1);
    subject.driver.interrupted.wait_until("it is told", || subject.driver.interrupted.count(5) == 1);
    assert_eq!(subject.driver.read(DEVICE), [10, 0, 0, 0, 0, 0, 0, 0]);
    subject.driver.write(DEVICE + 4, &[3, 0, 0, 0]);
    assert_eq!(subject.device.actual(), 3 * PAGE);
    for (offset, data) in [(DEVICE, &[9; 4][..]), (DEVICE + 4, &[9; 2]), (DEVICE + 6, &[9; 4])] {
        subject.driver.write(offset, data);
    }
    assert_eq!(subject.driver.read(DEVICE), [10, 0, 0, 0, 3, 0, 0, 0]);
    subject.device.set_target(10 * PAGE);
    subject.driver.reset();
    assert_eq!((subject.device.actual(), subject.driver.read(DEVICE)), (0, [10, 0, 0, 0]));
}

#[test]
fn reported_pages_leave_memory_by_either_queue() {
    for queue in [3, 4] {
        let mut subject = subject();
        subject.fill();
        let ring = &mut subject.rings[queue];
        ring.send(0, &[(GIVEN + PAGE, 2 * PAGE as u32, true), (GIVEN + 4 * PAGE + 1, PAGE as u32, true)]);
        subject.driver.ring(queue as u16);
        subject.driver.wait_used(&mut subject.rings[queue]);
        assert_eq!(subject.given(), [7, 0, 0, 7, 7, 7]);
    }
}

#[test]
fn a_driver_without_statistics_may_report_where_they_would_be() {
    let mut subject = subject();
    assert!(subject.driver.negotiate(VERSION_1 | F_REPORTING));
    subject.rings = rings(&subject.driver.memory);
    subject.rings[..3].iter().for_each(|ring| subject.driver.enable(ring));
    subject.driver.ready();
    subject.fill();
    subject.rings[2].send(0, &[(GIVEN, PAGE as u32, true)]);
    subject.driver.ring(2);
    subject.driver.wait_used(&mut subject.rings[2]);
    assert_eq!(subject.given(), [0, 7]);
}

#[test]
fn statistics_are_asked_for_with_the_drivers_buffer() {
    let mut subject = subject();
    assert_eq!(subject.device.statistics(Duration::from_millis(1)), None);
    let mut tell = |free: u64| {
        let ring = &mut subject.rings[2];
        ring.put(NUMBERS, &[&[4, 0][..], &free.to_le_bytes()].concat());
        ring.send(9, &[(NUMBERS, 10, false)]);
        subject.driver.ring(2);
    };
    tell(1000);
    let device = Arc::clone(&subject.device);
    let answered = std::thread::spawn(move || {
        loop {
            // The first answer may be the one from before.
            let statistics = device.statistics(Duration::from_secs(20)).unwrap();
            if statistics.free == Some(2000) {
                return;
            }
        }
    });
    let ring = &mut subject.rings[2];
    assert_eq!(subject.driver.wait_used(ring), (9, 0));
    ring.put(NUMBERS, &[&[4, 0][..], &2000_u64.to_le_bytes()].concat());
    ring.offer(9);
    subject.driver.ring(2);
    while !answered.is_finished() {
        if ring.used().is_some() {
            ring.offer(9);
            subject.driver.ring(2);
        }
    }
    answered.join().unwrap();
}

#[test]
fn numbers_that_are_no_pages_break_the_rules() {
    let breaks = |mistake: fn(&mut Subject)| {
        let mut subject = subject();
        subject.fill();
        mistake(&mut subject);
        subject.driver.wait_broken();
        assert!(matches!(subject.driver.function.violation(), Some(Violation::Request(_))));
    };
    breaks(|subject| subject.begin(0, &[0x400]));
    breaks(|subject| subject.begin(0, &[page(1), u32::MAX]));
    breaks(|subject| subject.begin(1, &[page(1), u32::MAX]));
    breaks(|subject| {
        subject.rings[0].send(0, &[(NUMBERS, 6, false)]);
        subject.driver.ring(0);
    });
    breaks(|subject| {
        subject.rings[0].send(0, &[(0x10_0000, 0x4_0004, false)]);
        subject.driver.ring(0);
    });
}

#[test]
fn a_balloon_goes_on_elsewhere_with_the_buffer_that_it_holds() {
    let mut subject = subject();
    subject.device.set_target(16 * PAGE);
    subject.driver.write(DEVICE + 4, &[4, 0, 0, 0]);
    subject.rings[2].put(NUMBERS, &[4, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    subject.rings[2].send(9, &[(NUMBERS, 10, false)]);
    subject.driver.ring(2);
    assert!(subject.device.statistics(Duration::from_secs(20)).is_some());
    subject.driver.function.pause();
    let state = subject.driver.function.save();
    let device = Arc::new(Balloon::new(0).unwrap());
    let driver = PciDriver::new(Arc::<Balloon>::clone(&device), subject.driver.memory.clone());
    driver.function.restore(&state).unwrap();
    driver.function.resume();
    assert_eq!((device.actual(), driver.read(DEVICE)), (4 * PAGE, [16, 0, 0, 0]));
    let _ = device.statistics(Duration::from_millis(1));
    assert_eq!(driver.wait_used(&mut subject.rings[2]), (9, 0));
}
