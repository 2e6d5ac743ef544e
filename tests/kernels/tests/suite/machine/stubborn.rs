//! Guests that do not want to end.

use std::thread::sleep;
use std::time::{Duration, Instant};

use iced_x86::code_asm::*;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;
use tern_test_kernels::run::{Setup, run_on, run_with};
use tern_vmm::boot::KernelKind;
use tern_vmm::machine::End;

/// How soon a machine must have stopped.
const SOON: Duration = Duration::from_secs(5);

/// Starts the guest on `cpus` processors, stops it, and demands that it ends soon.
fn stopped(cpus: u32, write: impl FnOnce(&mut Long) -> Emit) {
    let (image, _) = build(write);
    let setup = Setup { cpus, ..Setup::new(image, KernelKind::Elf) };
    for engine in tern_test_kernels::engines() {
        let began = Instant::now();
        let ended = run_with(&*engine, &setup, |handle| {
            sleep(Duration::from_millis(100));
            handle.stop();
        });
        assert!(matches!(ended.end, End::Stopped), "{:?}", ended.end);
        assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
    }
}

#[test]
fn a_loop_with_interrupts_off_is_stopped() {
    stopped(1, |g| {
        let mut forever = g.create_label();
        g.cli()?;
        g.place(&mut forever)?;
        g.jmp(forever)
    });
}

#[test]
fn a_halt_with_interrupts_off_is_stopped() {
    stopped(1, |g| {
        g.cli()?;
        g.hlt()
    });
}

#[test]
fn an_endless_string_instruction_is_stopped() {
    stopped(1, |g| {
        // In place, over and over: the address is always the same page, the count nearly endless.
        g.mov(rcx, u64::MAX)?;
        g.mov(edx, 0x80)?;
        g.mov(esi, frame(0) as u32)?;
        g.xor(eax, eax)?;
        g.mov(edi, frame(0) as u32)?;
        let mut again = g.create_label();
        g.place(&mut again)?;
        g.mov(ecx, u32::MAX)?;
        g.mov(edi, frame(0) as u32)?;
        g.mov(esi, frame(0) as u32)?;
        g.db(&[0x67, 0xf3, 0xac])?; // REP LODSB with 32-bit addresses
        g.jmp(again)
    });
}

#[test]
fn a_storm_of_exceptions_is_stopped() {
    stopped(1, |g| {
        g.handler(6, |g| g.iretq())?;
        g.ud2()
    });
}

#[test]
fn processors_that_all_spin_are_stopped() {
    stopped(4, |g| {
        let spin = |g: &mut Long| {
            let mut forever = g.create_label();
            g.place(&mut forever)?;
            g.lock().inc(qword_ptr(DATA))?;
            g.jmp(forever)
        };
        g.on_others(spin)?;
        g.start_others(3)?;
        spin(g)
    });
}

#[test]
fn a_console_that_is_flooded_is_stopped() {
    stopped(1, |g| {
        let mut forever = g.create_label();
        g.mov(edx, 0x3f8)?;
        g.mov(al, i32::from(b'x'))?;
        g.place(&mut forever)?;
        g.out(dx, al)?;
        g.jmp(forever)
    });
}

#[test]
fn a_flood_on_the_console_arrives_whole_and_ends() {
    const BYTES: u32 = 200_000;
    let (image, _) = build(|g| {
        g.mov(edx, 0x3f8)?;
        g.mov(esi, frame(0) as u32)?;
        g.mov(ecx, BYTES)?;
        g.rep().outsb()
    });
    for engine in tern_test_kernels::engines() {
        let began = Instant::now();
        let ended = run_on(&*engine, &Setup::new(image.clone(), KernelKind::Elf));
        assert!(matches!(ended.end, End::DebugExit(_)), "{:?}", ended.end);
        assert_eq!(ended.output.len(), BYTES as usize);
        assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
    }
}

#[test]
fn a_machine_that_is_paused_and_resumed_goes_on_where_it_was() {
    // A count that goes on during the pauses would be lost or doubled if a processor missed a step.
    let (image, expectations) = build(|g| {
        let mut again = g.create_label();
        g.mov(ecx, 20_000_000)?;
        g.xor(ebx, ebx)?;
        g.place(&mut again)?;
        g.inc(ebx)?;
        g.dec(ecx)?;
        g.jnz(again)?;
        g.expect(rbx, 20_000_000)
    });
    for engine in tern_test_kernels::engines() {
        let ended = run_with(&*engine, &Setup::new(image.clone(), KernelKind::Elf), |handle| {
            for _ in 0..20 {
                handle.pause();
                handle.resume();
            }
        });
        assert!(matches!(ended.end, End::DebugExit(_)), "{:?}", ended.end);
        expectations.compare(&ended.words()).unwrap();
    }
}
