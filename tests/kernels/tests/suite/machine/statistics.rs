//! What the software engine counts when it is asked to.

use iced_x86::code_asm::*;
use tern_engine::Statistics;
use tern_soft::{Profile, SoftEngine, Translation};
use tern_test_kernels::engines;
use tern_test_kernels::long::*;
use tern_test_kernels::run::{Setup, run_on};
use tern_vmm::boot::KernelKind;

/// A loop's statistics: each of so many rounds reads two words side by side, which are one group, adds to a word in another page, and
/// calls a function.
fn statistics(rounds: u32, counts_hits: bool) -> Statistics {
    let (image, _) = build(|g| {
        let over = g.out_of_line(|g| g.ret())?;
        let mut again = g.create_label();
        g.mov(rbx, DATA)?;
        g.mov(rsi, DATA + 0x1ff8)?;
        g.mov(ecx, rounds)?;
        g.place(&mut again)?;
        g.mov(rax, qword_ptr(rbx))?;
        g.mov(rdx, qword_ptr(rbx + 8))?;
        g.add(qword_ptr(rsi), 1)?;
        g.call(over)?;
        g.dec(ecx)?;
        g.jnz(again)
    });
    let engine = SoftEngine::new(Translation::On).eager();
    let engine = engine.profiled(Profile { counts_hits, ..Profile::default() });
    run_on(&engine, &Setup::new(image, KernelKind::Elf)).statistics
}

fn count(statistics: &Statistics, name: &str) -> Option<u64> {
    statistics.engine.iter().find(|(known, _)| *known == name).map(|(_, count)| *count)
}

#[test]
fn each_check_of_translated_code_is_a_hit_or_a_miss_once_they_are_counted() {
    if engines().iter().any(|engine| engine.name() != "soft") {
        return;
    }
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
