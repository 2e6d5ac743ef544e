//! Devices as processors reach them.

use std::io;

use vm_memory::GuestAddress;

use super::*;
use crate::machine::fake::FakeVm;
use crate::schedule::Timed as _;

fn devices() -> (Devices, Arc<FakeVm>) {
    let vm = Arc::new(FakeVm::default());
    let clock = Arc::new(Clock::new());
    clock.pause();
    let devices = Devices::new(Surroundings {
        vm: Arc::<FakeVm>::clone(&vm),
        schedule: Schedule::new(Arc::clone(&clock)),
        clock,
        output: Box::new(io::sink()),
        memory: GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap(),
        memory_size: 5 << 30,
        debug_exit: false,
        pci: &[],
    });
    (devices.unwrap(), vm)
}

impl Devices {
    fn input(&self, port: u16, size: u8) -> u64 {
        match self.answer(VmExit::PortIn { port, size }, Time::ZERO) {
            (VmEntry::Value(value), None) => value,
            other => panic!("{other:?}"),
        }
    }

    fn output(&self, port: u16, size: u8, data: u32) -> Option<Request> {
        let (entry, request) = self.answer(VmExit::PortOut { port, size, data }, Time::ZERO);
        assert_eq!(entry, VmEntry::Resume);
        request
    }

    fn cmos(&self, index: u8) -> u64 {
        assert_eq!(self.output(0x70, 1, index.into()), None);
        self.input(0x71, 1)
    }
}

#[test]
fn every_way_to_reset_a_pc_is_there() {
    let (devices, _) = devices();
    assert_eq!(devices.output(0xcf9, 1, 0x06), Some(Request::Reset));
    assert_eq!(devices.output(0x64, 1, 0xfe), Some(Request::Reset));
    assert_eq!(devices.output(0x92, 1, 0x01), Some(Request::Reset));
    assert_eq!(devices.output(0x604, 2, 0x3400), Some(Request::PowerOff));
}

#[test]
fn what_was_typed_waits_for_time_to_go_on_where_a_machine_arrives() {
    let (there, _) = devices();
    assert_eq!(there.console.offer(b"ls"), 2);
    // The guest listens: the first byte is handed over; it reads it, and the next is on the line.
    there.output(0x3f9, 1, 1);
    assert_eq!(there.input(0x3f8, 1), u64::from(b'l'));
    let (here, vm) = devices();
    here.restore(&there.depart()).unwrap();
    assert_eq!(vm.lines(), [], "an interrupt that rises before the controllers are restored is lost");
    here.console.ring(Time::ZERO);
    assert_eq!(vm.lines(), [(4, true)]);
    assert_eq!(here.input(0x3f8, 1), u64::from(b's'));
}

#[test]
fn the_reset_register_and_the_pci_address_share_their_port() {
    let (devices, _) = devices();
    assert_eq!(devices.output(0xcf8, 4, 0x8000_0600), None);
    assert_eq!(devices.input(0xcf8, 4), 0x8000_0600);
    assert_eq!(devices.output(0xcf9, 1, 0x02), None);
    assert_eq!(devices.input(0xcf9, 1), 0x02);
    devices.output(0xcf8, 4, 0x8000_0000);
    assert_eq!([devices.input(0xcfc, 4), devices.input(0xcfe, 2)], [0x0008_1b36, 0x0008]);
}

#[test]
fn the_clock_shows_this_century_and_the_size_of_memory() {
    let (devices, _) = devices();
    assert_eq!(devices.cmos(0x32), 0x20);
    // 3 GiB below the device hole and 2 GiB above it, in units of 64 KiB.
    assert_eq!([devices.cmos(0x34), devices.cmos(0x35)], [0x00, 0xbf]);
    assert_eq!([devices.cmos(0x5b), devices.cmos(0x5c), devices.cmos(0x5d)], [0x00, 0x80, 0x00]);
}

#[test]
fn a_reset_disables_the_clocks_interrupts_and_keeps_its_memory() {
    let (devices, vm) = devices();
    for (index, value) in [(0x40, 0x55), (0x0b, 0x52)] {
        devices.output(0x70, 2, u32::from_le_bytes([index, value, 0, 0]));
    }
    // The time stands still, so the first second has ended nowhere but here.
    devices.clock.ring(Time::from_nanos(2_000_000_000));
    assert_eq!(vm.lines(), [(8, true)]);
    devices.reset(Time::from_nanos(2_000_000_000));
    assert_eq!(vm.lines(), [(8, true), (8, false)]);
    assert_eq!([devices.cmos(0x40), devices.cmos(0x0b)], [0x55, 0x02]);
}

#[test]
fn the_console_is_the_only_serial_port() {
    let (devices, _) = devices();
    devices.output(0x3ff, 1, 0x5a);
    assert_eq!(devices.input(0x3ff, 1), 0x5a);
    for port in [0x2ff, 0x3ef, 0x2ef] {
        assert_eq!(devices.input(port, 1), 0xff);
    }
}
