//! A disk as its driver uses and misuses it.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::{fs, io};

use tempfile::NamedTempFile;
use tern_disk::{Completion, Disk, DiskError, DiskOptions, Format, Lane, Operation, RangeLimits};
use tern_engine::GuestMemory;
use vm_memory::{GuestAddress, GuestMemoryBackend as _};

use super::*;
use crate::driver::register::DEVICE;
use crate::driver::{PciDriver, RING_SIZE, Ring};
use crate::queue::Violation;

const MEMORY: usize = 0x40_0000;
/// Sectors of the disk.
const SECTORS: u64 = 64;
/// Where the driver has headers, data and statuses.
const HEADER: u64 = 0x10_0000;
const DATA: u64 = 0x20_0000;
const STATUS: u64 = 0x18_0000;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// How many bytes one queue may have moved before others are served, and a request of a mebibyte that began before.
const MOST_AT_ONCE: u64 = 17 << 20;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// A large disk that does nothing at once, and tells how many bytes are to be moved between two starts of its lane.
#[derive(Debug)]
struct Idle {
    moved: Arc<Mutex<Vec<u64>>>,
}

impl Disk for Idle {
    fn size(&self) -> u64 {
        1 << 30
    }

    fn is_read_only(&self) -> bool {
        false
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn optimal_size(&self) -> u32 {
        4096
    }

    fn discard(&self) -> Option<RangeLimits> {
        None
    }

    fn write_zeroes(&self) -> Option<RangeLimits> {
        None
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn open_lane(&self) -> Result<Box<dyn Lane>, DiskError> {
        let (ready, _other) = UnixStream::pair().unwrap();
        Ok(Box::new(IdleLane { moved: Arc::clone(&self.moved), since: 0, done: Vec::new(), ready, _other }))
    }
}

#[derive(Debug)]
struct IdleLane {
    moved: Arc<Mutex<Vec<u64>>>,
    since: u64,
    done: Vec<Completion>,
    ready: UnixStream,
    _other: UnixStream,
}

impl Lane for IdleLane {
    // What the trait asks of the caller is not needed: no buffer is touched.
    #[allow(unsafe_code, reason = "it is how a lane is used")]
    unsafe fn submit(&mut self, tag: u64, operation: Operation<'_>) {
        if let Operation::Read { buffers, .. } = operation {
            self.since += buffers.iter().map(|buffer| buffer.length() as u64).sum::<u64>();
        }
        self.done.push(Completion { tag, result: Ok(()) });
    }

    fn start(&mut self) {
        self.moved.lock().unwrap().push(std::mem::take(&mut self.since));
    }

    fn completions(&mut self, done: &mut Vec<Completion>) {
        done.append(&mut self.done);
    }

    fn in_flight(&self) -> usize {
        self.done.len()
    }

    fn wait_descriptor(&self) -> BorrowedFd<'_> {
        self.ready.as_fd()
    }
}

struct Subject {
    driver: PciDriver,
    rings: Vec<Ring>,
    image: NamedTempFile,
}

fn subject_with(queues: u16, change: impl FnOnce(&mut DiskOptions)) -> Subject {
    let image = NamedTempFile::new().unwrap();
    let contents: Vec<u8> = (0..SECTORS * 512).map(|index| (index / 512) as u8).collect();
    fs::write(image.path(), contents).unwrap();
    let mut options = DiskOptions::new(image.path());
    options.format = Some(Format::Raw);
    change(&mut options);
    let disk = tern_disk::open(&options).unwrap();
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
    let ring = |index| Ring::new(&memory, index, 0x1_0000 + u64::from(index) * RING_SIZE, 256, 256);
    let rings: Vec<_> = (0..queues).map(ring).collect();
    let device = Arc::new(Block::new(disk, "tern disk\u{e9} with a long serial", queues));
    let driver = PciDriver::new(device, memory);
    driver.start(&rings.iter().collect::<Vec<_>>());
    Subject { driver, rings, image }
}

fn subject() -> Subject {
    subject_with(1, |_| {})
}

impl Subject {
    /// Puts a header there and gives its piece.
    fn header(&self, kind: u32, sector: u64) -> (u64, u32, bool) {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend([0; 4]);
        bytes.extend(sector.to_le_bytes());
        self.rings[0].put(HEADER, &bytes);
        (HEADER, 16, false)
    }

    /// Sends a request of these pieces, waits for it, and gives the status and how many bytes were written.
    fn send(&mut self, queue: u16, pieces: &[(u64, u32, bool)]) -> (u8, u32) {
        let ring = &mut self.rings[usize::from(queue)];
        ring.put(STATUS, &[0xff]);
        ring.send(0, pieces);
        self.driver.ring(queue);
        let (_, written) = self.driver.wait_used(ring);
        (ring.get(STATUS, 1)[0], written)
    }

    /// A request with `length` bytes of data at [`DATA`].
    fn request(&mut self, kind: u32, sector: u64, length: u32) -> (u8, u32) {
        let header = self.header(kind, sector);
        let data = (DATA, length, kind == IN || kind == GET_ID);
        let status = (STATUS, 1, true);
        match length {
            0 => self.send(0, &[header, status]),
            _ => self.send(0, &[header, data, status]),
        }
    }

    /// A discard or a write of zeros.
    fn range(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> u8 {
        let mut bytes = sector.to_le_bytes().to_vec();
        bytes.extend(sectors.to_le_bytes());
        bytes.extend(flags.to_le_bytes());
        self.rings[0].put(DATA, &bytes);
        self.request(kind, 0, 16).0
    }

    fn on_disk(&self, sector: usize) -> Vec<u8> {
        fs::read(self.image.path()).unwrap()[sector * 512..][..512].to_vec()
    }
}

#[test]
fn sectors_are_read_and_written_where_they_are() {
    let mut subject = subject();
    assert_eq!(subject.request(IN, 3, 1024), (OK, 1025));
    let data = subject.rings[0].get(DATA, 1025);
    assert_eq!((&data[..512], &data[512..1024], data[1024]), (&[3; 512][..], &[4; 512][..], 0));
    subject.rings[0].put(DATA, &[0xaa; 512]);
    assert_eq!(subject.request(OUT, 7, 512), (OK, 1), "only the status is written");
    assert_eq!(subject.request(FLUSH, 0, 0).0, OK);
    assert_eq!([6, 7, 8].map(|sector| subject.on_disk(sector)[0]), [6, 0xaa, 8]);
}

#[test]
fn a_request_may_be_cut_in_any_way() {
    let mut subject = subject();
    subject.header(IN, 5);
    let pieces = [
        (HEADER, 3, false),
        (HEADER + 3, 13, false),
        (DATA, 100, true),
        (DATA + 0x1000, 411, true),
        (DATA + 0x2000, 1, true),
        (STATUS, 1, true),
    ];
    assert_eq!(subject.send(0, &pieces), (OK, 513));
    assert_eq!(subject.rings[0].get(DATA + 0x1000, 411), [5; 411]);
    // Header and data in one piece, and the status behind the data read.
    subject.header(OUT, 9);
    subject.rings[0].put(HEADER + 16, &[0xbb; 512]);
    assert_eq!(subject.send(0, &[(HEADER, 528, false), (STATUS, 1, true)]).0, OK);
    subject.header(IN, 9);
    assert_eq!(subject.send(0, &[(HEADER, 16, false), (DATA, 513, true)]).1, 513);
    let data = subject.rings[0].get(DATA, 513);
    assert_eq!((&data[..512], data[512]), (&[0xbb; 512][..], OK));
}

#[test]
fn many_requests_in_flight_all_come_back() {
    let mut subject = subject();
    for index in 0..64_u16 {
        let header = HEADER + 16 * u64::from(index);
        let mut bytes = vec![0; 8];
        bytes.extend(u64::from(index).to_le_bytes());
        subject.rings[0].put(header, &bytes);
        let data = DATA + 0x1000 * u64::from(index);
        let pieces = [(header, 16, false), (data, 512, true), (STATUS + u64::from(index), 1, true)];
        subject.rings[0].send(index * 3, &pieces);
    }
    subject.driver.ring(0);
    for _ in 0..64 {
        subject.driver.wait_used(&mut subject.rings[0]);
    }
    for index in 0..64 {
        assert_eq!(subject.rings[0].get(DATA + 0x1000 * index, 512), vec![index as u8; 512]);
        assert_eq!(subject.rings[0].get(STATUS + index, 1), [OK]);
    }
}

#[test]
fn many_large_requests_are_not_all_begun_at_once() {
    let moved = Arc::new(Mutex::new(Vec::new()));
    let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
    let mut ring = Ring::new(&memory, 0, 0x1_0000, 256, 256);
    let device = Arc::new(Block::new(Arc::new(Idle { moved: Arc::clone(&moved) }), "", 1));
    let driver = PciDriver::new(device, memory);
    driver.start(&[&ring]);
    let mut header = IN.to_le_bytes().to_vec();
    header.extend([0; 12]);
    ring.put(HEADER, &header);
    for index in 0..60_u16 {
        ring.send(index * 3, &[(HEADER, 16, false), (DATA, 1 << 20, true), (STATUS, 1, true)]);
    }
    driver.ring(0);
    for _ in 0..60 {
        driver.wait_used(&mut ring);
    }
    let moved = moved.lock().unwrap();
    assert_eq!(moved.iter().sum::<u64>(), 60 << 20);
    assert!(moved.iter().all(|bytes| *bytes <= MOST_AT_ONCE), "{moved:?}");
}

#[test]
fn every_queue_reaches_the_disk() {
    let mut subject = subject_with(4, |_| {});
    let config: [u8; 2] = subject.driver.read(DEVICE + 34);
    assert_eq!(config, [4, 0]);
    for queue in 0..4 {
        let header = subject.header(IN, u64::from(queue));
        assert_eq!(subject.send(queue, &[header, (DATA, 512, true), (STATUS, 1, true)]).0, OK);
        assert_eq!(subject.rings[0].get(DATA, 512), [queue as u8; 512]);
    }
}

#[test]
fn the_configuration_tells_of_size_and_limits() {
    let subject = subject();
    assert_eq!(u64::from_le_bytes(subject.driver.read(DEVICE)), SECTORS);
    assert_eq!(u32::from_le_bytes(subject.driver.read(DEVICE + 12)), 254);
    assert_eq!(u32::from_le_bytes(subject.driver.read(DEVICE + 20)), 512);
    assert_eq!(subject.driver.read(DEVICE + 60), [0; 8]);
    subject.driver.write(DEVICE, &[0xff; 8]);
    assert_eq!(u64::from_le_bytes(subject.driver.read(DEVICE)), SECTORS);
}

#[test]
fn the_serial_number_is_what_can_be_printed_of_it() {
    let mut subject = subject();
    subject.rings[0].put(DATA, &[0xff; 24]);
    assert_eq!(subject.request(GET_ID, 0, 20), (OK, 21));
    assert_eq!(subject.rings[0].get(DATA, 21), *b"terndiskwithalongser\xff");
    subject.rings[0].put(DATA, &[0xff; 24]);
    assert_eq!(subject.request(GET_ID, 0, 4).0, OK);
    assert_eq!(subject.rings[0].get(DATA, 5), *b"tern\xff");
}

#[test]
fn what_is_outside_of_the_disk_or_no_sector_is_an_error_and_no_violation() {
    let mut subject = subject();
    for (kind, sector, length) in [
        (IN, SECTORS, 512),
        (IN, SECTORS - 1, 1024),
        (OUT, SECTORS, 512),
        (IN, u64::MAX, 512),
        (OUT, u64::MAX / 512 + 1, 512),
        (IN, (1 << 55) - 1, 512),
        (IN, 0, 511),
        (OUT, 0, 1),
    ] {
        assert_eq!(subject.request(kind, sector, length).0, IO_ERROR, "{kind} {sector} {length}");
    }
    for kind in [2, 3, 9, 14, 16, u32::MAX] {
        assert_eq!(subject.request(kind, 0, 512).0, UNSUPPORTED, "{kind}");
    }
    assert_eq!(subject.request(IN, 1, 512).0, OK, "it goes on");
}

#[test]
fn ranges_are_discarded_and_zeroed_within_their_limits() {
    let mut subject = subject();
    let may_discard = subject.driver.offered() >> 13 & 1 == 1;
    let may_zero = subject.driver.offered() >> 14 & 1 == 1;
    if may_zero {
        assert_eq!(subject.range(WRITE_ZEROES, 4, 2, 0), OK);
        assert_eq!([4, 5].map(|sector| subject.on_disk(sector)), [vec![0; 512], vec![0; 512]]);
        assert_eq!(subject.on_disk(6), [6; 512]);
        assert_eq!(subject.range(WRITE_ZEROES, 6, 1, 1), OK);
        assert_eq!(subject.range(WRITE_ZEROES, 6, 1, 2), UNSUPPORTED);
        for (sector, sectors) in [(SECTORS, 1), (0, u32::MAX), (u64::MAX, 1)] {
            assert_eq!(subject.range(WRITE_ZEROES, sector, sectors, 0), IO_ERROR);
        }
    }
    if may_discard {
        assert_eq!(subject.range(DISCARD, 8, 8, 0), OK);
        assert_eq!(subject.range(DISCARD, 8, 8, 1), UNSUPPORTED);
        assert_eq!(subject.range(DISCARD, SECTORS, 1, 0), IO_ERROR);
    }
    assert_eq!(subject.request(DISCARD, 0, 32).0, IO_ERROR, "one range at a time");
    assert_eq!(subject.request(WRITE_ZEROES, 0, 15).0, IO_ERROR);
    assert_eq!(subject.on_disk(7), [7; 512]);
}

#[test]
fn a_read_only_disk_says_so_and_stays_as_it_is() {
    let mut subject = subject_with(1, |options| options.is_read_only = true);
    let offered = subject.driver.offered();
    assert_eq!((offered >> 5 & 1, offered >> 13 & 3), (1, 0));
    subject.rings[0].put(DATA, &[0xaa; 512]);
    assert_eq!(subject.request(OUT, 2, 512).0, IO_ERROR);
    assert_eq!(subject.range(WRITE_ZEROES, 2, 1, 0), IO_ERROR);
    assert_eq!(subject.range(DISCARD, 2, 1, 0), IO_ERROR);
    assert_eq!(subject.on_disk(2), [2; 512]);
    assert_eq!((subject.request(IN, 2, 512).0, subject.request(FLUSH, 0, 0).0), (OK, OK));
}

#[test]
fn requests_without_a_header_or_a_status_break_the_rules() {
    for pieces in [
        &[(HEADER, 15, false), (STATUS, 1, true)][..],
        &[(HEADER, 16, false)],
        &[(HEADER, 16, false), (DATA, 512, false)],
        &[(STATUS, 1, true)],
    ] {
        let mut subject = subject();
        subject.header(OUT, 0);
        subject.rings[0].send(0, pieces);
        subject.driver.ring(0);
        subject.driver.wait_broken();
        assert!(matches!(subject.driver.function.violation(), Some(Violation::Request(_))));
        assert_eq!(subject.rings[0].used(), None);
    }
}

#[test]
fn pages_that_a_read_fills_are_noted_as_written() {
    let mut subject = subject();
    let watch = tern_engine::WriteWatch::of(subject.driver.memory.iter().next().unwrap()).clone();
    watch.start();
    assert_eq!(subject.request(IN, 0, 8192).0, OK);
    let noted = watch.take();
    let page = (DATA >> 12) as usize;
    assert_eq!(noted[page / 64] >> (page % 64) & 0b111, 0b011);
}

#[test]
fn a_reset_amid_many_requests_leaves_memory_alone_afterwards() {
    let mut subject = subject();
    for round in 0..20 {
        let mut ring = Ring::new(&subject.driver.memory, 0, 0x1_0000, 256, 256);
        subject.driver.start(&[&ring]);
        subject.header(IN, 1);
        for index in 0..64_u16 {
            let data = DATA + 0x2000 * u64::from(index);
            ring.send(index * 3, &[(HEADER, 16, false), (data, 8192, true), (STATUS, 1, true)]);
        }
        subject.driver.ring(0);
        if round % 2 == 0 {
            subject.driver.wait_used(&mut ring);
        }
        subject.driver.reset();
        ring.put(DATA, &vec![0xee; 64 * 0x2000]);
        std::thread::yield_now();
        assert!(ring.get(DATA, 64 * 0x2000).iter().all(|byte| *byte == 0xee));
    }
    subject.rings[0] = Ring::new(&subject.driver.memory, 0, 0x1_0000, 256, 256);
    subject.driver.start(&[&subject.rings[0]]);
    assert_eq!(subject.request(IN, 1, 512).0, OK);
}
