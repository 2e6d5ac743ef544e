//! Drivers of our own for every queue of every device, each of which breaks one rule. Whatever it is, the device must end in
//! NEEDS_RESET, use nothing, and after a reset be whole: it is then used properly. Where the specification has the device answer, it must.
//!
//! ```text
//!  subjects.rs   the devices, their queues, what brings them to use one, and how it is used properly
//!  queues.rs     the rules of every queue
//!  own.rs        each device's own
//! ```
//!
//! What is read and written where no rule is broken is tested in `device/virtio` and with real drivers.

mod own;
mod queues;
mod subjects;

use iced_x86::code_asm::*;
use tern_test_kernels::device::virtio::*;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;
use tern_vmm::config::DeviceConfig;

use super::{NEXT, available, descriptor};

/// Bytes of memory: eight times as much are more than 4 GiB.
const MEMORY: u64 = 544 << 20;

/// The queue on which rules are broken.
const QUEUE: Queue = Queue { size: 8, descriptors: frame(0), driver: frame(1), device: frame(2) };
/// What the driver gives, where the device answers, and where a table of descriptors may be.
const DATA: u64 = frame(3);
const ANSWER: u64 = frame(4);
const TABLE_FRAME: u64 = frame(5);
/// The queue that brings the device to use the other one, and what is in it.
const CAUSE: Queue = Queue { size: 8, descriptors: frame(6), driver: frame(7), device: frame(8) };
const CAUSE_DATA: u64 = frame(9);
/// How many frames these are.
const FRAMES: u64 = 10;
/// Mistakes in one run of a guest, which may last only some seconds.
const AT_ONCE: usize = 8;

/// What a descriptor says: address, length, flags.
type Part = (u64, u32, u64);

/// Buffers of a queue.
#[derive(Clone, Copy)]
struct Buffers {
    /// Words in memory, by address.
    words: &'static [(u64, &'static [u64])],
    /// One or two buffers.
    chains: &'static [&'static [Part]],
}

/// A queue of a device, on which rules are broken.
#[derive(Clone, Copy)]
struct Subject {
    name: &'static str,
    devices: fn() -> Vec<DeviceConfig>,
    /// Of the low half.
    features: u32,
    queue: u16,
    /// The most entries that the device offers.
    most: u16,
    /// What is sent in another queue so that the device uses this one.
    cause: Option<(u16, Buffers)>,
    /// Buffers that are right: the first comes back.
    proper: Buffers,
    /// As how many bytes long.
    written: u32,
    /// A byte that must be there then.
    answer: Option<(u64, u8)>,
    /// If the device uses the queue only before its first reset: another one, which shows that it works after that.
    afterwards: Option<&'static Subject>,
}

/// A broken rule.
struct Mistake {
    what: String,
    features: u32,
    queue: Queue,
    /// Whether the device finds it as soon as the queue is enabled.
    is_found_early: bool,
    words: Vec<(u64, Vec<u64>)>,
}

impl Mistake {
    fn new(what: &str, words: Vec<(u64, Vec<u64>)>) -> Self {
        Self { what: what.to_owned(), features: 0, queue: QUEUE, is_found_early: false, words }
    }

    /// One buffer of these parts.
    fn chain(what: &str, parts: &[Part]) -> Self {
        Self::new(what, laid(QUEUE, &[parts]))
    }

    /// As [`Mistake::chain`], with words in memory.
    fn data(what: &str, address: u64, words: &[u64], parts: &[Part]) -> Self {
        let mut mistake = Self::chain(what, parts);
        mistake.words.push((address, words.to_vec()));
        mistake
    }
}

/// What a driver writes to make these buffers available.
fn laid(queue: Queue, chains: &[&[Part]]) -> Vec<(u64, Vec<u64>)> {
    let (mut descriptors, mut heads) = (Vec::new(), [0; 2]);
    for (chain, head) in chains.iter().zip(&mut heads) {
        *head = descriptors.len() as u16;
        for (left, &(address, length, flags)) in (0..chain.len()).rev().zip(*chain) {
            let next = if left > 0 { NEXT } else { 0 };
            let successor = descriptors.len() as u64 + 1;
            descriptors.push(descriptor(address, length, flags | next, successor));
        }
    }
    let ring = available(chains.len() as u16, heads);
    vec![(queue.descriptors, descriptors.into_flattened()), (queue.driver, vec![ring])]
}

/// Writes words into memory. RAX is lost.
fn store(g: &mut Long, address: u64, words: &[u64]) -> Emit {
    for (place, word) in (address..).step_by(8).zip(words) {
        g.mov(rax, *word)?;
        g.mov(qword_ptr(place), rax)?;
    }
    Ok(())
}

/// Up to the queue's being enabled, with these words in memory and nothing else.
fn prepare(g: &mut Long, subject: &Subject, features: u32, queue: Queue, words: &[(u64, Vec<u64>)]) -> Emit {
    let features = subject.features | features;
    // What was there before is no longer the device's only after the reset.
    if subject.afterwards.is_none() {
        reset(g)?;
    }
    g.mov(edi, frame(0) as u32)?;
    g.mov(ecx, (FRAMES * 0x1000 / 8) as u32)?;
    g.xor(eax, eax)?;
    g.rep().stosq()?;
    for (address, words) in words {
        store(g, *address, words)?;
    }
    agree(g, features)?;
    enable_at(g, subject.queue, queue)
}

/// Sets the device going and has it use the queue.
fn go(g: &mut Long, subject: &Subject) -> Emit {
    if let Some((queue, Buffers { words, chains })) = subject.cause {
        for (address, words) in words {
            store(g, *address, words)?;
        }
        for (address, words) in laid(CAUSE, chains) {
            store(g, address, &words)?;
        }
        enable_at(g, queue, CAUSE)?;
    }
    write_byte(g, DEVICE_STATUS, DRIVER_OK)?;
    if let Some((queue, _)) = subject.cause {
        write_word(g, doorbell(queue), queue)?;
    }
    write_word(g, doorbell(subject.queue), subject.queue)
}

/// The device must find the mistake.
fn breaks(g: &mut Long, subject: &Subject, mistake: &Mistake) -> Emit {
    let Mistake { what, features, queue, is_found_early, words } = mistake;
    g.case(&format!("{}: {what}", subject.name));
    prepare(g, subject, *features, *queue, words)?;
    if *is_found_early {
        read_status(g)?;
        return g.expect(rax, (FEATURES_OK | NEEDS_RESET).into());
    }
    go(g, subject)?;
    wait_status(g, NEEDS_RESET)?;
    read_status(g)?;
    g.expect(rax, (DRIVER_OK | NEEDS_RESET).into())?;
    // It is done with this driver, and has used nothing: behind the flags, the index and what would be the first element.
    write_word(g, doorbell(subject.queue), subject.queue)?;
    g.spin(1000)?;
    g.expect_memory(queue.device + 2, 0)
}

/// The device must use what is right.
fn works(g: &mut Long, subject: &Subject) -> Emit {
    g.case(&format!("{}: no rule is broken", subject.name));
    let Buffers { words, chains } = subject.proper;
    let mut all: Vec<_> = words.iter().map(|(address, words)| (*address, words.to_vec())).collect();
    all.extend(laid(QUEUE, chains));
    prepare(g, subject, 0, QUEUE, &all)?;
    go(g, subject)?;
    wait_used(g, QUEUE.device)?;
    read_status(g)?;
    g.expect(rax, DRIVER_OK.into())?;
    g.mov(rax, QUEUE.device)?;
    g.movzx(ebx, word_ptr(rax + 2))?;
    g.expect(rbx, 1)?;
    // The head, and how much was written.
    g.mov(rbx, qword_ptr(rax + 4))?;
    g.expect(rbx, u64::from(subject.written) << 32)?;
    if let Some((place, byte)) = subject.answer {
        g.mov(rax, place)?;
        g.movzx(eax, byte_ptr(rax))?;
        g.expect(rax, byte.into())?;
    }
    Ok(())
}

/// Every one of these mistakes must be found, and the device work after each.
fn all_break(subject: &Subject, mistakes: &[Mistake]) {
    let at_once = if subject.afterwards.is_some() { 1 } else { AT_ONCE };
    for some in mistakes.chunks(at_once) {
        long_in_memory(MEMORY, subject.devices, |g| {
            for mistake in some {
                breaks(g, subject, mistake)?;
                works(g, subject.afterwards.unwrap_or(subject))?;
            }
            Ok(())
        });
    }
}
