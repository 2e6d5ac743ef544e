//! A paused machine's time.

use std::thread;
use std::time::{Duration, Instant};

use iced_x86::code_asm::{al, ax, ds, dword_ptr, eax, edx};
use tern_test_boundary::{Subject, TELL, on_every_engine};
use vm_memory::{Bytes, GuestAddress};

/// What the counter counts per second where it can be scaled; else it is measured.
fn counter(s: &mut Subject) -> u64 {
    s.told();
    s.memory.read_obj(GuestAddress(0x1000)).unwrap()
}

#[test]
fn the_time_stamp_counter_does_not_count_a_pause() {
    on_every_engine(
        |a| {
            let mut again = a.create_label();
            a.mov(ax, 0)?;
            a.mov(ds, ax)?;
            a.set_label(&mut again)?;
            a.rdtsc()?;
            a.mov(dword_ptr(0x1000), eax)?;
            a.mov(dword_ptr(0x1004), edx)?;
            a.out(i32::from(TELL), al)?;
            a.jmp(again)
        },
        |mut s| {
            // How fast it counts.
            let (began, first) = (Instant::now(), counter(&mut s));
            thread::sleep(Duration::from_millis(200));
            let per_second = (counter(&mut s) - first) as f64 / began.elapsed().as_secs_f64();
            // Two pauses, within a time that is measured around everything.
            let (began, first) = (Instant::now(), counter(&mut s));
            let mut paused = Duration::ZERO;
            for _ in 0..2 {
                s.vm.pause_time().unwrap();
                s.clock.pause();
                let pause = Instant::now();
                thread::sleep(Duration::from_millis(700));
                // What stands still stays where it is.
                s.vm.pause_time().unwrap();
                paused += pause.elapsed();
                s.clock.resume();
                s.vm.resume_time().unwrap();
            }
            let last = counter(&mut s);
            let ran = (began.elapsed() - paused).as_secs_f64();
            let counted = (last as f64 - first as f64) / per_second;
            // The rate was measured over a short time; and where the host's own counters are not in step (in the rig), KVM
            // keeps a guest's only roughly, and may even set it back a little.
            assert!(counted > -0.1, "on {}: it went back from {first} to {last}", s.engine);
            assert!(counted < ran + 0.3, "on {}: {counted} s were counted in {ran} s", s.engine);
        },
    );
}
