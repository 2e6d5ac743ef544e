//! System instructions: control, debug and model-specific registers, descriptor tables, caches, system calls, and what
//! the processor says of itself (APM volume 3, chapter 4; volume 2).
//!
//! Each handler's description says where its operands are in the [`Op`](crate::decode::Op) beyond its memory operand.

mod base;
mod cache;
mod control;
mod debug;
mod fast_call;
mod flag;
mod hypercall;
mod identity;
mod inspect;
mod io;
mod msr;
mod table;
mod xcr;

pub(crate) use base::{read_base, swapgs, write_base};
pub(crate) use cache::{clflush, invlpg, invpcid, wbinvd};
pub(crate) use control::{clts, lmsw, lmsw_memory, mov_from_control, mov_to_control, smsw, smsw_memory};
pub use debug::{data_breakpoints_hit, instruction_breakpoints_hit, port_breakpoints_hit};
pub(crate) use debug::{mov_from_debug, mov_to_debug};
pub(crate) use fast_call::{syscall, sysenter, sysexit, sysret};
pub use fast_call::{syscall_segments, sysret_segments};
pub(crate) use flag::{cli, hlt, set_ac, sti};
pub(crate) use hypercall::hypercall;
pub(crate) use identity::{cpuid, random, rdpid, rdpmc, rdtsc, rdtscp};
pub(crate) use inspect::{arpl, arpl_memory, lar, lsl, verr, verw};
pub(crate) use io::{check_io, port_in, port_out};
pub(crate) use msr::{rdmsr, wrmsr};
pub(crate) use table::{lgdt, lidt, lldt, ltr, sgdt, sidt, sldt, str};
pub(crate) use xcr::{xgetbv, xsetbv};

use crate::environment::Processor;
use crate::exception::Stop;
use crate::state::Cr4;

/// #GP(0) unless at privilege level 0.
fn require_cpl0<E>(p: &mut Processor<E>) -> Result<(), Stop> {
    if p.cpu.cpl == 0 { Ok(()) } else { Err(p.cpu.general_protection()) }
}

/// #UD in real and virtual-8086 mode.
fn require_protected<E>(p: &mut Processor<E>) -> Result<(), Stop> {
    if p.cpu.protected() { Ok(()) } else { Err(p.cpu.undefined_opcode()) }
}

/// #GP(0) for user code that may not see system registers.
fn forbid_by_umip<E>(p: &mut Processor<E>) -> Result<(), Stop> {
    if p.cpu.cr4.contains(Cr4::UMIP) && p.cpu.cpl != 0 { Err(p.cpu.general_protection()) } else { Ok(()) }
}
