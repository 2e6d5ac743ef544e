//! A device on the bus, as processors and an engine see it.

use std::io;

use tern_chipset::Time;
use tern_engine::{Clock, DoorbellPlace, VmEntry, VmExit};
use tern_virtio::rng::Rng;
use vm_memory::GuestAddress;

use super::*;
use crate::device::{Devices, Surroundings};
use crate::machine::fake::FakeVm;
use crate::schedule::Schedule;

/// Where the first device's region is placed.
const REGION: u64 = 0xc000_0000;
/// Configuration registers of device 1.
const DEVICE_1: u64 = 0xe000_8000;
const COMMAND: u64 = DEVICE_1 + 4;
const BAR_0: u64 = DEVICE_1 + 0x10;
/// In the region: how many queues there are, and the first one's doorbell.
const NUM_QUEUES: u64 = 0x12;
const DOORBELL: u64 = 0x3000;

fn devices_with(count: usize) -> (Devices, Arc<FakeVm>) {
    let vm = Arc::new(FakeVm::default());
    let clock = Arc::new(Clock::new());
    let rng = |number| DeviceConfig { name: format!("rng{number}"), device: Arc::new(Rng) };
    let devices = Devices::new(Surroundings {
        vm: Arc::<FakeVm>::clone(&vm),
        schedule: Schedule::new(Arc::clone(&clock)),
        clock,
        output: Box::new(io::sink()),
        memory: GuestMemory::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap(),
        memory_size: 1 << 20,
        debug_exit: false,
        pci: &(0..count).map(rng).collect::<Vec<_>>(),
    });
    (devices.unwrap(), vm)
}

impl Devices {
    fn load(&self, address: u64, size: u8) -> u64 {
        match self.answer(VmExit::MmioRead { address, size }, Time::ZERO) {
            (VmEntry::Value(value), None) => value,
            other => panic!("{other:?}"),
        }
    }

    fn store(&self, address: u64, size: u8, data: u64) {
        let answer = self.answer(VmExit::MmioWrite { address, size, data }, Time::ZERO);
        assert_eq!(answer, (VmEntry::Resume, None));
    }
}

fn doorbell(region: u64) -> DoorbellPlace {
    DoorbellPlace::Memory(region + DOORBELL)
}

#[test]
fn devices_are_placed_and_enabled_as_by_firmware() {
    let (devices, vm) = devices_with(2);
    assert_eq!(devices.load(DEVICE_1, 4), 0x1044_1af4);
    assert_eq!(devices.load(COMMAND, 2), 6);
    assert_eq!(devices.load(BAR_0, 8), REGION | 4);
    assert_eq!(devices.load(REGION + NUM_QUEUES, 2), 1);
    assert_eq!(devices.load(REGION + 0x8000 + NUM_QUEUES, 2), 1);
    assert_eq!(devices.load(REGION + 0x1_0000 + NUM_QUEUES, 2), 0xffff);
    assert_eq!(vm.doorbells(), [doorbell(REGION), doorbell(REGION + 0x8000)]);
}

#[test]
fn a_region_that_moves_takes_its_registers_and_doorbells_along() {
    let (devices, vm) = devices_with(1);
    for new in [0xf000_0000_u64, 0x48_0001_0000, 0xdfff_8000] {
        let old = devices.load(BAR_0, 8) & !0xf;
        // As Linux does: off, the low half, the high half, on.
        devices.store(COMMAND, 2, 0);
        assert_eq!(devices.load(old + NUM_QUEUES, 2), 0xffff);
        assert_eq!(vm.doorbells(), []);
        devices.store(BAR_0, 4, new & 0xffff_ffff);
        devices.store(BAR_0 + 4, 4, new >> 32);
        devices.store(COMMAND, 2, 6);
        assert_eq!(devices.load(new + NUM_QUEUES, 2), 1);
        assert_eq!(devices.load(old + NUM_QUEUES, 2), 0xffff);
        assert_eq!(vm.doorbells(), [doorbell(new)]);
    }
}

#[test]
fn a_region_outside_of_the_windows_answers_nowhere() {
    let (devices, _) = devices_with(1);
    for place in [0x1000_0000, 0xfec0_0000, 0xfee0_0000, 0xffff_8000, 0xe000_0000] {
        devices.store(BAR_0, 4, place);
        assert_ne!(devices.load(place + NUM_QUEUES, 2), 1, "{place:#x}");
    }
    assert_eq!(devices.load(0xe000_0000, 4), 0x0008_1b36, "configuration space stays");
}

#[test]
fn of_two_regions_at_one_place_the_first_answers_until_it_goes() {
    let (devices, _) = devices_with(2);
    let second_bar = BAR_0 + 0x8000;
    devices.store(second_bar, 4, REGION);
    devices.store(REGION + 0x16, 2, 5);
    assert_eq!(devices.load(REGION + 0x16, 2), 5);
    devices.store(BAR_0, 4, REGION + 0x10_0000);
    assert_eq!(devices.load(REGION + 0x16, 2), 0, "the second one's");
    assert_eq!(devices.load(REGION + 0x10_0016, 2), 5);
}

#[test]
fn a_reset_places_devices_as_at_first() {
    let (devices, vm) = devices_with(1);
    devices.store(BAR_0, 4, 0xf000_0000);
    devices.store(0xf000_0014, 1, 1);
    devices.reset(Time::ZERO);
    assert_eq!(devices.load(BAR_0, 8), REGION | 4);
    assert_eq!(devices.load(REGION + 0x14, 1), 0);
    assert_eq!(vm.doorbells(), [doorbell(REGION)]);
}

#[test]
fn devices_go_on_elsewhere_where_they_were() {
    let (devices, _) = devices_with(1);
    devices.store(BAR_0, 4, 0xf000_0000);
    devices.store(0xf000_0014, 1, 3);
    devices.pause();
    let state = devices.depart();
    let (other, vm) = devices_with(1);
    other.restore(&state).unwrap();
    assert_eq!(other.load(0xf000_0014, 1), 3);
    assert_eq!(vm.doorbells(), [doorbell(0xf000_0000)]);
    let (fewer, _) = devices_with(0);
    assert!(fewer.restore(&state).is_err());
}

#[test]
fn an_engine_without_doorbells_and_message_interrupts_is_served_by_exits() {
    let (devices, vm) = devices_with(1);
    vm.refuse();
    devices.store(BAR_0, 4, 0xf000_0000);
    assert_eq!(vm.doorbells(), []);
    devices.store(0xf000_0000 + DOORBELL, 2, 0);
    // A status that goes back is a mistake, and the driver is told by message 0 of the configuration.
    devices.store(0xf000_0000 + 0x4000, 8, 0xfee0_1000);
    devices.store(0xf000_0000 + 0x4008, 8, 0x41);
    // MSI-X's message control.
    let mut capability = devices.load(DEVICE_1 + 0x34, 1);
    while devices.load(DEVICE_1 + capability, 1) != 0x11 {
        capability = devices.load(DEVICE_1 + capability + 1, 1);
    }
    devices.store(DEVICE_1 + capability + 2, 2, 0x8000);
    for (select, half) in [(0, 0), (1, 1)] {
        devices.store(0xf000_0008, 4, select);
        devices.store(0xf000_000c, 4, half);
    }
    devices.store(0xf000_0010, 2, 0);
    for status in [1, 3, 0xb, 0xf, 1] {
        devices.store(0xf000_0014, 1, status);
    }
    assert_eq!(devices.load(0xf000_0014, 1), 0x4f);
    assert_eq!(vm.messages(), [(0xfee0_1000, 0x41)]);
}

#[test]
fn there_are_no_more_devices_than_places() {
    let (devices, _) = devices_with(MOST_DEVICES);
    assert_eq!(devices.load(DEVICE_1 + 30 * 0x8000, 4), 0x1044_1af4);
}
