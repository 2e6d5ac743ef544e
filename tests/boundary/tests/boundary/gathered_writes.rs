//! Gathered writes: however they arrive, they do so in order and before anything that comes after them.

use std::sync::{Arc, Mutex};

use iced_x86::code_asm::{al, ax, ds, dx, eax, word_ptr};
use tern_engine::{GatheredWrite, VmEntry, VmExit, WriteRange};
use tern_test_boundary::{DEVICE, TELL, on_every_engine};

const PORT: u16 = 0x510;
/// More than the kernel's ring holds.
const MANY: u32 = 400;

#[test]
fn gathered_writes_arrive_in_order_and_before_the_next_exit() {
    on_every_engine(
        |a| {
            let mut again = a.create_label();
            a.mov(ax, (DEVICE >> 4) as u32)?;
            a.mov(ds, ax)?;
            a.mov(dx, u32::from(PORT))?;
            a.mov(eax, 0)?;
            a.set_label(&mut again)?;
            a.out(dx, eax)?;
            a.mov(word_ptr(0x10), ax)?;
            a.inc(eax)?;
            a.cmp(eax, MANY)?;
            a.jne(again)?;
            // Not in any range.
            a.in_(al, i32::from(TELL))?;
            a.out(dx, al)?;
            a.out(i32::from(TELL), al)
        },
        |mut s| {
            let arrived = Arc::new(Mutex::new(Vec::new()));
            let sink = Arc::clone(&arrived);
            s.vm.set_write_sink(Box::new(move |write| sink.lock().unwrap().push(write)));
            s.vm.coalesce(WriteRange::Ports { first: PORT, count: 4 }).unwrap();
            s.vm.coalesce(WriteRange::Memory { first: DEVICE, length: 0x100 }).unwrap();
            let mut entry = VmEntry::Resume;
            let mut exits = 0;
            loop {
                let exit = s.vcpu.run(entry).unwrap();
                exits += 1;
                entry = VmEntry::Resume;
                let write = match exit {
                    VmExit::PortIn { port: TELL, .. } => {
                        let arrived = arrived.lock().unwrap().len();
                        assert_eq!(arrived, 2 * MANY as usize, "{}: before the read", s.engine);
                        entry = VmEntry::Value(0x5a);
                        continue;
                    }
                    VmExit::PortOut { port: TELL, .. } => break,
                    VmExit::PortOut { port, size, data } => GatheredWrite::Port { port, size, data },
                    VmExit::MmioWrite { address, size, data } => {
                        GatheredWrite::Memory { address, size, data }
                    }
                    other => panic!("on {}: {other:?}", s.engine),
                };
                arrived.lock().unwrap().push(write);
            }
            let both = |n: u32| {
                [
                    GatheredWrite::Port { port: PORT, size: 4, data: n },
                    GatheredWrite::Memory { address: DEVICE + 0x10, size: 2, data: n.into() },
                ]
            };
            let last = GatheredWrite::Port { port: PORT, size: 1, data: 0x5a };
            let expected: Vec<_> = (0..MANY).flat_map(both).chain([last]).collect();
            assert_eq!(*arrived.lock().unwrap(), expected, "{}", s.engine);
            if s.engine == "kvm" {
                assert!(exits < 20, "{exits} exits: nothing was gathered");
            }
        },
    );
}
