//! The devices and their queues (virtio 1.2, sections 5.2, 5.3, 5.4, 5.5, 5.10), and how each is used properly.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io::Write as _;
use std::sync::Arc;
use std::thread;

use tern_disk::DiskOptions;
use tern_test_kernels::long::frame;
use tern_virtio::balloon::Balloon;
use tern_virtio::block::Block;
use tern_virtio::console::{Console, PortConfig};
use tern_virtio::device::VirtioDevice;
use tern_virtio::rng::Rng;
use tern_virtio::vsock::{DEFAULT_CID, Vsock};
use tern_vmm::config::DeviceConfig;

use super::super::WRITE;
use super::{ANSWER, Buffers, CAUSE_DATA, DATA, Subject};

fn named(name: &str, device: impl VirtioDevice + 'static) -> Vec<DeviceConfig> {
    vec![DeviceConfig { name: name.to_owned(), device: Arc::new(device) }]
}

/// Where a disk's status goes: behind the data. It is no status before.
pub(super) const STATUS: u64 = ANSWER + 0x800;

/// Bytes of a disk.
pub(super) const DISK: u64 = 1 << 20;

/// A disk, whose file is gone as soon as it is open, with as many queues.
pub(super) fn disk(is_read_only: bool, queues: u16) -> Vec<DeviceConfig> {
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(DISK).unwrap();
    let mut options = DiskOptions::new(file.path());
    options.is_read_only = is_read_only;
    named("disk0", Block::new(tern_disk::open(&options).unwrap(), "serial", queues))
}

/// VIRTIO_BLK_F_MQ.
const MQ: u32 = 1 << 12;

pub(super) const BLOCK: Subject = Subject {
    name: "a disk's queue",
    devices: || disk(false, 1),
    features: 0,
    queue: 0,
    most: 256,
    cause: None,
    // The first sector is read.
    proper: Buffers {
        words: &[(STATUS, &[0xff])],
        chains: &[&[(DATA, 16, 0), (ANSWER, 512, WRITE), (STATUS, 1, WRITE)]],
    },
    written: 513,
    answer: Some((STATUS, 0)),
    afterwards: None,
};

pub(super) const BLOCK_SECOND: Subject =
    Subject { name: "a disk's second queue", devices: || disk(false, 2), features: MQ, queue: 1, ..BLOCK };

pub(super) const RNG: Subject = Subject {
    name: "the queue for random numbers",
    devices: || named("rng", Rng),
    features: 0,
    queue: 0,
    most: 64,
    cause: None,
    proper: Buffers { words: &[], chains: &[&[(ANSWER, 64, WRITE)]] },
    written: 64,
    answer: None,
    afterwards: None,
};

/// A console with two ports, at each of which a program of the host says x for ever.
fn console() -> Vec<DeviceConfig> {
    let port = |name| {
        let (port, mut program) = PortConfig::joined(name).unwrap();
        // It ends when the device is gone.
        thread::spawn(move || while program.write_all(&[b'x'; 1024]).is_ok() {});
        port
    };
    named("console", Console::new(["first", "second"].map(port).into()).unwrap())
}

/// VIRTIO_CONSOLE_F_MULTIPORT.
const MULTIPORT: u32 = 1 << 1;
/// Where messages to a console go.
const CONTROL: u16 = 3;

/// A message to a console: the driver is ready.
const DEVICE_READY: u64 = 1 << 48;

/// A message to a console: a program of the guest has opened this port.
const fn port_open(port: u64) -> u64 {
    port | 6 << 32 | 1 << 48
}

const fn message(words: &'static [(u64, &'static [u64])]) -> Option<(u16, Buffers)> {
    Some((CONTROL, Buffers { words, chains: &[&[(CAUSE_DATA, 8, 0)]] }))
}

/// For a driver that knows of one port.
const CONSOLE_RECEIVE: Subject = Subject {
    name: "a console's receive queue",
    devices: console,
    features: 0,
    queue: 0,
    most: 64,
    cause: None,
    proper: Buffers { words: &[], chains: &[&[(ANSWER, 64, WRITE)]] },
    written: 64,
    answer: Some((ANSWER + 63, b'x')),
    afterwards: None,
};

const CONSOLE_TRANSMIT: Subject = Subject {
    name: "a console's transmit queue",
    queue: 1,
    proper: Buffers { words: &[], chains: &[&[(DATA, 64, 0)]] },
    written: 0,
    answer: None,
    ..CONSOLE_RECEIVE
};

/// Queues through which the host's data come.
pub(super) const CONSOLE_RECEIVES: [Subject; 3] = [
    CONSOLE_RECEIVE,
    Subject {
        name: "the receive queue of port 0 of several",
        features: MULTIPORT,
        cause: message(&[(CAUSE_DATA, &[port_open(0)])]),
        ..CONSOLE_RECEIVE
    },
    Subject {
        name: "the receive queue of port 1",
        features: MULTIPORT,
        queue: 4,
        cause: message(&[(CAUSE_DATA, &[port_open(1)])]),
        ..CONSOLE_RECEIVE
    },
];

/// Queues through which the guest's data go.
pub(super) const CONSOLE_TRANSMITS: [Subject; 2] = [
    CONSOLE_TRANSMIT,
    Subject { name: "the transmit queue of port 1", features: MULTIPORT, queue: 5, ..CONSOLE_TRANSMIT },
];

pub(super) const CONTROL_RECEIVE: Subject = Subject {
    name: "the queue of messages from a console",
    features: MULTIPORT,
    queue: 2,
    cause: message(&[(CAUSE_DATA, &[DEVICE_READY])]),
    // Which is that there is port 0: PORT_ADD.
    written: 8,
    answer: Some((ANSWER + 4, 1)),
    ..CONSOLE_RECEIVE
};

pub(super) const CONTROL_TRANSMIT: Subject = Subject {
    name: "the queue of messages to a console",
    features: MULTIPORT,
    queue: CONTROL,
    proper: Buffers { words: &[(DATA, &[DEVICE_READY])], chains: &[&[(DATA, 8, 0)]] },
    ..CONSOLE_TRANSMIT
};

/// The header of a packet from port 7 of this CID to port 52 of another's; a buffer of 1 MiB is told of.
pub(super) const fn packet(from: u64, to: u64, kind: u64, operation: u64, length: u64) -> [u64; 6] {
    [from, to, 52 << 32 | 7, operation << 48 | kind << 32 | length, 1 << 20 << 32, 0]
}

/// The guest's CID, and the host's.
pub(super) const GUEST: u64 = DEFAULT_CID as u64;
pub(super) const HOST: u64 = 2;
/// The only type of sockets: streams.
pub(super) const STREAM: u64 = 1;
/// What packets are for.
pub(super) const OP_REQUEST: u64 = 1;
pub(super) const OP_RST: u8 = 3;
pub(super) const OP_RW: u64 = 5;
/// Bytes of a header.
pub(super) const HEADER: u32 = 44;
/// Where in it the operation is.
const OPERATION: u64 = 30;

fn vsock() -> Vec<DeviceConfig> {
    let directory = tempfile::tempdir().unwrap();
    named("vsock", Vsock::new(DEFAULT_CID, &directory.path().join("vsock")).unwrap())
}

/// The receive queue, and a packet that makes an answer come through it.
pub(super) const fn refused(
    words: &'static [(u64, &'static [u64])],
    parts: &'static [&'static [super::Part]],
) -> Subject {
    Subject {
        name: "a socket device's receive queue",
        devices: vsock,
        features: 0,
        queue: 0,
        most: 256,
        cause: Some((1, Buffers { words, chains: parts })),
        proper: Buffers { words: &[], chains: &[&[(ANSWER, 4096 - 0x800, WRITE)]] },
        written: HEADER,
        answer: Some((ANSWER + OPERATION, OP_RST)),
        afterwards: None,
    }
}

/// Nobody listens at the port.
pub(super) const VSOCK_RECEIVE: Subject =
    refused(&[(CAUSE_DATA, &packet(GUEST, HOST, STREAM, OP_REQUEST, 0))], &[&[(CAUSE_DATA, HEADER, 0)]]);

pub(super) const VSOCK_TRANSMIT: Subject = Subject {
    name: "a socket device's transmit queue",
    queue: 1,
    cause: None,
    proper: Buffers {
        words: &[(DATA, &packet(GUEST, HOST, STREAM, OP_REQUEST, 0))],
        chains: &[&[(DATA, HEADER, 0)]],
    },
    written: 0,
    answer: None,
    ..VSOCK_RECEIVE
};

/// The guest has come from elsewhere, which is the only event that there is: it is told once.
pub(super) const VSOCK_EVENT: Subject = Subject {
    name: "a socket device's event queue",
    devices: || {
        let directory = tempfile::tempdir().unwrap();
        let device = Vsock::new(DEFAULT_CID, &directory.path().join("vsock")).unwrap();
        device.restore(&device.save()).unwrap();
        named("vsock", device)
    },
    queue: 2,
    most: 16,
    cause: None,
    proper: Buffers { words: &[(ANSWER, &[u64::MAX])], chains: &[&[(ANSWER, 64, WRITE)]] },
    written: 4,
    answer: Some((ANSWER + 3, 0)),
    afterwards: Some(&VSOCK_RECEIVE),
    ..VSOCK_RECEIVE
};

/// VIRTIO_BALLOON_F_STATS_VQ and VIRTIO_BALLOON_F_PAGE_REPORTING.
const STATISTICS: u32 = 1 << 1;
const REPORTING: u32 = 1 << 5;

/// A page that is given away.
const GIVEN: u64 = frame(12);

const INFLATE: Subject = Subject {
    name: "the queue of pages for a balloon",
    devices: || named("balloon", Balloon::new(0).unwrap()),
    features: 0,
    queue: 0,
    most: 128,
    cause: None,
    proper: Buffers { words: &[(DATA, &[GIVEN >> 12])], chains: &[&[(DATA, 4, 0)]] },
    written: 0,
    answer: None,
    afterwards: None,
};

/// Queues of page numbers.
pub(super) const BALLOON_PAGES: [Subject; 2] =
    [INFLATE, Subject { name: "the queue of pages from a balloon", queue: 1, ..INFLATE }];

/// The first buffer comes back when the second is there.
pub(super) const BALLOON_STATISTICS: Subject = Subject {
    name: "a balloon's statistics",
    features: STATISTICS,
    queue: 2,
    proper: Buffers { words: &[], chains: &[&[(DATA, 10, 0)], &[(DATA, 10, 0)]] },
    ..INFLATE
};

/// Queues of free pages: where old drivers have it, and where the specification does.
pub(super) const BALLOON_REPORTS: [Subject; 2] = [
    Subject {
        name: "the queue of free pages",
        features: REPORTING | STATISTICS,
        queue: 4,
        proper: Buffers { words: &[], chains: &[&[(GIVEN, 4096, WRITE)]] },
        ..INFLATE
    },
    Subject {
        name: "the queue of free pages of old drivers",
        features: REPORTING | STATISTICS,
        queue: 3,
        proper: Buffers { words: &[], chains: &[&[(GIVEN, 4096, WRITE)]] },
        ..INFLATE
    },
];
