//! The console device between a simulated driver and programs of the host.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use tempfile::TempDir;
use tern_engine::GuestMemory;
use vm_memory::GuestAddress;

use super::*;
use crate::driver::register::{CONFIG_GENERATION, DEVICE};
use crate::driver::{PciDriver, RING_SIZE, Ring};
use crate::feature::VERSION_1;
use crate::queue::Violation;

const BUFFER: u64 = 0x1000;
const DATA: u64 = 0x20_0000;

const CONTROL_RX: usize = 2;
const CONTROL_TX: usize = 3;

struct Subject {
    directory: TempDir,
    device: Arc<Console>,
    driver: PciDriver,
    rings: Vec<Ring>,
}

fn rings(memory: &GuestMemory) -> Vec<Ring> {
    let ring = |index| Ring::new(memory, index, 0x1_0000 + u64::from(index) * RING_SIZE, 64, 64);
    (0..6).map(ring).collect()
}

/// A terminal at port 0 and a channel at port 1, not yet started.
fn idle() -> Subject {
    let directory = tempfile::tempdir().unwrap();
    let ports = vec![
        PortConfig::terminal(&directory.path().join("terminal")).unwrap(),
        PortConfig::channel("org.tern.test", &directory.path().join("channel")).unwrap(),
    ];
    let device = Arc::new(Console::new(ports).unwrap());
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x80_0000)]).unwrap();
    let rings = rings(&memory);
    let driver = PciDriver::new(Arc::<Console>::clone(&device), memory);
    Subject { directory, device, driver, rings }
}

/// As a driver of several ports has it after its start, with both ports open.
fn open() -> Subject {
    let mut subject = idle();
    subject.start();
    subject.say([0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!([subject.hear(), subject.hear()], [Say::PortAdd(0), Say::PortAdd(1)].map(|say| say.bytes()));
    subject.say([0, 0, 0, 0, 3, 0, 1, 0]);
    assert_eq!(subject.hear(), Say::ConsolePort(0).bytes());
    subject.say([1, 0, 0, 0, 3, 0, 1, 0]);
    assert_eq!(subject.hear(), Say::PortName(1, "org.tern.test".into()).bytes());
    for port in 0..2 {
        subject.say([port, 0, 0, 0, 6, 0, 1, 0]);
    }
    subject
}

impl Subject {
    fn start(&mut self) {
        self.driver.start(&self.rings.iter().collect::<Vec<_>>());
        for queue in [0, CONTROL_RX, 4] {
            for index in 0..8 {
                self.give(queue, index);
            }
            self.driver.ring(queue as u16);
        }
    }

    fn place(queue: usize, index: u16) -> u64 {
        0x40_0000 + queue as u64 * 0x1_0000 + u64::from(index) * BUFFER
    }

    fn give(&mut self, queue: usize, index: u16) {
        self.rings[queue].send(index, &[(Self::place(queue, index), BUFFER as u32, true)]);
    }

    /// The next data from a queue; the buffer is given again.
    fn take(&mut self, queue: usize) -> Vec<u8> {
        let (head, written) = self.driver.wait_used(&mut self.rings[queue]);
        let data = self.rings[queue].get(Self::place(queue, head as u16), written as usize);
        self.give(queue, head as u16);
        self.driver.ring(queue as u16);
        data
    }

    fn hear(&mut self) -> Vec<u8> {
        self.take(CONTROL_RX)
    }

    fn begin(&mut self, queue: usize, data: &[u8]) {
        self.rings[queue].put(DATA, data);
        self.rings[queue].send(0, &[(DATA, data.len() as u32, false)]);
        self.driver.ring(queue as u16);
    }

    fn send(&mut self, queue: usize, data: &[u8]) {
        self.begin(queue, data);
        self.driver.wait_used(&mut self.rings[queue]);
    }

    fn say(&mut self, message: [u8; 8]) {
        self.send(CONTROL_TX, &message);
    }

    fn connect(&self, name: &str) -> UnixStream {
        let socket = UnixStream::connect(self.directory.path().join(name)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket
    }
}

fn read(socket: &mut UnixStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    socket.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn each_port_leads_to_its_own_program_in_both_directions() {
    let mut subject = open();
    let mut terminal = subject.connect("terminal");
    assert_eq!(subject.hear(), Say::PortOpen(0, true).bytes());
    let mut channel = subject.connect("channel");
    assert_eq!(subject.hear(), Say::PortOpen(1, true).bytes());
    subject.send(1, b"login: ");
    subject.send(5, b"{\"ready\":1}");
    assert_eq!(read(&mut terminal, 7), b"login: ");
    assert_eq!(read(&mut channel, 11), b"{\"ready\":1}");
    terminal.write_all(b"root\n").unwrap();
    assert_eq!(subject.take(0), b"root\n");
    channel.write_all(b"{}").unwrap();
    assert_eq!(subject.take(4), b"{}");
}

#[test]
fn a_program_that_leaves_makes_room_for_the_next() {
    let mut subject = open();
    for _ in 0..3 {
        let mut channel = subject.connect("channel");
        assert_eq!(subject.hear(), Say::PortOpen(1, true).bytes());
        channel.write_all(b"hello").unwrap();
        assert_eq!(subject.take(4), b"hello");
        drop(channel);
        assert_eq!(subject.hear(), Say::PortOpen(1, false).bytes());
        subject.send(5, b"nobody hears this");
    }
}

#[test]
fn what_a_program_sends_waits_until_the_guest_opens_the_port() {
    let mut subject = open();
    subject.say([1, 0, 0, 0, 6, 0, 0, 0]);
    let mut channel = subject.connect("channel");
    assert_eq!(subject.hear(), Say::PortOpen(1, true).bytes());
    channel.write_all(b"early").unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(subject.rings[4].used(), None);
    subject.say([1, 0, 0, 0, 6, 0, 1, 0]);
    assert_eq!(subject.take(4), b"early");
}

#[test]
fn a_program_that_does_not_read_holds_its_channel_back_and_no_terminal() {
    let mut subject = open();
    let _terminal = subject.connect("terminal");
    let mut channel = subject.connect("channel");
    subject.hear();
    subject.hear();
    let block = vec![b'x'; 0x1_0000];
    for _ in 0..40 {
        subject.send(1, &block);
    }
    let mut sent = 0;
    // One more than the socket takes.
    loop {
        subject.begin(5, &block);
        sent += 1;
        std::thread::sleep(Duration::from_millis(20));
        if subject.rings[5].used().is_none() {
            break;
        }
    }
    assert!(read(&mut channel, sent * block.len()).iter().all(|byte| *byte == b'x'));
    subject.driver.wait_used(&mut subject.rings[5]);
}

#[test]
fn a_megabyte_to_the_guest_arrives_whole() {
    let mut subject = open();
    let mut channel = subject.connect("channel");
    subject.hear();
    let bytes: Vec<u8> = (0..1_u32 << 20).map(|index| (index >> 3) as u8).collect();
    let sent = bytes.clone();
    let writing = std::thread::spawn(move || channel.write_all(&sent).unwrap());
    let mut received = Vec::new();
    while received.len() < bytes.len() {
        received.extend(subject.take(4));
    }
    writing.join().unwrap();
    assert!(received == bytes);
}

#[test]
fn a_terminals_size_is_told_when_it_changes_and_to_who_asks_again() {
    let mut subject = open();
    let size = Size { columns: 132, rows: 43 };
    subject.device.resize(0, size);
    assert_eq!(subject.hear(), Say::Resize(0, size).bytes());
    subject.device.resize(0, size);
    subject.device.resize(1, size);
    subject.device.resize(9, size);
    subject.say([0, 0, 0, 0, 3, 0, 1, 0]);
    assert_eq!(subject.hear(), Say::ConsolePort(0).bytes());
    assert_eq!(subject.hear(), Say::Resize(0, size).bytes());
    assert_eq!(subject.driver.read(DEVICE), [132, 0, 43, 0, 2, 0, 0, 0]);
}

#[test]
fn a_driver_of_one_port_uses_it_and_learns_its_size_from_the_configuration() {
    let mut subject = idle();
    assert!(subject.driver.negotiate(VERSION_1 | F_SIZE));
    for index in 0..2 {
        subject.driver.enable(&subject.rings[index]);
    }
    subject.driver.write(0x10, &6_u16.to_le_bytes());
    subject.driver.ready();
    subject.give(0, 0);
    subject.driver.ring(0);
    let mut terminal = subject.connect("terminal");
    terminal.write_all(b"x").unwrap();
    assert_eq!(subject.take(0), b"x");
    subject.send(1, b"y");
    assert_eq!(read(&mut terminal, 1), b"y");
    let before = subject.driver.byte(CONFIG_GENERATION);
    subject.device.resize(0, Size { columns: 100, rows: 30 });
    subject.driver.interrupted.wait_until("it is told", || subject.driver.interrupted.count(6) == 1);
    assert_ne!(subject.driver.byte(CONFIG_GENERATION), before);
    assert_eq!(subject.driver.read(DEVICE), [100, 0, 30, 0]);
}

#[test]
fn a_driver_that_asks_again_and_again_without_listening_is_held_back() {
    let mut subject = idle();
    subject.driver.start(&subject.rings.iter().collect::<Vec<_>>());
    subject.rings[CONTROL_TX].put(DATA, &[0, 0, 0, 0, 0, 0, 1, 0]);
    let ask = |subject: &mut Subject| {
        for index in 0..64 {
            subject.rings[CONTROL_TX].send(index, &[(DATA, 8, false)]);
        }
        subject.driver.ring(CONTROL_TX as u16);
    };
    ask(&mut subject);
    for _ in 0..64 {
        subject.driver.wait_used(&mut subject.rings[CONTROL_TX]);
    }
    ask(&mut subject);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(subject.rings[CONTROL_TX].used(), None, "two answers each, 128 are kept");
    for index in 0..8 {
        subject.give(CONTROL_RX, index);
    }
    subject.driver.ring(CONTROL_RX as u16);
    for _ in 0..128 {
        subject.hear();
        subject.hear();
    }
}

#[test]
fn messages_and_buffers_that_cannot_be_break_the_rules() {
    let breaks = |mistake: fn(&mut Subject)| {
        let mut subject = open();
        mistake(&mut subject);
        subject.driver.wait_broken();
        assert!(matches!(subject.driver.function.violation(), Some(Violation::Request(_))));
    };
    breaks(|subject| subject.begin(CONTROL_TX, &[0; 7]));
    breaks(|subject| {
        subject.rings[5].send(0, &[(0x10_0000, (1 << 20) + 1, false)]);
        subject.driver.ring(5);
    });
    breaks(|subject| {
        subject.rings[5].send(0, &[(DATA, 8, false), (DATA, 8, true)]);
        subject.driver.ring(5);
    });
    breaks(|subject| {
        let mut channel = subject.connect("channel");
        channel.write_all(&[b'x'; 0x1_0000]).unwrap();
        subject.rings[4].send(9, &[(DATA, 8, false)]);
        subject.driver.ring(4);
    });
    breaks(|subject| {
        for index in 8..24 {
            subject.rings[CONTROL_RX].send(index, &[(DATA, 7, true)]);
        }
        subject.driver.ring(CONTROL_RX as u16);
        for _ in 0..9 {
            subject.begin(CONTROL_TX, &[1, 0, 0, 0, 3, 0, 1, 0]);
        }
    });
    // What is about nothing is no mistake.
    let mut subject = open();
    for message in [[9, 0, 0, 0, 3, 0, 1, 0], [0xff; 8], [0, 0, 0, 0, 1, 0, 1, 0], [0, 0, 0, 1, 6, 0, 1, 0]] {
        subject.say(message);
    }
    let _channel = subject.connect("channel");
    assert_eq!(subject.hear(), Say::PortOpen(1, true).bytes());
}

#[test]
fn a_guest_that_comes_from_elsewhere_hears_that_the_programs_are_gone() {
    let mut subject = open();
    let mut channel = subject.connect("channel");
    subject.hear();
    subject.driver.function.pause();
    let state = subject.driver.function.save();
    subject.driver.function.end();
    assert_eq!(channel.read(&mut [0; 1]).unwrap(), 0);

    let other = idle();
    let driver = PciDriver::new(Arc::<Console>::clone(&other.device), subject.driver.memory.clone());
    driver.function.restore(&state).unwrap();
    driver.function.resume();
    subject.driver = driver;
    assert_eq!(subject.hear(), Say::PortOpen(1, false).bytes());
    let mut channel = other.connect("channel");
    assert_eq!(subject.hear(), Say::PortOpen(1, true).bytes());
    channel.write_all(b"again").unwrap();
    assert_eq!(subject.take(4), b"again");

    let alone = PortConfig::terminal(&other.directory.path().join("alone")).unwrap();
    let alone = Arc::new(Console::new(vec![alone]).unwrap());
    let alone = PciDriver::new(alone, subject.driver.memory.clone());
    assert!(alone.function.restore(&state).is_err());
}

#[test]
fn a_reset_closes_the_ports_and_the_device_works_again() {
    let mut subject = open();
    let mut channel = subject.connect("channel");
    subject.hear();
    subject.driver.reset();
    assert_eq!(channel.read(&mut [0; 1]).unwrap(), 0);
    subject.rings = rings(&subject.driver.memory);
    subject.start();
    subject.say([0, 0, 0, 0, 0, 0, 1, 0]);
    assert_eq!(subject.hear(), Say::PortAdd(0).bytes());
}

#[test]
fn there_are_ports_and_not_too_many() {
    assert!(Console::new(Vec::new()).is_err());
}
