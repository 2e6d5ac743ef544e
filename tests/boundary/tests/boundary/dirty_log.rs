//! The log of written pages.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use iced_x86::code_asm::{al, ax, bx, byte_ptr, ds, dword_ptr, es, word_ptr};
use tern_engine::{DirtyRegion, GuestMemory, LOG_PAGE, VmEntry, VmExit};
use tern_test_boundary::{CODE, HIGH_MEMORY, STACK, TELL, on_every_engine};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _};

const PAGE: usize = LOG_PAGE as usize;

/// No pages.
const NONE: [u64; 0] = [];

fn pages(log: &[DirtyRegion]) -> Vec<u64> {
    // What the kernel writes for a guest that just starts, in the pages of stack and code, is not asked for.
    let own = [u64::from(CODE), u64::from(STACK) - 2].map(|address| address & !(LOG_PAGE - 1));
    log.iter().flat_map(DirtyRegion::pages).filter(|page| !own.contains(page)).collect()
}

#[test]
fn pages_that_guest_and_machine_write_are_named_once() {
    on_every_engine(
        |a| {
            a.mov(ax, 0)?;
            a.mov(ds, ax)?;
            // Written before: its translation is known as writable when the log is started.
            a.mov(byte_ptr(0x1000), 1)?;
            a.out(i32::from(TELL), al)?;
            a.mov(byte_ptr(0x1000), 2)?;
            // One access in two pages, and one that only reads.
            a.mov(dword_ptr(0x2ffe), 3)?;
            a.mov(al, byte_ptr(0x6000))?;
            a.out(i32::from(TELL), al)?;
            a.mov(byte_ptr(0x1000), 4)?;
            a.out(i32::from(TELL), al)?;
            a.out(i32::from(TELL), al)
        },
        |mut s| {
            s.told();
            assert!(s.vm.take_dirty_log().is_err(), "{}: no log is kept", s.engine);
            s.vm.start_dirty_log().unwrap();
            assert!(s.vm.start_dirty_log().is_err(), "{}: it is kept already", s.engine);
            s.told();
            s.memory.write_slice(&[1; PAGE], GuestAddress(HIGH_MEMORY + 0x1800)).unwrap();
            let written = [0x1000, 0x2000, 0x3000, HIGH_MEMORY + 0x1000, HIGH_MEMORY + 0x2000];
            assert_eq!(pages(&s.vm.take_dirty_log().unwrap()), written, "{}", s.engine);
            assert_eq!(pages(&s.vm.take_dirty_log().unwrap()), NONE, "{}: taken", s.engine);
            s.told();
            assert_eq!(pages(&s.vm.take_dirty_log().unwrap()), [0x1000], "{}: written again", s.engine);
            s.vm.stop_dirty_log().unwrap();
            s.told();
            s.vm.start_dirty_log().unwrap();
            assert_eq!(pages(&s.vm.take_dirty_log().unwrap()), NONE, "{}: a new log is empty", s.engine);
        },
    );
}

/// All of memory, as a migration would send it.
struct Copy(Vec<(u64, Vec<u8>)>);

impl Copy {
    fn of(memory: &GuestMemory) -> Self {
        let region = |region: &vm_memory::GuestRegionMmap<_>| {
            let mut bytes = vec![0; region.len() as usize];
            memory.read_slice(&mut bytes, region.start_addr()).unwrap();
            (region.start_addr().0, bytes)
        };
        Self(memory.iter().map(region).collect())
    }

    fn update(&mut self, memory: &GuestMemory, log: &[DirtyRegion]) -> usize {
        let mut count = 0;
        for ((start, bytes), region) in self.0.iter_mut().zip(log) {
            assert_eq!(*start, region.start);
            for page in region.pages() {
                let at = (page - *start) as usize;
                memory.read_slice(&mut bytes[at..at + PAGE], GuestAddress(page)).unwrap();
                count += 1;
            }
        }
        count
    }
}

#[test]
fn a_copy_made_by_the_log_while_the_guest_writes_is_exact_in_the_end() {
    on_every_engine(
        |a| {
            // Counts in a word of each of many pages, over and over; the counter differs in every round.
            let [mut again, mut page] = [a.create_label(), a.create_label()];
            a.mov(bx, 0)?;
            a.set_label(&mut again)?;
            a.inc(bx)?;
            a.mov(ax, 0x1000)?;
            a.set_label(&mut page)?;
            a.mov(es, ax)?;
            a.mov(word_ptr(bx).es(), bx)?;
            a.add(word_ptr(0x123).es(), 1)?;
            a.add(ax, 0x100)?;
            a.cmp(ax, 0x9000)?;
            a.jne(page)?;
            a.jmp(again)
        },
        |mut s| {
            let stop = AtomicBool::new(false);
            let kick = s.vcpu.kicker();
            let (vm, memory, engine) = (&s.vm, &s.memory, s.engine);
            let vcpu = &mut s.vcpu;
            thread::scope(|scope| {
                let guest = scope.spawn(|| {
                    while !stop.load(Ordering::SeqCst) {
                        assert_eq!(vcpu.run(VmEntry::Resume).unwrap(), VmExit::Kicked);
                    }
                });
                vm.start_dirty_log().unwrap();
                let mut copy = Copy::of(memory);
                let mut rounds_with_pages = 0;
                for _ in 0..300 {
                    let log = vm.take_dirty_log().unwrap();
                    rounds_with_pages += usize::from(copy.update(memory, &log) > 0);
                    thread::yield_now();
                }
                while rounds_with_pages < 10 {
                    let log = vm.take_dirty_log().unwrap();
                    rounds_with_pages += usize::from(copy.update(memory, &log) > 0);
                }
                stop.store(true, Ordering::SeqCst);
                kick.kick();
                guest.join().unwrap();
                copy.update(memory, &vm.take_dirty_log().unwrap());
                let now = Copy::of(memory);
                for ((start, copied), (_, present)) in copy.0.iter().zip(&now.0) {
                    let differs = copied.iter().zip(present).position(|(one, other)| one != other);
                    assert_eq!(differs, None, "on {engine}: in the region at {start:#x}");
                }
            });
        },
    );
}
