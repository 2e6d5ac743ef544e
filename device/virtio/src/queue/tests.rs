//! Queues whose drivers break one rule after the other.

use super::*;
use crate::driver::{INDIRECT, NEXT, Ring, WRITE};
use crate::feature::{EVENT_IDX, INDIRECT_DESC};

const BASE: u64 = 0x1_0000;
const SIZE: u16 = 8;
const MOST: u16 = 16;
/// Bytes of memory.
const END: u64 = 0x10_0000;

fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), END as usize)]).unwrap()
}

fn pair_with(features: u64) -> (Ring, Virtqueue) {
    let memory = memory();
    let ring = Ring::new(&memory, 0, BASE, SIZE, MOST);
    let queue = Virtqueue::new(&memory, ring.setup(), features, Progress::default()).unwrap();
    (ring, queue)
}

fn pair() -> (Ring, Virtqueue) {
    pair_with(INDIRECT_DESC)
}

/// What becomes of the chain that begins with descriptor 0 and is written by `write`.
fn popped(write: impl FnOnce(&mut Ring)) -> Result<Option<Chain>, Violation> {
    let (mut ring, mut queue) = pair();
    write(&mut ring);
    ring.offer(0);
    queue.pop()
}

#[test]
fn buffers_come_in_order_with_their_parts_and_go_back() {
    let (mut ring, mut queue) = pair();
    assert_eq!(queue.pop(), Ok(None));
    ring.send(0, &[(0x2000, 16, false), (0x3000, 512, true), (0x4000, 1, true)]);
    ring.send(5, &[(0x5000, 7, true)]);
    let first = queue.pop().unwrap().unwrap();
    assert_eq!((first.head, first.readable.total(), first.writable.total()), (0, 16, 513));
    let second = queue.pop().unwrap().unwrap();
    assert_eq!((second.head, second.readable.total(), second.writable.total()), (5, 0, 7));
    assert_eq!((queue.pop(), queue.in_flight()), (Ok(None), 2));
    queue.push(5, 7).unwrap();
    queue.push(0, 513).unwrap();
    assert_eq!([ring.used(), ring.used(), ring.used()], [Some((5, 7)), Some((0, 513)), None]);
    assert_eq!(queue.in_flight(), 0);
}

#[test]
fn what_was_put_back_comes_again() {
    let (mut ring, mut queue) = pair();
    ring.send(3, &[(0x2000, 16, false)]);
    let chain = queue.pop();
    queue.put_back();
    assert_eq!(queue.pop(), chain);
}

#[test]
fn a_table_of_descriptors_may_follow_others() {
    let chain = popped(|ring| {
        let table = ring.setup().descriptors;
        ring.describe(table, 0, (0x2000, 16), NEXT, 1);
        ring.describe(table, 1, (0x8_0000, 3 * 16), INDIRECT, 0);
        ring.describe(0x8_0000, 0, (0x3000, 8), NEXT, 2);
        ring.describe(0x8_0000, 2, (0x4000, 9), WRITE, 0);
    });
    let chain = chain.unwrap().unwrap();
    assert_eq!((chain.readable.total(), chain.writable.total()), (24, 9));
}

#[test]
fn a_circle_of_descriptors_is_seen() {
    let circle = |length: u16| {
        popped(|ring| {
            for index in 0..length {
                let next = (index + 1) % length;
                ring.describe(ring.setup().descriptors, index, (0x2000, 1), NEXT, next);
            }
        })
    };
    assert_eq!(circle(1), Err(Violation::Endless));
    assert_eq!(circle(SIZE), Err(Violation::Endless));
    let in_table = popped(|ring| {
        ring.describe(ring.setup().descriptors, 0, (0x8_0000, 32), INDIRECT, 0);
        ring.describe(0x8_0000, 0, (0x2000, 1), NEXT, 1);
        ring.describe(0x8_0000, 1, (0x2000, 1), NEXT, 0);
    });
    assert_eq!(in_table, Err(Violation::Endless));
}

#[test]
fn the_longest_chain_has_as_many_descriptors_as_the_queue() {
    let pieces = vec![(0x2000, 1, false); usize::from(SIZE)];
    let chain = popped(|ring| ring.chain(0, &pieces)).unwrap().unwrap();
    assert_eq!(chain.readable.list().len(), usize::from(SIZE));
}

#[test]
fn descriptors_beyond_their_table_are_seen() {
    let beyond = popped(|ring| ring.describe(ring.setup().descriptors, 0, (0x2000, 1), NEXT, SIZE));
    assert_eq!(beyond, Err(Violation::NoDescriptor(SIZE)));
    let (mut ring, mut queue) = pair();
    ring.offer(SIZE);
    assert_eq!(queue.pop(), Err(Violation::NoDescriptor(SIZE)));
}

#[test]
fn tables_of_descriptors_are_where_they_may_be_only() {
    let table = |address, length| {
        popped(|ring| ring.describe(ring.setup().descriptors, 0, (address, length), INDIRECT, 0))
    };
    for size in [0, 15, 17, (u32::from(MOST) + 1) * 16, !15] {
        assert_eq!(table(0x8_0000, size), Err(Violation::IndirectSize(size)));
    }
    assert_eq!(table(END, 16), Err(Violation::DescriptorOutside(END)));
    assert_eq!(table(u64::MAX - 8, 16), Err(Violation::DescriptorOutside(u64::MAX - 8)));
    let with_successor =
        popped(|ring| ring.describe(ring.setup().descriptors, 0, (0x8_0000, 16), INDIRECT | NEXT, 1));
    assert_eq!(with_successor, Err(Violation::IndirectForbidden));
    let nested = popped(|ring| {
        ring.describe(ring.setup().descriptors, 0, (0x8_0000, 16), INDIRECT, 0);
        ring.describe(0x8_0000, 0, (0x8_0000, 16), INDIRECT, 0);
    });
    assert_eq!(nested, Err(Violation::IndirectForbidden));
    let (mut ring, mut queue) = pair_with(0);
    ring.describe(ring.setup().descriptors, 0, (0x8_0000, 16), INDIRECT, 0);
    ring.offer(0);
    assert_eq!(queue.pop(), Err(Violation::IndirectForbidden), "it was not agreed on");
}

#[test]
fn buffers_are_in_memory_have_bytes_and_come_in_order() {
    for (address, length) in [(END, 1), (END - 1, 2), (0xc000_0000, 4), (u64::MAX, 1), (0, u32::MAX)] {
        let outside = popped(|ring| ring.chain(0, &[(address, length, true)]));
        assert_eq!(outside, Err(Violation::BufferOutside { address, length }));
    }
    assert_eq!(popped(|ring| ring.chain(0, &[(0x2000, 0, true)])), Err(Violation::Empty));
    let order = popped(|ring| ring.chain(0, &[(0x2000, 1, true), (0x2000, 1, false)]));
    assert_eq!(order, Err(Violation::Order));
}

#[test]
fn a_buffer_of_more_than_4_gib_is_seen_before_anyone_adds_up() {
    let length = (END - 0x1000) as u32;
    let memory = memory();
    let most = 8192;
    let table = Ring::new(&memory, 0, BASE, SIZE, most);
    // A table of 8192 descriptors that all name nearly all of the memory.
    for index in 0..most {
        table.describe(
            0x8_0000,
            index,
            (0x1000, length),
            if index + 1 == most { 0 } else { NEXT },
            index + 1,
        );
    }
    let mut ring = table.clone();
    let mut queue = Virtqueue::new(&memory, ring.setup(), INDIRECT_DESC, Progress::default()).unwrap();
    ring.describe(BASE, 0, (0x8_0000, u32::from(most) * 16), INDIRECT, 0);
    ring.offer(0);
    assert_eq!(queue.pop(), Err(Violation::TooLong));
}

#[test]
fn more_available_buffers_than_entries_are_seen() {
    let (ring, mut queue) = pair();
    ring.put(ring.setup().driver + 2, &(SIZE + 1).to_le_bytes());
    assert_eq!(queue.pop(), Err(Violation::TooManyAvailable));
    let (mut ring, mut queue) = pair();
    ring.chain(0, &[(0x2000, 1, false)]);
    for _ in 0..SIZE {
        ring.offer(0);
        assert!(queue.pop().unwrap().is_some());
    }
    ring.offer(0);
    assert_eq!(queue.pop(), Err(Violation::TooManyAvailable), "none was given back");
}

#[test]
fn queues_that_cannot_be_are_refused() {
    let memory = memory();
    let good = Ring::new(&memory, 3, BASE, SIZE, MOST).setup();
    let refused = |setup| Virtqueue::new(&memory, setup, 0, Progress::default()).err();
    assert_eq!(refused(good), None);
    for size in [0, 3, 32, u16::MAX] {
        let error = Some(Violation::QueueSize { queue: 3, size });
        assert_eq!(refused(QueueSetup { size, ..good }), error);
    }
    let wrong_place = Some(Violation::QueuePlace { queue: 3 });
    for address in [0, END, END - 8, 0xc000_0000, !0xf] {
        assert_eq!(refused(QueueSetup { descriptors: address, ..good }), wrong_place, "{address:#x}");
        assert_eq!(refused(QueueSetup { driver: address, ..good }), wrong_place, "{address:#x}");
        assert_eq!(refused(QueueSetup { device: address, ..good }), wrong_place, "{address:#x}");
    }
    for setup in [
        QueueSetup { descriptors: BASE + 8, ..good },
        QueueSetup { driver: BASE + 1, ..good },
        QueueSetup { device: BASE + 2, ..good },
    ] {
        assert_eq!(refused(setup), wrong_place);
    }
    let progress = Progress { taken: SIZE + 1, used: 0 };
    assert!(Virtqueue::new(&memory, good, 0, progress).is_err(), "more in flight than can be");
}

#[test]
fn interrupts_are_left_out_where_the_driver_says_so() {
    let (mut ring, mut queue) = pair();
    ring.send(0, &[(0x2000, 1, false)]);
    queue.pop().unwrap();
    queue.push(0, 0).unwrap();
    assert_eq!(queue.wants_interrupt(), Ok(true));
    ring.put(ring.setup().driver, &1_u16.to_le_bytes());
    assert_eq!(queue.wants_interrupt(), Ok(false));

    let (mut ring, mut queue) = pair_with(EVENT_IDX);
    let want = |ring: &Ring, element: u16| {
        ring.put(ring.setup().driver + 4 + 2 * u64::from(SIZE), &element.to_le_bytes());
    };
    want(&ring, 1);
    let mut give = |queue: &mut Virtqueue| {
        ring.send(0, &[(0x2000, 1, false)]);
        queue.pop().unwrap();
        queue.push(0, 0).unwrap();
        queue.wants_interrupt()
    };
    assert_eq!([give(&mut queue), give(&mut queue), give(&mut queue)], [Ok(false), Ok(true), Ok(false)]);
}

#[test]
fn a_driver_that_was_asked_to_ring_may_have_been_quicker() {
    let (mut ring, mut queue) = pair();
    queue.quiet().unwrap();
    assert_eq!(ring.get(ring.setup().device, 2), [1, 0]);
    assert_eq!(queue.listen(), Ok(false));
    assert_eq!(ring.get(ring.setup().device, 2), [0, 0]);
    ring.send(0, &[(0x2000, 1, false)]);
    assert_eq!(queue.listen(), Ok(true));
}
