//! A processor that another one has told not to halt, and that goes to this engine before it could listen.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, al};
use tern_engine::{VmEntry, VmExit};
use tern_test_boundary::{Subject, TELL, on_every_engine};
use tern_x86::state::{Activity, VcpuState};

/// What no guest here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn halts(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.cli()?;
    a.hlt()?;
    a.mov(al, 1)?;
    a.out(i32::from(TELL), al)?;
    a.hlt()
}

/// The byte that the guest tells; none if it halts for ever.
fn told_in_time(mut subject: Subject) -> Option<u8> {
    let kick = subject.vcpu.kicker();
    let (done, waiting) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            if waiting.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                kick.kick();
            }
        });
        let exit = subject.vcpu.run(VmEntry::Resume).unwrap();
        drop(done);
        match exit {
            VmExit::PortOut { port: TELL, data, .. } => u8::try_from(data).ok(),
            _ => None,
        }
    })
}

#[test]
fn a_processor_that_was_woken_on_its_way_to_hlt_does_not_halt() {
    on_every_engine(halts, |mut subject| {
        let mut state = subject.vcpu.state();
        state.pending.woken = true;
        subject.vcpu.set_state(&state);
        assert_eq!(told_in_time(subject), Some(1));
    });
}

#[test]
fn a_processor_that_was_woken_in_hlt_goes_on() {
    on_every_engine(halts, |mut subject| {
        let state = subject.vcpu.state();
        // After CLI and HLT, of a byte each.
        let mut state = VcpuState { rip: state.rip + 2, activity: Activity::Halted, ..state };
        state.pending.woken = true;
        subject.vcpu.set_state(&state);
        assert_eq!(told_in_time(subject), Some(1));
    });
}
