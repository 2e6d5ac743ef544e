//! Interrupts that devices raise by events.

use std::thread;
use std::time::Duration;

use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, al, dx, eax, ecx, edx, word_ptr};
use tern_engine::{Message, VmEntry, VmExit};
use tern_test_boundary::{CODE, Subject, TELL, on_every_engine};

const VECTOR: u8 = 0x40;
const MESSAGE: Message = Message { address: 0xfee0_0000, data: VECTOR as u32 };
/// A line of the second 8259, and the vector that it gets.
const LINE: u32 = 11;
const LINE_VECTOR: u8 = 0x73;

/// What the guest tells: that it waits, and that it was interrupted.
const WAITING: u8 = 1;
const INTERRUPTED: u8 = 2;

fn tell(a: &mut CodeAssembler, what: u8) -> Result<(), IcedError> {
    a.mov(al, u32::from(what))?;
    a.out(i32::from(TELL), al)
}

fn write_msr(a: &mut CodeAssembler, number: u32, value: u32) -> Result<(), IcedError> {
    a.mov(ecx, number)?;
    a.mov(edx, 0)?;
    a.mov(eax, value)?;
    a.wrmsr()
}

fn out(a: &mut CodeAssembler, port: u16, value: u8) -> Result<(), IcedError> {
    a.mov(al, u32::from(value))?;
    a.mov(dx, u32::from(port))?;
    a.out(dx, al)
}

/// Lets the interrupt lead to a handler that tells so and then does `body`. It must be the guest's first instruction: the
/// handler lies behind a jump over it, of two bytes or three, and begins with two that do nothing.
fn handle(
    a: &mut CodeAssembler,
    vector: u8,
    body: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<(), IcedError> {
    let mut start = a.create_label();
    a.jmp(start)?;
    a.nop()?;
    a.nop()?;
    tell(a, INTERRUPTED)?;
    body(a)?;
    a.iret()?;
    a.set_label(&mut start)?;
    a.mov(word_ptr(4 * i32::from(vector)), u32::from(CODE) + 3)?;
    a.mov(word_ptr(4 * i32::from(vector) + 2), 0)
}

/// Waits for interrupts for ever; tells so once, and again after each.
fn wait(a: &mut CodeAssembler) -> Result<(), IcedError> {
    let mut again = a.create_label();
    a.set_label(&mut again)?;
    tell(a, WAITING)?;
    a.sti()?;
    a.hlt()?;
    a.cli()?;
    a.jmp(again)
}

/// Runs until the guest tells something; a kick after `patience` says that it does not.
fn told_within(s: &mut Subject, patience: Duration) -> Option<u8> {
    let kick = s.vcpu.kicker();
    let (done, waiting) = std::sync::mpsc::channel::<()>();
    let waiter = thread::spawn(move || {
        if waiting
            .recv_timeout(patience)
            .is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            kick.kick();
        }
    });
    let exit = s.vcpu.run(VmEntry::Resume).unwrap();
    drop(done);
    waiter.join().unwrap();
    match exit {
        VmExit::PortOut { port: TELL, data, .. } => Some(data as u8),
        VmExit::Kicked => None,
        other => panic!("on {}: {other:?}", s.engine),
    }
}

const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_message_is_sent_when_its_event_is_signalled_and_waits_while_it_is_masked() {
    on_every_engine(
        |a| {
            // The end of an x2APIC's interrupt is a write of zero.
            handle(a, VECTOR, |a| write_msr(a, 0x80b, 0))?;
            // x2APIC mode, enabled by software.
            write_msr(a, 0x1b, 0xfee0_0d00)?;
            write_msr(a, 0x80f, 0x1ff)?;
            wait(a)
        },
        |mut s| {
            assert_eq!(s.told(), WAITING);
            let interrupt = s.vm.message_interrupt().unwrap();
            let other = s.vm.message_interrupt().unwrap();
            other.set_message(Some(Message { data: 0x41, ..MESSAGE })).unwrap();
            interrupt.event().write(1).unwrap();
            assert_eq!(told_within(&mut s, SHORT), None, "{}: there is no message yet", s.engine);
            assert!(interrupt.is_pending(), "{}", s.engine);
            interrupt.set_message(Some(MESSAGE)).unwrap();
            assert_eq!(told_within(&mut s, LONG), Some(INTERRUPTED), "{}: it had waited", s.engine);
            assert_eq!(s.told(), WAITING);
            assert!(!interrupt.is_pending(), "{}", s.engine);
            interrupt.event().write(1).unwrap();
            assert_eq!(told_within(&mut s, LONG), Some(INTERRUPTED), "{}: at once", s.engine);
            assert_eq!(s.told(), WAITING);
            interrupt.signal();
            assert_eq!(told_within(&mut s, LONG), Some(INTERRUPTED), "{}: from this thread", s.engine);
            assert_eq!(s.told(), WAITING);
            interrupt.set_message(None).unwrap();
            interrupt.signal();
            assert_eq!(told_within(&mut s, SHORT), None, "{}: it is masked", s.engine);
            assert!(interrupt.is_pending(), "{}", s.engine);
            drop(interrupt);
            assert_eq!(told_within(&mut s, SHORT), None, "{}: it is gone", s.engine);
        },
    );
}

#[test]
fn a_line_stays_asserted_until_the_guest_ends_its_interrupt() {
    on_every_engine(
        |a| {
            handle(a, LINE_VECTOR, |a| {
                out(a, 0xa0, 0x20)?;
                out(a, 0x20, 0x20)
            })?;
            for (port, value) in [
                (0x20, 0x11),
                (0x21, 0x68),
                (0x21, 0x04),
                (0x21, 0x01),
                (0xa0, 0x11),
                (0xa1, 0x70),
                (0xa1, 0x02),
                (0xa1, 0x01),
                // Level-triggered; only this line and the cascade are let through.
                (0x4d1, 1 << (LINE - 8)),
                (0x21, 0xfb),
                (0xa1, !(1_u8 << (LINE - 8))),
            ] {
                out(a, port, value)?;
            }
            wait(a)
        },
        |mut s| {
            let line = s.vm.line_interrupt(LINE).unwrap();
            assert!(s.vm.line_interrupt(24).is_err(), "{}: there is no such line", s.engine);
            assert_eq!(s.told(), WAITING);
            for _ in 0..2 {
                line.event().write(1).unwrap();
                assert_eq!(told_within(&mut s, LONG), Some(INTERRUPTED), "{}", s.engine);
                // The guest has ended it when it waits again, and is not interrupted a second time.
                assert_eq!(s.told(), WAITING, "{}", s.engine);
                // One for each 8259 that the guest tells.
                assert!(matches!(line.ended().read(), Ok(1 | 2)), "{}", s.engine);
                assert_eq!(told_within(&mut s, SHORT), None, "{}: it was released", s.engine);
            }
        },
    );
}
