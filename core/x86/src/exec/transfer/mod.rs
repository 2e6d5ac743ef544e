//! Transfers of control that go through descriptors: delivery of exceptions and interrupts, IRET, far jumps, calls and
//! returns, hardware task switches, and the loading of segment registers (APM volume 2, chapters 4, 8 and 12).
//!
//! Every transfer first reads and checks everything and pushes what must be pushed, and only then changes the processor.
//! So a fault on the way leaves the registers as they were; memory below the old stack pointer may have been written.

mod delivery;
pub(crate) mod descriptor;
mod far;
mod iret;
mod segment;
mod software;
mod stack;
mod task;

pub use delivery::{Interrupt, deliver_exception, deliver_interrupt};
pub use segment::load_segment;

pub(crate) use far::{call_far, call_far_indirect, jump_far, jump_far_indirect, return_far};
pub(crate) use iret::interrupt_return;
pub(crate) use segment::{load_far_pointer, mov_from_segment, mov_from_segment_to_memory, mov_to_segment};
pub(crate) use segment::{mov_to_segment_from_memory, pop_segment};
pub(crate) use software::{interrupt_1, interrupt_3, interrupt_n, interrupt_on_overflow};

use crate::environment::{Environment, Processor, Stale};
use crate::state::{Rflags, Segment, SegmentRegister};

/// Changes the privilege level, which cached translations depend on.
pub(crate) fn set_cpl<E: Environment>(p: &mut Processor<E>, cpl: u8) {
    if p.cpu.cpl != cpl {
        p.cpu.cpl = cpl;
        p.env.forget(&p.cpu, Stale::Privilege);
    }
}

/// Sets RFLAGS; accesses depend on AC, which is the override of SMAP and the user's demand for alignment.
pub(crate) fn set_rflags<E: Environment>(p: &mut Processor<E>, rflags: Rflags) {
    let old = p.cpu.system_flags;
    p.cpu.set_rflags(rflags);
    if (old ^ p.cpu.system_flags).contains(Rflags::AC) {
        p.env.forget(&p.cpu, Stale::Privilege);
    }
}

/// Continues at `rip` in another code segment with the given privilege level. The stack segment is already the new one.
pub(crate) fn enter_code<E: Environment>(p: &mut Processor<E>, segment: Segment, cpl: u8, rip: u64) {
    let selector = segment.selector & !3 | u16::from(cpl);
    p.cpu.segments[SegmentRegister::Cs as usize] = Segment { selector, ..segment };
    p.cpu.rip = rip;
    set_cpl(p, cpl);
    p.cpu.derive_mode();
}
