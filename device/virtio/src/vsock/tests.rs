//! The socket device between a simulated guest and programs of the host.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use tempfile::TempDir;
use tern_engine::GuestMemory;
use vm_memory::GuestAddress;

use super::packet::{Address, HOST_CID, Header, Operation, SIZE, STREAM};
use super::*;
use crate::driver::{PciDriver, RING_SIZE, Ring};
use crate::queue::Violation;

const CID: u64 = 3;
const RX: usize = 0;
const TX: usize = 1;
/// Buffers of the guest: as many as the receive queue is given, of this size.
const BUFFERS: u16 = 16;
const BUFFER: u64 = 0x1000;
const RX_DATA: u64 = 0x10_0000;
const TX_DATA: u64 = 0x20_0000;

struct Guest {
    directory: TempDir,
    driver: PciDriver,
    rings: [Ring; 3],
    /// What the guest tells of its own buffers.
    room: u32,
    forwarded: u32,
}

fn rings(memory: &GuestMemory) -> [Ring; 3] {
    [0, 1, 2].map(|index| {
        let base = 0x1_0000 + u64::from(index) * RING_SIZE;
        Ring::new(memory, index, base, QUEUES[usize::from(index)], QUEUES[usize::from(index)])
    })
}

fn guest_without_buffers() -> Guest {
    let directory = tempfile::tempdir().unwrap();
    let device = Vsock::new(CID as u32, &directory.path().join("v.sock")).unwrap();
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x40_0000)]).unwrap();
    let rings = rings(&memory);
    let driver = PciDriver::new(Arc::new(device), memory);
    driver.start(&rings.each_ref());
    Guest { directory, driver, rings, room: 1 << 20, forwarded: 0 }
}

fn guest() -> Guest {
    let mut guest = guest_without_buffers();
    for index in 0..BUFFERS {
        guest.give(index);
    }
    guest.driver.ring(0);
    guest
}

impl Guest {
    fn give(&mut self, index: u16) {
        let place = RX_DATA + u64::from(index) * BUFFER;
        self.rings[RX].send(index, &[(place, BUFFER as u32, true)]);
    }

    fn header(&self, (host, guest): (u32, u32), operation: Operation) -> Header {
        Header {
            source: Address { cid: CID, port: guest },
            destination: Address { cid: HOST_CID, port: host },
            length: 0,
            kind: STREAM,
            operation: Some(operation),
            flags: 0,
            buffer: self.room,
            forwarded: self.forwarded,
        }
    }

    fn send(&mut self, header: Header, data: &[u8]) {
        let header = Header { length: data.len() as u32, ..header };
        self.rings[TX].put(TX_DATA, &[&header.bytes(), data].concat());
        self.rings[TX].send(0, &[(TX_DATA, (SIZE + data.len()) as u32, false)]);
        self.driver.ring(1);
        self.driver.wait_used(&mut self.rings[TX]);
    }

    fn tell(&mut self, ports: (u32, u32), operation: Operation) {
        let header = self.header(ports, operation);
        self.send(header, &[]);
    }

    fn write(&mut self, ports: (u32, u32), data: &[u8]) {
        let header = self.header(ports, Operation::ReadWrite);
        self.send(header, data);
    }

    /// The next packet from the host, with its data; its buffer is given again.
    fn receive(&mut self) -> (Header, Vec<u8>) {
        let (head, written) = self.driver.wait_used(&mut self.rings[RX]);
        let place = RX_DATA + u64::from(head) * BUFFER;
        let bytes = self.rings[RX].get(place, written as usize);
        let (header, data) = bytes.split_first_chunk().unwrap();
        let header = Header::parse(header);
        assert_eq!((header.source.cid, header.destination.cid, header.kind), (HOST_CID, CID, STREAM));
        assert_eq!(header.length as usize, data.len());
        self.give(head as u16);
        self.driver.ring(0);
        (header, data.to_vec())
    }

    /// The next packet must be this, of the connection with these ports.
    fn expect(&mut self, ports: (u32, u32), operation: Operation) -> (Header, Vec<u8>) {
        let (header, data) = self.receive();
        assert_eq!(
            (header.operation, header.source.port, header.destination.port),
            (Some(operation), ports.0, ports.1)
        );
        (header, data)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    /// A connection that a program of the guest opens from its port 1000 to the host's port 52.
    fn open(&mut self) -> UnixStream {
        let service = UnixListener::bind(self.path("v.sock_52")).unwrap();
        self.tell(PORTS, Operation::Request);
        self.expect(PORTS, Operation::Response);
        let (socket, _) = service.accept().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket
    }

    /// A program of the host asks for the guest's port 1000; gives the host's own port.
    fn connect(&mut self) -> (UnixStream, u32) {
        let mut socket = UnixStream::connect(self.path("v.sock")).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.write_all(b"CONNECT 1000\n").unwrap();
        let (header, _) = self.receive();
        assert_eq!((header.operation, header.destination.port), (Some(Operation::Request), 1000));
        (socket, header.source.port)
    }
}

const PORTS: (u32, u32) = (52, 1000);

#[test]
fn a_program_of_the_guest_reaches_a_service_of_the_host() {
    let mut guest = guest();
    let mut service = guest.open();
    guest.write(PORTS, b"hello");
    let mut bytes = [0; 5];
    service.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    service.write_all(b"hello yourself").unwrap();
    let (header, data) = guest.expect(PORTS, Operation::ReadWrite);
    assert_eq!((&data[..], header.forwarded), (&b"hello yourself"[..], 5));
}

#[test]
fn a_program_of_the_host_reaches_a_service_of_the_guest() {
    let mut guest = guest();
    let (mut socket, port) = guest.connect();
    guest.tell((port, 1000), Operation::Response);
    let mut greeting = vec![0; format!("OK {port}\n").len()];
    socket.read_exact(&mut greeting).unwrap();
    assert_eq!(greeting, format!("OK {port}\n").as_bytes());
    socket.write_all(b"ping").unwrap();
    assert_eq!(guest.expect((port, 1000), Operation::ReadWrite).1, b"ping");
    guest.write((port, 1000), b"pong");
    let mut bytes = [0; 4];
    socket.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"pong");
}

#[test]
fn a_port_that_nobody_serves_is_refused_on_both_sides() {
    let mut guest = guest();
    guest.tell((53, 1000), Operation::Request);
    guest.expect((53, 1000), Operation::Reset);
    let (mut socket, port) = guest.connect();
    guest.tell((port, 1000), Operation::Reset);
    assert_eq!(socket.read(&mut [0; 16]).unwrap(), 0);
}

#[test]
fn a_megabyte_arrives_whole_in_both_directions() {
    let mut guest = guest();
    let mut service = guest.open();
    let bytes: Vec<u8> = (0..1_u32 << 20).map(|index| ((index * 7) >> 3) as u8).collect();
    let (sent, mut writer) = (bytes.clone(), service.try_clone().unwrap());
    let writing = std::thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut received = Vec::new();
    while received.len() < bytes.len() {
        let (_, data) = guest.expect(PORTS, Operation::ReadWrite);
        guest.forwarded += data.len() as u32;
        received.extend(data);
        if guest.forwarded % (256 << 10) < 4096 {
            guest.tell(PORTS, Operation::CreditUpdate);
        }
    }
    writing.join().unwrap();
    assert!(received == bytes);

    let expected = bytes.clone();
    let reading = std::thread::spawn(move || {
        let mut read = vec![0; expected.len()];
        service.read_exact(&mut read).unwrap();
        assert!(read == expected);
        service
    });
    let (mut sent, mut taken) = (0_u32, 0_u32);
    for chunk in bytes.chunks(16 << 10) {
        while sent - taken + chunk.len() as u32 > 64 << 10 {
            taken = guest.expect(PORTS, Operation::CreditUpdate).0.forwarded;
        }
        guest.write(PORTS, chunk);
        sent += chunk.len() as u32;
    }
    reading.join().unwrap();
}

#[test]
fn a_guest_that_closes_gets_its_reset_after_the_host_has_all() {
    let mut guest = guest();
    let mut service = guest.open();
    guest.write(PORTS, b"last words");
    let header = guest.header(PORTS, Operation::Shutdown);
    guest.send(Header { flags: 3, ..header }, &[]);
    guest.expect(PORTS, Operation::Reset);
    let mut bytes = Vec::new();
    service.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"last words");
    // The port can be used again.
    drop(service);
    std::fs::remove_file(guest.path("v.sock_52")).unwrap();
    guest.open();
}

#[test]
fn a_host_that_closes_ends_the_guests_stream() {
    let mut guest = guest();
    let mut service = guest.open();
    service.write_all(b"last words").unwrap();
    drop(service);
    assert_eq!(guest.expect(PORTS, Operation::ReadWrite).1, b"last words");
    let mut flags = 0;
    while flags != 3 {
        flags = guest.expect(PORTS, Operation::Shutdown).0.flags;
    }
    guest.tell(PORTS, Operation::Reset);
    guest.tell(PORTS, Operation::CreditRequest);
    guest.expect(PORTS, Operation::Reset);
}

#[test]
fn a_host_that_ends_a_full_socket_without_closing_it_takes_everything() {
    let mut guest = guest();
    let service = guest.open();
    let chunk = [7; 4096];
    let mut sent = 0;
    let mut taken = 0;
    // Until something waits for the socket.
    while taken == sent {
        guest.write(PORTS, &chunk);
        sent += chunk.len() as u32;
        guest.tell(PORTS, Operation::CreditRequest);
        taken = guest.expect(PORTS, Operation::CreditUpdate).0.forwarded;
    }
    service.shutdown(std::net::Shutdown::Both).unwrap();
    let (mut flags, mut forwarded) = (0, 0);
    while flags != 3 {
        Header { flags, forwarded, .. } = guest.expect(PORTS, Operation::Shutdown).0;
    }
    assert_eq!(forwarded, sent, "nothing waits any more");
}

#[test]
fn packets_for_nobody_are_refused_and_those_from_others_dropped() {
    let mut guest = guest();
    for operation in [Operation::ReadWrite, Operation::Response, Operation::Shutdown, Operation::CreditUpdate]
    {
        guest.tell((9, 9), operation);
        guest.expect((9, 9), Operation::Reset);
    }
    let request = guest.header(PORTS, Operation::Request);
    guest.send(Header { kind: 2, ..request }, &[]);
    guest.expect(PORTS, Operation::Reset);
    guest.send(Header { operation: None, ..request }, &[]);
    guest.expect(PORTS, Operation::Reset);
    guest.send(Header { destination: Address { cid: 7, port: 52 }, ..request }, &[]);
    assert_eq!(guest.receive_any().source.cid, 7);
    guest.send(Header { source: Address { cid: 4, port: 1000 }, ..request }, &[]);
    guest.tell((9, 9), Operation::Reset);
    guest.open();
}

impl Guest {
    fn receive_any(&mut self) -> Header {
        let (head, _) = self.driver.wait_used(&mut self.rings[RX]);
        let bytes = self.rings[RX].get(RX_DATA + u64::from(head) * BUFFER, SIZE);
        self.give(head as u16);
        Header::parse(bytes.first_chunk().unwrap())
    }
}

#[test]
fn a_guest_that_ignores_its_credit_or_opens_twice_is_cut_off() {
    let mut guest = guest();
    let service = guest.open();
    guest.write(PORTS, &vec![0; (64 << 10) + 1]);
    guest.expect(PORTS, Operation::Reset);
    drop(service);
    std::fs::remove_file(guest.path("v.sock_52")).unwrap();
    let _service = guest.open();
    guest.tell(PORTS, Operation::Request);
    guest.expect(PORTS, Operation::Reset);
}

#[test]
fn a_guest_that_gives_no_buffers_is_asked_for_no_more_packets() {
    let mut guest = guest_without_buffers();
    let header = guest.header((53, 1), Operation::Request);
    guest.rings[TX].put(TX_DATA, &header.bytes());
    for index in 0..256 {
        guest.rings[TX].send(index, &[(TX_DATA, SIZE as u32, false)]);
    }
    guest.driver.ring(1);
    let mut taken = 0;
    while taken < 64 {
        guest.driver.wait_used(&mut guest.rings[TX]);
        taken += 1;
    }
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(guest.rings[TX].used(), None, "no more than refusals are kept");
    for index in 0..BUFFERS {
        guest.give(index);
    }
    guest.driver.ring(0);
    for _ in 0..256 {
        guest.expect((53, 1), Operation::Reset);
    }
}

#[test]
fn a_host_that_says_nothing_or_nonsense_does_not_reach_the_guest() {
    let mut guest = guest();
    let silent: Vec<_> = (0..70).map(|_| UnixStream::connect(guest.path("v.sock")).unwrap()).collect();
    let mut rude = UnixStream::connect(guest.path("v.sock")).unwrap();
    rude.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    drop(silent);
    rude.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let refused = rude.read(&mut [0; 16]);
    assert!(
        matches!(&refused, Ok(0)) || refused.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
    );
    guest.connect();
}

#[test]
fn packets_that_are_shorter_than_they_must_be_break_the_rules() {
    for (length, says) in [(SIZE as u32 - 1, 0), (SIZE as u32, 1), (SIZE as u32 + 4, 5)] {
        let mut guest = guest();
        let header = guest.header(PORTS, Operation::ReadWrite);
        guest.rings[TX].put(TX_DATA, &Header { length: says, ..header }.bytes());
        guest.rings[TX].send(0, &[(TX_DATA, length, false)]);
        guest.driver.ring(1);
        guest.driver.wait_broken();
    }
    let mut guest = guest_without_buffers();
    guest.rings[RX].send(0, &[(RX_DATA, SIZE as u32 - 1, true)]);
    guest.driver.ring(0);
    guest.tell((53, 1), Operation::Request);
    guest.driver.wait_broken();
    assert!(matches!(guest.driver.function.violation(), Some(Violation::Request(_))));
}

#[test]
fn a_buffer_for_a_header_alone_is_given_back_without_the_data_that_wait() {
    let mut guest = guest_without_buffers();
    let service = UnixListener::bind(guest.path("v.sock_52")).unwrap();
    guest.tell(PORTS, Operation::Request);
    for index in 0..2 {
        let place = RX_DATA + u64::from(index) * BUFFER;
        guest.rings[RX].send(index, &[(place, SIZE as u32, true)]);
    }
    guest.driver.ring(0);
    let (mut socket, _) = service.accept().unwrap();
    socket.write_all(b"x").unwrap();
    for operation in [Operation::Response, Operation::CreditUpdate] {
        assert_eq!(guest.expect(PORTS, operation).1, b"");
    }
    assert_eq!(guest.expect(PORTS, Operation::ReadWrite).1, b"x");
    guest.driver.function.pause();
}

#[test]
fn a_guest_that_comes_from_elsewhere_is_told_that_its_connections_are_gone() {
    let mut guest = guest();
    let mut service = guest.open();
    guest.rings[2].send(0, &[(0x30_0000, 4, true)]);
    guest.rings[2].put(0x30_0000, &[0xff; 4]);
    guest.driver.ring(2);
    guest.driver.function.pause();
    let state = guest.driver.function.save();
    guest.driver.function.end();
    assert_eq!(service.read(&mut [0; 4]).unwrap(), 0, "the host sees the end");

    let other = tempfile::tempdir().unwrap();
    let device = Vsock::new(CID as u32, &other.path().join("v.sock")).unwrap();
    let driver = PciDriver::new(Arc::new(device), guest.driver.memory.clone());
    driver.function.restore(&state).unwrap();
    driver.function.resume();
    assert_eq!(driver.wait_used(&mut guest.rings[2]), (0, 4));
    assert_eq!(guest.rings[2].get(0x30_0000, 4), [0; 4]);
    let stranger = Vsock::new(9, &other.path().join("w.sock")).unwrap();
    let stranger = PciDriver::new(Arc::new(stranger), driver.memory.clone());
    assert!(stranger.function.restore(&state).is_err());
}

#[test]
fn a_reset_closes_all_connections_and_the_device_works_again() {
    let mut guest = guest();
    let mut service = guest.open();
    guest.driver.reset();
    assert_eq!(service.read(&mut [0; 4]).unwrap(), 0);
    guest.rings = rings(&guest.driver.memory);
    guest.driver.start(&guest.rings.each_ref());
    for index in 0..BUFFERS {
        guest.give(index);
    }
    guest.driver.ring(0);
    guest.connect();
}

#[test]
fn the_guest_reads_its_address() {
    let guest = guest();
    assert_eq!(u64::from_le_bytes(guest.driver.read(0x2000)), CID);
    assert_eq!(guest.driver.read(0x2008), [0; 8]);
}
