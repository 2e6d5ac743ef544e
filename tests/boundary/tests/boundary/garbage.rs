//! Guests that execute garbage.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use tern_engine::{EngineError, VmEntry, VmExit};
use tern_test_boundary::{CODE, on_every_engine};
use vm_memory::{Bytes, GuestAddress};

const SEEDS: u64 = 40;
/// How long one may run, and how often it may ask.
const PATIENCE: Duration = Duration::from_millis(50);
const QUESTIONS: usize = 2000;

/// A sequence that looks random (`SplitMix64`).
fn garbage(mut seed: u64) -> impl FnMut() -> u64 {
    move || {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[test]
fn garbage_runs_crashes_or_makes_the_engine_give_up_with_its_state() {
    for seed in 0..SEEDS {
        on_every_engine(
            |a| a.nop(),
            |mut s| {
                let mut next = garbage(seed);
                for address in (u64::from(CODE)..0x9000).step_by(8) {
                    s.memory.write_obj(next(), GuestAddress(address)).unwrap();
                }
                // Handlers of exceptions are garbage, too.
                for vector in 0..256 {
                    s.memory.write_obj(next() as u16 % 0x9000, GuestAddress(4 * vector)).unwrap();
                }
                let kick = s.vcpu.kicker();
                let (done, waiting) = channel::<()>();
                let waiter = thread::spawn(move || {
                    if waiting.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                        kick.kick();
                    }
                });
                let mut entry = VmEntry::Resume;
                for _ in 0..QUESTIONS {
                    match s.vcpu.run(entry) {
                        Ok(VmExit::PortIn { .. } | VmExit::MmioRead { .. }) => entry = VmEntry::Value(next()),
                        Ok(VmExit::PortOut { .. } | VmExit::MmioWrite { .. }) => entry = VmEntry::Resume,
                        Ok(VmExit::Kicked | VmExit::TripleFault) => break,
                        Err(EngineError::GaveUp { reason, state }) => {
                            assert!(reason.contains("processor 0"), "seed {seed}: {reason}");
                            let now = s.vcpu.state();
                            assert_eq!((state.rip, state.gpr), (now.rip, now.gpr), "seed {seed}");
                            break;
                        }
                        Err(error) => panic!("on {}, seed {seed}: {error}", s.engine),
                    }
                }
                drop(done);
                waiter.join().unwrap();
                // It can still be asked for its state, and started anew.
                let state = s.vcpu.state();
                s.vcpu.set_state(&state);
            },
        );
    }
}
