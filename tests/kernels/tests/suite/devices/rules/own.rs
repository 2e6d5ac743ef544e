//! Each device's own rules, and what a driver may do wrong and is answered: disks have a status for that, sockets a reset.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;

use tern_test_kernels::long::{DATA as AREA, long_in_memory};
use tern_virtio::vsock::{DEFAULT_CID, Vsock};
use tern_vmm::config::DeviceConfig;

use super::super::WRITE;
use super::subjects::*;
use super::{ANSWER, Buffers, CAUSE_DATA, DATA, MEMORY, Mistake, Part, Subject, all_break, works};

#[test]
fn a_disks_request_without_a_header_or_a_status_breaks_the_rules() {
    for subject in [BLOCK, BLOCK_SECOND] {
        all_break(
            &subject,
            &[
                Mistake::chain("half a header", &[(DATA, 15, 0), (STATUS, 1, WRITE)]),
                Mistake::chain("half a header in pieces", &[(DATA, 8, 0), (DATA, 7, 0), (STATUS, 1, WRITE)]),
                Mistake::chain("no status", &[(DATA, 16, 0)]),
                Mistake::chain("data, and no status", &[(DATA, 16, 0), (DATA, 512, 0)]),
                Mistake::chain("no header", &[(STATUS, 1, WRITE)]),
                Mistake::chain("a header to be written", &[(ANSWER, 16, WRITE), (STATUS, 1, WRITE)]),
            ],
        );
    }
}

#[test]
fn a_console_is_given_nothing_to_read_where_it_sends() {
    for subject in CONSOLE_RECEIVES.iter().chain([&CONTROL_RECEIVE]) {
        all_break(
            subject,
            &[
                Mistake::chain("a buffer to be read", &[(DATA, 64, 0)]),
                Mistake::chain("a part to be read", &[(DATA, 1, 0), (ANSWER, 64, WRITE)]),
            ],
        );
    }
}

#[test]
fn a_console_is_given_nothing_to_write_where_it_is_sent_to() {
    for subject in CONSOLE_TRANSMITS.iter().chain([&CONTROL_TRANSMIT]) {
        all_break(
            subject,
            &[
                Mistake::chain("a buffer to be written", &[(ANSWER, 64, WRITE)]),
                Mistake::chain("a part to be written", &[(DATA, 64, 0), (ANSWER, 1, WRITE)]),
            ],
        );
    }
}

#[test]
fn a_mebibyte_is_the_most_that_a_console_is_sent_at_once() {
    const MOST: u32 = 1 << 20;
    for subject in CONSOLE_TRANSMITS {
        all_break(
            &subject,
            &[
                Mistake::chain("one byte more", &[(AREA, MOST + 1, 0)]),
                Mistake::chain(
                    "one byte more in pieces",
                    &[(AREA, MOST / 2, 0), (AREA, MOST / 2, 0), (AREA, 1, 0)],
                ),
                Mistake::chain("half a GiB", &[(0, MEMORY as u32, 0)]),
            ],
        );
    }
}

#[test]
fn a_message_about_a_port_that_is_too_short_breaks_the_rules() {
    all_break(
        &CONTROL_TRANSMIT,
        &[
            Mistake::chain("7 bytes", &[(DATA, 7, 0)]),
            Mistake::chain("7 bytes in pieces", &[(DATA, 4, 0), (DATA, 3, 0)]),
        ],
    );
    all_break(
        &CONTROL_RECEIVE,
        &[
            Mistake::chain("room for 7 bytes", &[(ANSWER, 7, WRITE)]),
            Mistake::chain("room for 7 bytes in pieces", &[(ANSWER, 4, WRITE), (ANSWER, 3, WRITE)]),
        ],
    );
}

#[test]
fn a_packet_that_is_shorter_than_its_header_or_than_it_says_breaks_the_rules() {
    let says = |what, length, parts: &[Part]| {
        Mistake::data(what, DATA, &packet(GUEST, HOST, STREAM, OP_RW, length), parts)
    };
    all_break(
        &VSOCK_TRANSMIT,
        &[
            Mistake::chain("half a header", &[(DATA, HEADER - 1, 0)]),
            Mistake::chain("half a header in pieces", &[(DATA, 20, 0), (DATA, HEADER - 21, 0)]),
            Mistake::chain("a header to be written", &[(ANSWER, HEADER, WRITE)]),
            says("one byte that is not there", 1, &[(DATA, HEADER, 0)]),
            says("one byte that is to be written", 1, &[(DATA, HEADER, 0), (ANSWER, 1, WRITE)]),
            says("5 bytes of which 4 are there", 5, &[(DATA, HEADER, 0), (AREA, 4, 0)]),
            says(
                "4 GiB of which a mebibyte is there",
                u32::MAX.into(),
                &[(DATA, HEADER, 0), (AREA, 1 << 20, 0)],
            ),
        ],
    );
}

#[test]
fn a_buffer_in_which_no_packet_or_event_has_room_breaks_the_rules() {
    all_break(
        &VSOCK_RECEIVE,
        &[
            Mistake::chain("less than a header", &[(ANSWER, HEADER - 1, WRITE)]),
            Mistake::chain(
                "less than a header in pieces",
                &[(ANSWER, 20, WRITE), (ANSWER, HEADER - 21, WRITE)],
            ),
            Mistake::chain("a buffer to be read", &[(DATA, 4096, 0)]),
        ],
    );
    all_break(
        &VSOCK_EVENT,
        &[
            Mistake::chain("less than an event", &[(ANSWER, 3, WRITE)]),
            Mistake::chain("a buffer to be read", &[(DATA, 64, 0)]),
        ],
    );
}

#[test]
fn what_a_balloon_is_told_of_and_is_no_page_breaks_the_rules() {
    for subject in BALLOON_PAGES {
        let pages = |what, number: u64, length| Mistake::data(what, DATA, &[number], &[(DATA, length, 0)]);
        all_break(
            &subject,
            &[
                pages("the page behind memory", MEMORY >> 12, 4),
                pages("the page at 4 GiB", 0x10_0000, 4),
                pages("the last page of all", 0xffff_ffff, 4),
                pages("a page of memory and one that is none", 0xffff_ffff << 32 | 0x300, 8),
                pages("a number and a half", 0x300, 6),
                Mistake::chain("more numbers than are taken at once", &[(AREA, (256 << 10) + 4, 0)]),
                Mistake::chain("no numbers", &[(ANSWER, 64, WRITE)]),
            ],
        );
    }
}

#[test]
fn what_random_numbers_cannot_be_written_to_breaks_the_rules() {
    all_break(
        &RNG,
        &[
            Mistake::chain("a buffer to be read", &[(DATA, 64, 0)]),
            Mistake::chain("a part to be read", &[(DATA, 1, 0), (ANSWER, 64, WRITE)]),
        ],
    );
}

/// VIRTIO_BLK_F_DISCARD and VIRTIO_BLK_F_WRITE_ZEROES.
const RANGES: u32 = 1 << 13 | 1 << 14;

/// Kinds of requests.
const IN: u64 = 0;
const OUT: u64 = 1;
const DISCARD: u64 = 11;
const WRITE_ZEROES: u64 = 13;

/// Answers of a disk.
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

const SECTORS: u64 = DISK / 512;

/// A request of this kind at a sector, with what follows, is answered so.
fn answers(
    devices: fn() -> Vec<DeviceConfig>,
    features: u32,
    requests: &'static [(&'static str, Buffers, u32, u8)],
) {
    long_in_memory(MEMORY, devices, |g| {
        for &(name, proper, written, answer) in requests {
            let answer = Some((STATUS, answer));
            works(g, &Subject { name, devices, features, proper, written, answer, ..BLOCK })?;
        }
        Ok(())
    });
}

/// A request: its header's kind and sector, and the range behind it, if it is about one.
macro_rules! request {
    ($words:expr, $($part:expr),*) => {
        Buffers {
            words: &[(STATUS, &[0xff]), (DATA, &$words)],
            chains: &[&[(DATA, 16, 0), $($part,)* (STATUS, 1, WRITE)]],
        }
    };
}

const READ: Part = (ANSWER, 512, WRITE);
const WRITTEN: Part = (AREA, 512, 0);
const RANGE: Part = (DATA + 16, 16, 0);

#[test]
fn what_a_disk_cannot_do_is_answered_with_a_status() {
    answers(
        || disk(false, 1),
        RANGES,
        &[
            ("a sector behind the end", request!([IN, SECTORS], READ), 513, IOERR),
            ("over the end", request!([IN, SECTORS - 1], (ANSWER, 1024, WRITE)), 1025, IOERR),
            ("the last sector of all", request!([IN, u64::MAX], READ), 513, IOERR),
            ("a half sector", request!([IN, 0], (ANSWER, 256, WRITE)), 257, IOERR),
            ("a write behind the end", request!([OUT, SECTORS], WRITTEN), 1, IOERR),
            ("a write to the last sector of all", request!([OUT, u64::MAX], WRITTEN), 1, IOERR),
            ("a write of more than a sector", request!([OUT, 0], (AREA, 513, 0)), 1, IOERR),
            ("a kind that there is not", request!([99, 0], READ), 513, UNSUPP),
            ("a kind that there is not", request!([u32::MAX as u64, 0],), 1, UNSUPP),
            ("a discard with a flag", request!([DISCARD, 0, 0, 1 << 32 | 8], RANGE), 1, UNSUPP),
            (
                "zeros with a flag that there is not",
                request!([WRITE_ZEROES, 0, 0, 2 << 32 | 8], RANGE),
                1,
                UNSUPP,
            ),
            ("a discard without a range", request!([DISCARD, 0],), 1, IOERR),
            ("a discard of half a range", request!([DISCARD, 0, 0, 8], (DATA + 16, 8, 0)), 1, IOERR),
            ("a discard of two ranges", request!([DISCARD, 0, 0, 8], RANGE, RANGE), 1, IOERR),
            ("a discard over the end", request!([DISCARD, 0, SECTORS - 1, 2], RANGE), 1, IOERR),
            ("zeros over the end", request!([WRITE_ZEROES, 0, SECTORS - 1, 2], RANGE), 1, IOERR),
            ("zeros at the last sector of all", request!([WRITE_ZEROES, 0, u64::MAX, 1], RANGE), 1, IOERR),
            ("zeros everywhere", request!([WRITE_ZEROES, 0, 0, u32::MAX as u64], RANGE), 1, IOERR),
        ],
    );
}

#[test]
fn a_disk_that_is_only_read_says_so() {
    answers(
        || disk(true, 1),
        0,
        &[
            ("a write", request!([OUT, 0], WRITTEN), 1, IOERR),
            ("a discard", request!([DISCARD, 0, 0, 8], RANGE), 1, IOERR),
            ("zeros", request!([WRITE_ZEROES, 0, 0, 8], RANGE), 1, IOERR),
            ("a read", request!([IN, 0], READ), 513, 0),
        ],
    );
}

#[test]
fn packets_for_nobody_are_refused_whatever_they_carry() {
    const MUCH: u64 = 2 << 20;
    const PARTS: &[&[Part]] = &[&[(CAUSE_DATA, HEADER, 0)]];
    const AND_MUCH: &[&[Part]] = &[&[(CAUSE_DATA, HEADER, 0), (AREA, MUCH as u32, 0)]];
    const SUBJECTS: [Subject; 5] = [
        refused(&[(CAUSE_DATA, &packet(GUEST, HOST, STREAM, OP_RW, MUCH))], AND_MUCH),
        refused(&[(CAUSE_DATA, &packet(GUEST, HOST, 9, OP_REQUEST, 0))], PARTS),
        refused(&[(CAUSE_DATA, &packet(GUEST, HOST, STREAM, 99, 0))], PARTS),
        refused(&[(CAUSE_DATA, &packet(GUEST, 77, STREAM, OP_REQUEST, 0))], PARTS),
        // Others are not spoken for; this device goes on.
        Subject {
            proper: Buffers {
                words: &[(DATA, &packet(4, HOST, STREAM, OP_REQUEST, 0))],
                chains: &[&[(DATA, HEADER, 0)]],
            },
            ..VSOCK_TRANSMIT
        },
    ];
    long_in_memory(MEMORY, VSOCK_RECEIVE.devices, |g| {
        for subject in &SUBJECTS {
            works(g, subject)?;
        }
        Ok(())
    });
}

/// A socket device, with a program of the host at port 52 that listens to whatever comes.
fn served() -> Vec<DeviceConfig> {
    let directory = tempfile::tempdir().unwrap();
    let device = Vsock::new(DEFAULT_CID, &directory.path().join("vsock")).unwrap();
    let service = UnixListener::bind(directory.path().join("vsock_52")).unwrap();
    // It ends with the connection, which each test makes.
    thread::spawn(move || {
        let _directory = directory;
        let (mut connection, _) = service.accept().unwrap();
        let _ = connection.read_to_end(&mut Vec::new());
    });
    vec![DeviceConfig { name: "vsock".to_owned(), device: Arc::new(device) }]
}

#[test]
fn a_connection_on_which_more_is_sent_than_there_is_room_for_is_cut() {
    const REQUEST: (u64, &[u64]) = (CAUSE_DATA, &packet(GUEST, HOST, STREAM, OP_REQUEST, 0));
    const SECOND: u64 = CAUSE_DATA + 64;
    const ROOM: u64 = 64 << 10;
    const MUCH: u64 = 2 << 20;
    const SUBJECTS: [Subject; 3] = [
        refused(
            &[REQUEST, (SECOND, &packet(GUEST, HOST, STREAM, OP_RW, ROOM + 1))],
            &[&[(CAUSE_DATA, HEADER, 0)], &[(SECOND, HEADER, 0), (AREA, ROOM as u32 + 1, 0)]],
        ),
        refused(
            &[REQUEST, (SECOND, &packet(GUEST, HOST, STREAM, OP_RW, MUCH))],
            &[&[(CAUSE_DATA, HEADER, 0)], &[(SECOND, HEADER, 0), (AREA, MUCH as u32, 0)]],
        ),
        // And one that is opened twice.
        refused(&[REQUEST], &[&[(CAUSE_DATA, HEADER, 0)], &[(CAUSE_DATA, HEADER, 0)]]),
    ];
    for subject in &SUBJECTS {
        long_in_memory(MEMORY, served, |g| works(g, subject));
    }
}
