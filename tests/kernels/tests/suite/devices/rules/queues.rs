//! The rules of every queue: how it is set up (virtio 1.2, section 4.1.4.3), what is available (2.7.6), descriptors (2.7.5) and tables of them (2.7.5.3).

use iced_x86::code_asm::rax;
use tern_test_kernels::device::virtio::*;
use tern_test_kernels::long::long_in_memory;

use super::super::{NEXT, WRITE, available, descriptor};
use super::subjects::*;
use super::{ANSWER, DATA, MEMORY, Mistake, Part, QUEUE, Subject, TABLE_FRAME, all_break, laid, works};

/// A descriptor of a table of descriptors.
const INDIRECT: u64 = 4;

/// VIRTIO_F_ANY_LAYOUT, which devices have only for drivers of before virtio 1.
const ANY_LAYOUT: u32 = 1 << 27;

/// Queues that cannot be.
fn set_up(subject: &Subject) -> Vec<Mistake> {
    let mistake =
        |what: String, queue| Mistake { what, queue, is_found_early: true, ..Mistake::chain("", &[]) };
    let mut all = Vec::new();
    for size in [0, 3, subject.most * 2, u16::MAX] {
        all.push(mistake(format!("a queue of {size} entries"), Queue { size, ..QUEUE }));
    }
    for address in [0, 0x8000_0000, !0xfff, u64::from(REGION)] {
        all.push(mistake(format!("descriptors at {address:#x}"), Queue { descriptors: address, ..QUEUE }));
        all.push(mistake(format!("an available ring at {address:#x}"), Queue { driver: address, ..QUEUE }));
        all.push(mistake(format!("a used ring at {address:#x}"), Queue { device: address, ..QUEUE }));
    }
    let Queue { descriptors, driver, device, .. } = QUEUE;
    all.push(mistake("descriptors between two".to_owned(), Queue { descriptors: descriptors + 8, ..QUEUE }));
    all.push(mistake("an available ring at an odd place".to_owned(), Queue { driver: driver + 1, ..QUEUE }));
    all.push(mistake("a used ring that is not aligned".to_owned(), Queue { device: device + 2, ..QUEUE }));
    all
}

/// Buffers and descriptors that cannot be.
fn buffers(subject: &Subject) -> Vec<Mistake> {
    let mut all = Vec::new();
    for (what, address, length) in [
        ("a buffer beyond memory", 0x8000_0000, 64),
        ("a buffer around the end of all addresses", u64::MAX - 8, 64),
        ("a buffer half in memory", MEMORY - 1, 2),
        ("a buffer in the device's registers", u64::from(REGION), 64),
        ("a buffer of 4 GiB", DATA, u32::MAX),
    ] {
        all.push(Mistake::chain(what, &[(address, length, 0)]));
        all.push(Mistake::chain(what, &[(address, length, WRITE)]));
    }
    let whole: Part = (0, MEMORY as u32, 0);
    all.push(Mistake::chain("a buffer of more than 4 GiB in sum", &[whole; 8]));
    all.push(Mistake::chain("a buffer without bytes", &[(DATA, 0, 0)]));
    all.push(Mistake::chain(
        "a part without bytes",
        &[(DATA, 64, 0), (ANSWER, 64, WRITE), (ANSWER, 0, WRITE)],
    ));
    all.push(Mistake::chain("a part to read behind one to write", &[(ANSWER, 64, WRITE), (DATA, 64, 0)]));
    let first = |what, descriptor: [u64; 2]| {
        let mut mistake = Mistake::chain(what, &[(DATA, 1, 0)]);
        mistake.words.push((QUEUE.descriptors, descriptor.into()));
        mistake
    };
    all.push(first("a circle of one descriptor", descriptor(DATA, 1, NEXT, 0)));
    let circle: Vec<_> = (0..8).flat_map(|index| descriptor(DATA, 1, NEXT, (index + 1) % 8)).collect();
    all.push(Mistake::new(
        "a circle of all descriptors",
        vec![(QUEUE.descriptors, circle), (QUEUE.driver, vec![available(1, [0, 0])])],
    ));
    all.push(first("a successor that does not exist", descriptor(DATA, 1, NEXT, 8)));
    // Nothing else is wrong with these.
    for (what, count, head) in [
        ("a first descriptor that does not exist", 1, 8),
        ("one more buffer than entries", 9, 0),
        ("an index that has gone back", 0x8000, 0),
        ("an index that is one behind", 0xffff, 0),
    ] {
        let mut words = laid(QUEUE, subject.proper.chains);
        words.extend(subject.proper.words.iter().map(|(address, words)| (*address, words.to_vec())));
        words.push((QUEUE.driver, vec![available(count, [head, 0])]));
        all.push(Mistake::new(what, words));
    }
    all
}

/// Tables of descriptors that cannot be.
fn tables(subject: &Subject) -> Vec<Mistake> {
    let table = |what: &str, features, first: [u64; 2], entries: &[[u64; 2]]| {
        let words = vec![
            (QUEUE.descriptors, [first, descriptor(DATA, 1, 0, 0)].concat()),
            (QUEUE.driver, vec![available(1, [0, 0])]),
            (TABLE_FRAME, entries.concat()),
        ];
        Mistake { features, ..Mistake::new(what, words) }
    };
    let agreed = INDIRECT_DESC;
    let (entry, whole) = (descriptor(DATA, 1, 0, 0), descriptor(TABLE_FRAME, 16, INDIRECT, 0));
    let mut all = vec![table("a table that was not agreed on", 0, whole, &[entry])];
    for length in [0, 15, 24, u32::from(subject.most) * 16 + 16, 0xffff_fff0] {
        let what = format!("a table of {length} bytes");
        all.push(table(&what, agreed, descriptor(TABLE_FRAME, length, INDIRECT, 0), &[entry, entry]));
    }
    let followed = descriptor(TABLE_FRAME, 16, INDIRECT | NEXT, 1);
    all.push(table("a table with a successor", agreed, followed, &[entry]));
    all.push(table("a table beyond memory", agreed, descriptor(0x8000_0000, 16, INDIRECT, 0), &[]));
    let mut half = table("a table half in memory", agreed, descriptor(MEMORY - 16, 32, INDIRECT, 0), &[]);
    half.words.push((MEMORY - 16, descriptor(DATA, 1, NEXT, 1).into()));
    all.push(half);
    all.push(table("a table in a table", agreed, whole, &[whole]));
    all.push(table("a circle in a table", agreed, whole, &[descriptor(DATA, 1, NEXT, 0)]));
    all.push(table("an entry that a table does not have", agreed, whole, &[descriptor(DATA, 1, NEXT, 1)]));
    all
}

/// Statuses that a driver writes after a reset, and what the last one leaves: each is a step left out or taken back.
const STEPS: [(&str, &[u8], u8); 4] = [
    ("ready before anything was agreed on", &[1, 3, 7], DRIVER | NEEDS_RESET),
    ("back without a reset", &[1, 3, 1], DRIVER | NEEDS_RESET),
    // The device does not agree.
    ("without VIRTIO_F_VERSION_1", &[1, 3, FEATURES_OK], DRIVER),
    ("ready without VIRTIO_F_VERSION_1", &[1, 3, FEATURES_OK, DRIVER_OK], DRIVER | NEEDS_RESET),
];

fn hold(subject: &Subject) {
    // On a device that nobody has used, too.
    long_in_memory(MEMORY, subject.devices, |g| {
        works(g, subject)?;
        for (what, statuses, left) in STEPS {
            g.case(&format!("{}: {what}", subject.name));
            reset(g)?;
            for status in statuses {
                write_byte(g, DEVICE_STATUS, *status)?;
            }
            read_status(g)?;
            g.expect(rax, left.into())?;
            works(g, subject.afterwards.unwrap_or(subject))?;
        }
        g.case(&format!("{}: a feature that no device offers", subject.name));
        negotiate(g, subject.features | ANY_LAYOUT)?;
        read_status(g)?;
        g.expect(rax, DRIVER.into())?;
        works(g, subject.afterwards.unwrap_or(subject))
    });
    for mistakes in [set_up(subject), buffers(subject), tables(subject)] {
        all_break(subject, &mistakes);
    }
}

#[test]
fn every_rule_of_queues_holds_on_a_disk() {
    hold(&BLOCK);
    hold(&BLOCK_SECOND);
}

#[test]
fn every_rule_of_queues_holds_on_what_a_console_sends() {
    CONSOLE_RECEIVES.iter().for_each(hold);
}

#[test]
fn every_rule_of_queues_holds_on_what_is_sent_to_a_console() {
    CONSOLE_TRANSMITS.iter().for_each(hold);
}

#[test]
fn every_rule_of_queues_holds_on_messages_about_ports() {
    hold(&CONTROL_RECEIVE);
    hold(&CONTROL_TRANSMIT);
}

#[test]
fn every_rule_of_queues_holds_on_packets_in_both_directions() {
    hold(&VSOCK_RECEIVE);
    hold(&VSOCK_TRANSMIT);
}

#[test]
fn every_rule_of_queues_holds_on_events_of_a_socket_device() {
    hold(&VSOCK_EVENT);
}

#[test]
fn every_rule_of_queues_holds_on_a_balloons_pages() {
    BALLOON_PAGES.iter().for_each(hold);
    BALLOON_REPORTS.iter().for_each(hold);
}

#[test]
fn every_rule_of_queues_holds_on_a_balloons_statistics() {
    hold(&BALLOON_STATISTICS);
}

#[test]
fn every_rule_of_queues_holds_on_a_source_of_random_numbers() {
    hold(&RNG);
}
