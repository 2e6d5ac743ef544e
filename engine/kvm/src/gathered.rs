//! Gathered writes: the kernel's ring of coalesced MMIO and port writes (`struct kvm_coalesced_mmio_ring`).
//!
//! There is one ring for the whole machine, which every processor's mapping shows. The kernel puts writes in under a lock
//! of its own; here they are taken out under ours, and a write counts as taken only after the machine has carried it out:
//! whoever finds the ring empty may be sure that nothing is under way.
//!
//! ```text
//!  page:  first: u32 │ last: u32 │ entries of 24 bytes: address: u64 │ size: u32 │ is a port: u32 │ data: [u8; 8]
//!          we move it   the kernel does
//! ```

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use kvm_bindings::KVM_COALESCED_MMIO_PAGE_OFFSET;
use tern_engine::{GatheredWrite, WriteSink};

use crate::run_page::Mapping;

/// Bytes of a page, of the ring's head and of an entry.
const PAGE: usize = 4096;
const HEAD: usize = 8;
const ENTRY: usize = 24;
/// How many entries there are.
const ENTRIES: u32 = ((PAGE - HEAD) / ENTRY) as u32;
/// Where the ring begins in a processor's mapping.
const RING: usize = KVM_COALESCED_MMIO_PAGE_OFFSET as usize * PAGE;

/// The machine's ring and who takes its writes.
#[derive(Default)]
pub struct Gathered {
    sink: OnceLock<Box<WriteSink>>,
    /// A processor's mapping, through which the ring is reached.
    ring: OnceLock<Arc<Mapping>>,
    /// Held by whoever takes writes out.
    taking: Mutex<()>,
}

impl Gathered {
    /// Sets who takes the writes; the first one stays.
    pub fn set_sink(&self, sink: Box<WriteSink>) {
        // There is one machine around an engine's virtual machine.
        let _ = self.sink.set(sink);
    }

    /// Reaches the ring through this processor's mapping, if through none yet and if the mapping shows it.
    pub fn show(&self, mapping: &Arc<Mapping>) {
        if mapping.atomic(RING + PAGE - 4).is_some() {
            // Another processor's shows the same ring.
            let _ = self.ring.set(Arc::clone(mapping));
        }
    }

    /// Hands everything that was gathered to the sink. Cheap if there is nothing.
    pub fn flush(&self) {
        let (Some(mapping), Some(sink)) = (self.ring.get(), self.sink.get()) else { return };
        let (Some(first), Some(last)) = (mapping.atomic(RING), mapping.atomic(RING + 4)) else { return };
        if first.load(Ordering::Acquire) == last.load(Ordering::Acquire) {
            return;
        }
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let next = first.load(Ordering::Acquire);
            if next == last.load(Ordering::Acquire) || next >= ENTRIES {
                return;
            }
            if let Some(write) = read(mapping, next) {
                sink(write);
            }
            first.store((next + 1) % ENTRIES, Ordering::Release);
        }
    }
}

/// Entry `index` of the ring. The kernel wrote it before it moved `last`, and writes it no more before `first` has passed.
fn read(mapping: &Mapping, index: u32) -> Option<GatheredWrite> {
    let at = RING + HEAD + ENTRY * index as usize;
    let word =
        |offset: usize| mapping.atomic(at + offset).map(|word: &AtomicU32| word.load(Ordering::Relaxed));
    let pair = |offset: usize| Some(u64::from(word(offset)?) | u64::from(word(offset + 4)?) << 32);
    let (address, length, is_port, data) = (pair(0)?, word(8)?, word(12)? != 0, pair(16)?);
    let size = u8::try_from(length).ok().filter(|size| (1..=8).contains(size))?;
    Some(if is_port {
        let data = (data & (u64::MAX >> (64 - 8 * u32::from(size)))) as u32;
        GatheredWrite::Port { port: u16::try_from(address).ok()?, size, data }
    } else {
        GatheredWrite::Memory { address, size, data: data & (u64::MAX >> (64 - 8 * u32::from(size))) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run_page::tests::mapping;

    fn put(mapping: &Mapping, index: u32, address: u64, size: u32, is_port: bool, data: u64) {
        let at = RING + HEAD + ENTRY * index as usize;
        let words = [
            address as u32,
            (address >> 32) as u32,
            size,
            u32::from(is_port),
            data as u32,
            (data >> 32) as u32,
        ];
        for (offset, word) in (0..).step_by(4).zip(words) {
            mapping.atomic(at + offset).unwrap().store(word, Ordering::SeqCst);
        }
    }

    fn set_ends(mapping: &Mapping, first: u32, last: u32) {
        mapping.atomic(RING).unwrap().store(first, Ordering::SeqCst);
        mapping.atomic(RING + 4).unwrap().store(last, Ordering::SeqCst);
    }

    #[test]
    fn writes_come_out_in_order_across_the_rings_end() {
        let mapping = mapping();
        let taken = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&taken);
        let gathered = Gathered::default();
        gathered.set_sink(Box::new(move |write| log.lock().unwrap().push(write)));
        gathered.show(&mapping);
        put(&mapping, ENTRIES - 1, 0xcf8, 4, true, 0xdead_beef_8000_0010);
        put(&mapping, 0, 0xfe00_0000_1000, 2, false, 0xffff_1234);
        set_ends(&mapping, ENTRIES - 1, 1);
        gathered.flush();
        let expected = [
            GatheredWrite::Port { port: 0xcf8, size: 4, data: 0x8000_0010 },
            GatheredWrite::Memory { address: 0xfe00_0000_1000, size: 2, data: 0x1234 },
        ];
        assert_eq!(*taken.lock().unwrap(), expected);
        gathered.flush();
        assert_eq!(taken.lock().unwrap().len(), 2, "the ring is empty");
    }

    #[test]
    fn an_entry_that_cannot_be_is_dropped_and_a_wrong_index_ends_it() {
        let mapping = mapping();
        let gathered = Gathered::default();
        gathered.set_sink(Box::new(|write| panic!("{write:?}")));
        gathered.show(&mapping);
        put(&mapping, 0, 0x1000, 9, false, 0);
        put(&mapping, 1, 0x1_0000, 1, true, 0);
        set_ends(&mapping, 0, 2);
        gathered.flush();
        set_ends(&mapping, ENTRIES, 2);
        gathered.flush();
    }
}
