//! Interrupt flag, halt, and the override of SMAP: CLI, STI, HLT, CLAC, STAC (APM volume 3).

use super::require_cpl0;
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::Stop;
use crate::exec::transfer::set_rflags;
use crate::state::{Activity, Rflags};

/// Whether the running code may change IF. Real mode has privilege level 0, virtual-8086 mode 3.
fn require_iopl<E>(p: &mut Processor<E>) -> Result<(), Stop> {
    if p.cpu.cpl <= p.cpu.system_flags.iopl() { Ok(()) } else { Err(p.cpu.general_protection()) }
}

/// CLI.
pub(crate) fn cli<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    require_iopl(p)?;
    p.cpu.system_flags -= Rflags::IF;
    Ok(())
}

/// STI. Where interrupts were off they stay off for one more instruction.
pub(crate) fn sti<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    require_iopl(p)?;
    if !p.cpu.system_flags.contains(Rflags::IF) {
        p.cpu.system_flags |= Rflags::IF;
        p.cpu.pending.interrupt_shadow = true;
    }
    Ok(())
}

/// HLT.
pub(crate) fn hlt<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    require_cpl0(p)?;
    p.cpu.activity = Activity::Halted;
    Ok(())
}

/// CLAC, and STAC with `SET`.
pub(crate) fn set_ac<const SET: bool, E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    if p.cpu.cpl != 0 {
        return Err(p.cpu.undefined_opcode());
    }
    let mut flags = p.cpu.rflags();
    flags.set(Rflags::AC, SET);
    set_rflags(p, flags);
    Ok(())
}
