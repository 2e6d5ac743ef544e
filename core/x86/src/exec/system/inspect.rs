//! Questions about descriptors: LAR, LSL, VERR, VERW, ARPL (APM volume 2, section 4.11; volume 3).
//!
//! Except for ARPL the answer is ZF, and what may not be known is answered like what does not exist.

use super::require_protected;
use super::table::selector_operand;
use crate::cpu::Word;
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::Stop;
use crate::exec::transfer::descriptor::{Descriptor, is_null, kind, rpl};

/// The descriptor of a selector, if the running code may use it at its own level and the selector's.
fn visible<E: Environment>(p: &mut Processor<E>, selector: u16) -> Result<Option<Descriptor>, Stop> {
    if is_null(selector) {
        return Ok(None);
    }
    let level = p.cpu.cpl.max(rpl(selector));
    let descriptor = Descriptor::find(p, selector)?;
    Ok(descriptor.filter(|descriptor| descriptor.is_conforming_code() || descriptor.dpl() >= level))
}

fn answer<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>, value: Option<u32>) {
    if let Some(value) = value {
        W::set(&mut p.cpu.gpr, op.reg, W::truncate(u64::from(value)));
    }
    p.cpu.flags.set_zf(value.is_some());
}

/// LAR: register `reg`.
pub(crate) fn lar<const MEMORY: bool, W: Word, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
) -> Result<(), Stop> {
    require_protected(p)?;
    let selector = selector_operand::<MEMORY, E>(p, op)?;
    let descriptor = visible(p, selector)?;
    let legacy = !p.cpu.long_mode();
    let known = descriptor.filter(|descriptor| match descriptor.system_kind() {
        None | Some(kind::LDT | kind::TSS | kind::TSS_BUSY | kind::CALL_GATE) => true,
        Some(kind::TSS16 | kind::TSS16_BUSY | kind::CALL_GATE16 | kind::TASK_GATE) => legacy,
        Some(_) => false,
    });
    answer::<W, E>(p, op, known.map(Descriptor::access_rights));
    Ok(())
}

/// LSL: register `reg`.
pub(crate) fn lsl<const MEMORY: bool, W: Word, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
) -> Result<(), Stop> {
    require_protected(p)?;
    let selector = selector_operand::<MEMORY, E>(p, op)?;
    let descriptor = visible(p, selector)?;
    let legacy = !p.cpu.long_mode();
    let known = descriptor.filter(|descriptor| match descriptor.system_kind() {
        None | Some(kind::LDT | kind::TSS | kind::TSS_BUSY) => true,
        Some(kind::TSS16 | kind::TSS16_BUSY) => legacy,
        Some(_) => false,
    });
    answer::<W, E>(p, op, known.map(Descriptor::limit));
    Ok(())
}

/// VERR.
pub(crate) fn verr<const MEMORY: bool, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    require_protected(p)?;
    let selector = selector_operand::<MEMORY, E>(p, op)?;
    let readable = visible(p, selector)?.is_some_and(Descriptor::is_readable);
    p.cpu.flags.set_zf(readable);
    Ok(())
}

/// VERW.
pub(crate) fn verw<const MEMORY: bool, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    require_protected(p)?;
    let selector = selector_operand::<MEMORY, E>(p, op)?;
    let writable = visible(p, selector)?.is_some_and(Descriptor::is_writable_data);
    p.cpu.flags.set_zf(writable);
    Ok(())
}

/// A selector with its RPL raised to that of `source`, if it is lower.
fn adjusted(selector: u16, source: u16) -> Option<u16> {
    (rpl(selector) < rpl(source)).then_some(selector & !3 | source & 3)
}

/// ARPL r16, r16: destination `rm`, source `reg`.
pub(crate) fn arpl<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    require_protected(p)?;
    let source = u16::get(&p.cpu.gpr, op.reg);
    let new = adjusted(u16::get(&p.cpu.gpr, op.rm), source);
    if let Some(new) = new {
        u16::set(&mut p.cpu.gpr, op.rm, new);
    }
    p.cpu.flags.set_zf(new.is_some());
    Ok(())
}

/// ARPL m16, r16: source `reg`.
pub(crate) fn arpl_memory<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    require_protected(p)?;
    let source = u16::get(&p.cpu.gpr, op.reg);
    let linear = op.linear(p, 2, true)?;
    let old =
        p.env.update::<u16>(&mut p.cpu, op.segment, linear, false, |selector| adjusted(selector, source))?;
    p.cpu.flags.set_zf(adjusted(old, source).is_some());
    Ok(())
}
