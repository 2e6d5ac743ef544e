//! Doorbells: writes that signal an event and do not leave the guest.

use iced_x86::code_asm::{al, ax, ds, dx, eax, word_ptr};
use tern_engine::{Doorbell, DoorbellPlace, DoorbellValue, EventFd, VmEntry, VmExit};
use tern_test_boundary::{DEVICE, TELL, on_every_engine};
use vmm_sys_util::eventfd::EFD_NONBLOCK;

const PORT: u16 = 0x510;

fn event() -> EventFd {
    EventFd::new(EFD_NONBLOCK).unwrap()
}

#[test]
fn only_the_write_of_the_right_size_and_value_rings_and_all_others_are_exits() {
    on_every_engine(
        |a| {
            a.mov(dx, u32::from(PORT))?;
            a.mov(eax, 3)?;
            a.out(dx, ax)?;
            a.out(dx, ax)?;
            a.out(dx, al)?;
            a.mov(al, 4)?;
            a.out(dx, ax)?;
            a.out(i32::from(TELL), al)
        },
        |mut s| {
            let (bell, event) =
                (Doorbell { place: DoorbellPlace::Port(PORT), value: DoorbellValue::Word(3) }, event());
            s.vm.attach_doorbell(&bell, &event).unwrap();
            let other = |size, data| VmExit::PortOut { port: PORT, size, data };
            assert_eq!(s.vcpu.run(VmEntry::Resume).unwrap(), other(1, 3), "{}", s.engine);
            assert_eq!(event.read().unwrap(), 2, "{}", s.engine);
            assert_eq!(s.vcpu.run(VmEntry::Resume).unwrap(), other(2, 4), "{}", s.engine);
            assert_eq!(s.told(), 4);
            assert!(event.read().is_err(), "{}", s.engine);
        },
    );
}

#[test]
fn a_doorbell_in_device_memory_rings_for_any_write_until_it_is_detached() {
    on_every_engine(
        |a| {
            a.mov(ax, (DEVICE >> 4) as u32)?;
            a.mov(ds, ax)?;
            a.mov(word_ptr(0), 7)?;
            a.mov(word_ptr(2), 8)?;
            a.out(i32::from(TELL), al)?;
            a.mov(word_ptr(0), 9)?;
            a.out(i32::from(TELL), al)
        },
        |mut s| {
            let bell = |offset| Doorbell {
                place: DoorbellPlace::Memory(DEVICE + offset),
                value: DoorbellValue::Any,
            };
            let [first, second] = [event(), event()];
            s.vm.attach_doorbell(&bell(0), &first).unwrap();
            s.vm.attach_doorbell(&bell(2), &second).unwrap();
            assert!(s.vm.attach_doorbell(&bell(0), &second).is_err(), "{}: it is taken", s.engine);
            s.told();
            assert_eq!((first.read().unwrap(), second.read().unwrap()), (1, 1), "{}", s.engine);
            s.vm.detach_doorbell(&bell(0), &first).unwrap();
            assert!(s.vm.detach_doorbell(&bell(0), &first).is_err(), "{}: it is gone", s.engine);
            let exit = s.vcpu.run(VmEntry::Resume).unwrap();
            assert_eq!(exit, VmExit::MmioWrite { address: DEVICE, size: 2, data: 9 }, "{}", s.engine);
            s.told();
        },
    );
}
