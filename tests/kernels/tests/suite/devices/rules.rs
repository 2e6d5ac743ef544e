//! Drivers of our own for every device, each of which breaks one rule: first those that all queues have (virtio 1.2, section 2.7),
//! then the device's own (sections 5.2, 5.3, 5.5, 5.10). All must end in NEEDS_RESET, and a reset must repair it. What is read and
//! written where no rule is broken is tested in `device/virtio` and with real drivers.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::sync::Arc;

use tern_disk::DiskOptions;
use tern_test_kernels::device::virtio::*;
use tern_test_kernels::long::*;
use tern_virtio::balloon::Balloon;
use tern_virtio::block::Block;
use tern_virtio::console::{Console, PortConfig};
use tern_virtio::device::VirtioDevice;
use tern_virtio::rng::Rng;
use tern_virtio::vsock::{DEFAULT_CID, Vsock};
use tern_vmm::config::DeviceConfig;

use super::{NEXT, WRITE, available, descriptor};

const QUEUE: Queue = Queue { size: 8, descriptors: frame(0), driver: frame(1), device: frame(2) };
/// What the driver gives.
const DATA: u64 = frame(3);
/// Where the device answers.
const ANSWER: u64 = frame(4);

/// A device with a queue, on which rules are broken.
struct Subject {
    devices: fn() -> Vec<DeviceConfig>,
    queue: u16,
    /// Of the low half.
    features: u32,
}

fn named(name: &str, device: impl VirtioDevice + 'static) -> Vec<DeviceConfig> {
    vec![DeviceConfig { name: name.to_owned(), device: Arc::new(device) }]
}

/// A disk of 1 MiB, whose file is gone as soon as it is open.
const BLOCK: Subject = Subject {
    devices: || {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        named("disk0", Block::new(tern_disk::open(&DiskOptions::new(file.path())).unwrap(), "serial", 1))
    },
    queue: 0,
    features: 0,
};

/// The queue of messages to a console with several ports.
const CONSOLE: Subject = Subject {
    devices: || {
        let directory = tempfile::tempdir().unwrap();
        let port = PortConfig::channel("channel", &directory.path().join("channel")).unwrap();
        named("console", Console::new(vec![port]).unwrap())
    },
    queue: 3,
    // VIRTIO_CONSOLE_F_MULTIPORT.
    features: 1 << 1,
};

/// The queue of packets to the host.
const VSOCK: Subject = Subject {
    devices: || {
        let directory = tempfile::tempdir().unwrap();
        named("vsock", Vsock::new(DEFAULT_CID, &directory.path().join("vsock")).unwrap())
    },
    queue: 1,
    features: 0,
};

/// The queue of pages that are given away.
const BALLOON: Subject =
    Subject { devices: || named("balloon", Balloon::new(0).unwrap()), queue: 0, features: 0 };

const RNG: Subject = Subject { devices: || named("rng", Rng), queue: 0, features: 0 };

/// With what `spoil` puts there, the first buffer available, the device must end in NEEDS_RESET, use nothing, and be whole after a
/// reset.
fn breaks(subject: &Subject, spoil: impl FnOnce(&mut Long)) {
    let Subject { devices, queue, features } = *subject;
    long_with_devices(devices, |g| {
        g.put(QUEUE.driver, &[available(1, [0, 0])]);
        spoil(g);
        negotiate(g, features)?;
        enable_at(g, queue, QUEUE)?;
        write_byte(g, DEVICE_STATUS, DRIVER_OK)?;
        write_word(g, doorbell(queue), queue)?;
        wait_status(g, NEEDS_RESET)?;
        read_status(g)?;
        g.expect(iced_x86::code_asm::rax, (DRIVER_OK | NEEDS_RESET).into())?;
        // Nothing is used: behind the flags, the index and what would be the first element.
        g.expect_memory(QUEUE.device + 2, 0)?;
        negotiate(g, features)?;
        write_byte(g, DEVICE_STATUS, DRIVER_OK)?;
        g.spin(10_000)?;
        read_status(g)?;
        g.expect(iced_x86::code_asm::rax, DRIVER_OK.into())
    });
}

/// As [`breaks`], for a chain of descriptors: address, length, flags. Each leads to the one behind it.
fn chain_breaks(subject: &Subject, parts: &[(u64, u32, u64)]) {
    breaks(subject, |g| {
        let last = parts.len() - 1;
        let part = |(index, &(address, length, flags)): (usize, &(u64, u32, u64))| {
            let next = if index < last { NEXT } else { 0 };
            descriptor(address, length, flags | next, index as u64 + 1)
        };
        let parts: Vec<_> = parts.iter().enumerate().map(part).collect();
        g.put(QUEUE.descriptors, parts.as_flattened());
    });
}

/// Every rule that the queues of all devices have.
fn rules_of_queues(subject: &Subject) {
    // Buffers outside of memory, as a whole or in part, and in the device's own registers.
    for (address, length) in
        [(0x8000_0000, 64), (u64::MAX - 8, 64), (0xff_ffff, 2), (u64::from(REGION), 64), (DATA, u32::MAX)]
    {
        chain_breaks(subject, &[(address, length, 0)]);
        chain_breaks(subject, &[(address, length, WRITE)]);
    }
    chain_breaks(subject, &[(DATA, 0, 0)]);
    chain_breaks(subject, &[(ANSWER, 1, WRITE), (DATA, 1, 0)]);
    // A circle, a descriptor that is not there, by a successor and as the first one, and too many buffers.
    breaks(subject, |g| g.put(QUEUE.descriptors, &descriptor(DATA, 1, NEXT, 0)));
    breaks(subject, |g| g.put(QUEUE.descriptors, &descriptor(DATA, 1, NEXT, 8)));
    breaks(subject, |g| g.put(QUEUE.driver, &[available(1, [8, 0])]));
    breaks(subject, |g| g.put(QUEUE.driver, &[available(9, [0, 0])]));
    // Tables of descriptors were not agreed on.
    breaks(subject, |g| g.put(QUEUE.descriptors, &descriptor(DATA, 16, 4, 0)));
}

#[test]
fn every_rule_of_queues_holds_on_a_disk() {
    rules_of_queues(&BLOCK);
}

#[test]
fn every_rule_of_queues_holds_on_a_console() {
    rules_of_queues(&CONSOLE);
}

#[test]
fn every_rule_of_queues_holds_on_a_socket_device() {
    rules_of_queues(&VSOCK);
}

#[test]
fn every_rule_of_queues_holds_on_a_balloon() {
    rules_of_queues(&BALLOON);
}

#[test]
fn every_rule_of_queues_holds_on_a_source_of_random_numbers() {
    rules_of_queues(&RNG);
}

#[test]
fn a_disks_request_without_a_header_or_a_status_breaks_the_rules() {
    chain_breaks(&BLOCK, &[(DATA, 15, 0), (ANSWER, 1, WRITE)]);
    chain_breaks(&BLOCK, &[(DATA, 16, 0)]);
    chain_breaks(&BLOCK, &[(DATA, 16, 0), (DATA, 512, 0)]);
    chain_breaks(&BLOCK, &[(ANSWER, 1, WRITE)]);
    chain_breaks(&BLOCK, &[(ANSWER, 16, WRITE), (ANSWER, 1, WRITE)]);
}

#[test]
fn a_message_to_a_console_that_is_none_breaks_the_rules() {
    chain_breaks(&CONSOLE, &[(DATA, 7, 0)]);
    chain_breaks(&CONSOLE, &[(ANSWER, 8, WRITE)]);
}

#[test]
fn a_packet_that_is_shorter_than_its_header_or_than_it_says_breaks_the_rules() {
    chain_breaks(&VSOCK, &[(DATA, 43, 0)]);
    chain_breaks(&VSOCK, &[(ANSWER, 44, WRITE)]);
    breaks(&VSOCK, |g| {
        // From CID 3 to the host, with 5 bytes of data, of which 4 are there; OP_RW on a stream.
        g.put(DATA, &[3, 2, 7 << 32 | 7, 1 << 32 | 5, 5]);
        g.put(QUEUE.descriptors, &descriptor(DATA, 48, 0, 0));
    });
}

#[test]
fn what_a_balloon_is_given_and_is_no_page_breaks_the_rules() {
    for pages in [0xffff_ffff_u64, 0x10_0000] {
        breaks(&BALLOON, |g| {
            g.put(DATA, &[pages]);
            g.put(QUEUE.descriptors, &descriptor(DATA, 4, 0, 0));
        });
    }
    chain_breaks(&BALLOON, &[(DATA, 6, 0)]);
}

#[test]
fn what_random_numbers_cannot_be_written_to_breaks_the_rules() {
    chain_breaks(&RNG, &[(DATA, 64, 0)]);
}
