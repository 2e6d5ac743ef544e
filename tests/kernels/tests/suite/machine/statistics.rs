//! What the software engine counts when it is asked to.

use iced_x86::code_asm::*;
use tern_chipset::layout::IO_APIC;
use tern_engine::{ExitKind, Statistics};
use tern_soft::{Profile, SoftEngine, Translation};
use tern_test_kernels::engines;
use tern_test_kernels::expect::vector::PF;
use tern_test_kernels::guest::Emit;
use tern_test_kernels::long::*;
use tern_test_kernels::run::{Setup, run_on};
use tern_vmm::boot::KernelKind;

/// The statistics of a guest that this writes, whose code is translated from the first execution on.
fn statistics(counts_hits: bool, write: impl FnOnce(&mut Long) -> Emit) -> Statistics {
    let (image, _) = build(write);
    let engine = SoftEngine::new(Translation::On).eager();
    let engine = engine.profiled(Profile { counts_hits, ..Profile::default() });
    run_on(&engine, &Setup::new(image, KernelKind::Elf)).statistics
}

fn count(statistics: &Statistics, name: &str) -> Option<u64> {
    statistics.engine.iter().find(|(known, _)| *known == name).map(|(_, count)| *count)
}

/// Whether these tests, which are about `soft`, are not to run beside another engine's.
fn is_for_another_engine() -> bool {
    engines().iter().any(|engine| engine.name() != "soft")
}

#[test]
fn each_check_of_translated_code_is_a_hit_or_a_miss_once_they_are_counted() {
    if is_for_another_engine() {
        return;
    }
    // Each of so many rounds reads two words side by side, which are one group, adds to a word in another page, and calls a function.
    let statistics = |rounds: u32, counts_hits| {
        statistics(counts_hits, |g| {
            let over = g.out_of_line(|g| g.ret())?;
            g.mov(rbx, DATA)?;
            g.mov(rsi, DATA + 0x1ff8)?;
            g.rounds(rounds, |g| {
                g.mov(rax, qword_ptr(rbx))?;
                g.mov(rdx, qword_ptr(rbx + 8))?;
                g.add(qword_ptr(rsi), 1)?;
                g.call(over)
            })
        })
    };
    // The group, the sum, the return address pushed and popped.
    const CHECKS: u64 = 4;
    let (few, many) = (20_000, 220_000);
    let checks = |rounds| {
        let statistics = statistics(rounds, true);
        let (hits, misses) = (count(&statistics, "tlb-hits"), count(&statistics, "tlb-misses"));
        assert!(misses < Some(1000) && hits > misses, "{statistics:?}");
        hits.zip(misses).map(|(hits, misses)| hits + misses).unwrap()
    };
    assert_eq!(checks(many) - checks(few), CHECKS * u64::from(many - few));
    assert_eq!(count(&statistics(few, false), "tlb-hits"), None);
}

/// Enough rounds to tell what happens in each from what happens at first.
const ROUNDS: u32 = 200_000;

/// At most so many of anything happen only at first, or when the clock is looked at.
const FEW: u64 = 1000;

#[test]
fn hot_code_accesses_devices_without_being_left() {
    if is_for_another_engine() {
        return;
    }
    let statistics = statistics(false, |g| {
        g.mov(rbx, IO_APIC.start)?;
        g.mov(rsi, DATA)?;
        g.rounds(ROUNDS, |g| {
            g.mov(eax, dword_ptr(rbx))?;
            g.add(dword_ptr(rsi), eax)
        })
    });
    assert!(count(&statistics, "left-to-interpret") < Some(FEW), "{statistics:?}");
    assert!(count(&statistics, "interpreter-calls") > Some(u64::from(ROUNDS) - FEW), "{statistics:?}");
    assert!(count(&statistics, "retranslations") < Some(FEW), "{statistics:?}");
}

#[test]
fn hot_code_goes_on_in_the_handler_of_a_page_fault() {
    if is_for_another_engine() {
        return;
    }
    let statistics = statistics(false, |g| {
        let mut behind = g.create_label();
        g.handler(PF, |g| {
            g.add(rsp, 8)?;
            g.mov(qword_ptr(rsp), rsi)?;
            g.iretq()
        })?;
        g.lea(rsi, ptr(behind))?;
        g.mov(rbx, WINDOW)?;
        g.rounds(ROUNDS, |g| {
            g.inc(rdi)?;
            g.mov(rax, qword_ptr(rbx))?;
            g.place(&mut behind)?;
            g.dec(rdi)
        })
    });
    let exceptions = statistics.exits[ExitKind::Exception as usize];
    assert!((u64::from(ROUNDS)..u64::from(ROUNDS) + FEW).contains(&exceptions), "{statistics:?}");
    for name in ["left-by-exception", "left-for-link", "left-to-interpret"] {
        assert!(count(&statistics, name) < Some(FEW), "{name}: {statistics:?}");
    }
    // Each counts as one instruction, of seven in a round with IRET and its handler; but code is left sooner for it.
    assert!(statistics.instructions < 12 * u64::from(ROUNDS), "{statistics:?}");
    assert!(count(&statistics, "left-for-jump") > Some(u64::from(ROUNDS) / 1000), "{statistics:?}");
}

#[test]
fn calls_returns_and_indirect_branches_lead_from_unit_to_unit() {
    if is_for_another_engine() {
        return;
    }
    let statistics = statistics(false, |g| {
        let leaf = g.out_of_line(|g| g.ret())?;
        let other = g.out_of_line(|g| {
            g.call(leaf)?;
            g.ret()
        })?;
        g.lea(rsi, ptr(other))?;
        g.rounds(ROUNDS, |g| {
            g.call(leaf)?;
            g.call(rsi)?;
            g.nop()
        })
    });
    for name in ["left-for-jump", "left-for-link", "left-to-interpret", "jumps-resolved", "interpreter-calls"]
    {
        assert!(count(&statistics, name) < Some(FEW), "{name}: {statistics:?}");
    }
}

#[test]
fn a_hot_loop_in_pieces_becomes_one_unit() {
    if is_for_another_engine() {
        return;
    }
    let statistics = statistics(false, |g| {
        // Three parts that lead to each other.
        let (mut second, mut third, mut next) = (g.create_label(), g.create_label(), g.create_label());
        g.rounds(50 * ROUNDS, |g| {
            g.jmp(second)?;
            g.place(&mut third)?;
            g.inc(rbx)?;
            g.jmp(next)?;
            g.place(&mut second)?;
            g.inc(rcx)?;
            g.jmp(third)?;
            g.place(&mut next)?;
            g.inc(rdx)
        })
    });
    assert!(count(&statistics, "traces") > Some(0), "{statistics:?}");
    assert!(count(&statistics, "traces") < Some(FEW), "{statistics:?}");
}
