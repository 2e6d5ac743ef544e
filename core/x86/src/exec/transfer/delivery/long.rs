//! Delivery in long mode (APM volume 2, section 8.9).

use super::{Event, enter_flags};
use crate::cpu::canonical;
use crate::cpu::word::RSP;
use crate::environment::{Environment, Processor};
use crate::exception::{Exception, Stop, Vector};
use crate::exec::transfer::descriptor::{Descriptor, is_null, kind, selector_fault};
use crate::exec::transfer::enter_code;
use crate::exec::transfer::stack::Stack;
use crate::state::{Attributes, Segment, SegmentRegister};

pub(super) fn deliver<E: Environment>(p: &mut Processor<E>, event: Event) -> Result<(), Stop> {
    let gate = load_gate(p, event)?;
    let (selector, ext) = (gate.gate_selector(), event.ext);
    let code = check_code(p, selector, ext)?;
    let cpl = if code.is_conforming_code() { p.cpu.cpl } else { code.dpl() };
    let inner = cpl < p.cpu.cpl;

    let top = match gate.gate_ist() {
        0 if inner => inner_stack(p, cpl, ext)?,
        0 => p.cpu.gpr[RSP],
        index => tss_pointer(p, 0x1c + 8 * u32::from(index), ext)?,
    };
    let old = *p.cpu.segment(SegmentRegister::Ss);
    let new = if inner { null_stack(cpl) } else { old };
    let mut stack = Stack::other(new, top & !0xf, true, inner, Exception::stack(ext));
    let cs = u64::from(p.cpu.segment(SegmentRegister::Cs).selector);
    for value in [u64::from(old.selector), p.cpu.gpr[RSP], event.flags(p), cs, p.cpu.rip] {
        stack.push(p, 8, value)?;
    }
    if let Some(error_code) = event.error_code {
        stack.push(p, 8, u64::from(error_code))?;
    }
    code.mark_accessed(p)?;

    stack.commit(&mut p.cpu);
    p.cpu.segments[SegmentRegister::Ss as usize] = new;
    enter_flags(p, gate.attributes().kind() == kind::INTERRUPT_GATE);
    enter_code(p, code.segment(selector), cpl, gate.gate_offset());
    Ok(())
}

fn load_gate<E: Environment>(p: &mut Processor<E>, event: Event) -> Result<Descriptor, Stop> {
    let offset = u16::from(event.vector) * 16;
    let invalid = Exception::general_protection(event.gate_code());
    if offset + 15 > p.cpu.idtr.limit {
        return Err(p.cpu.raise(invalid));
    }
    let address = p.cpu.idtr.base.wrapping_add(u64::from(offset));
    let low = p.env.load_system::<u64>(&mut p.cpu, address)?;
    let high = p.env.load_system::<u64>(&mut p.cpu, address.wrapping_add(8))?;
    let gate = Descriptor::new(low, high, address);
    if !matches!(gate.system_kind(), Some(kind::INTERRUPT_GATE | kind::TRAP_GATE))
        || event.checks_privilege && gate.dpl() < p.cpu.cpl
    {
        return Err(p.cpu.raise(invalid));
    }
    if !gate.present() {
        return Err(p.cpu.raise(Exception::with_code(Vector::Np, event.gate_code())));
    }
    if !canonical(gate.gate_offset()) {
        return Err(p.cpu.raise(Exception::general_protection(event.ext)));
    }
    Ok(gate)
}

/// The 64-bit code segment that a gate leads to.
fn check_code<E: Environment>(p: &mut Processor<E>, selector: u16, ext: u32) -> Result<Descriptor, Stop> {
    let invalid = selector_fault(Vector::Gp, selector, ext);
    if is_null(selector) {
        return Err(p.cpu.raise(invalid));
    }
    let code = Descriptor::load(p, selector, Vector::Gp, ext)?;
    let size = code.attributes() & (Attributes::LONG | Attributes::DEFAULT_BIG);
    if !code.is_code() || code.dpl() > p.cpu.cpl || size != Attributes::LONG {
        return Err(p.cpu.raise(invalid));
    }
    if !code.present() {
        return Err(p.cpu.raise(selector_fault(Vector::Np, selector, ext)));
    }
    Ok(code)
}

/// The null stack segment that long mode loads on the way to a more privileged level.
pub(in crate::exec::transfer) fn null_stack(cpl: u8) -> Segment {
    Segment { selector: u16::from(cpl), attributes: Attributes::empty().with_dpl(cpl), limit: 0, base: 0 }
}

/// The stack pointer that the TSS holds for an inner privilege level (0 to 2).
pub(in crate::exec::transfer) fn inner_stack<E: Environment>(
    p: &mut Processor<E>,
    cpl: u8,
    ext: u32,
) -> Result<u64, Stop> {
    tss_pointer(p, 4 + 8 * u32::from(cpl), ext)
}

/// A stack pointer in the 64-bit TSS.
fn tss_pointer<E: Environment>(p: &mut Processor<E>, offset: u32, ext: u32) -> Result<u64, Stop> {
    let tr = p.cpu.tr;
    if offset + 7 > tr.limit {
        return Err(p.cpu.raise(selector_fault(Vector::Ts, tr.selector, ext)));
    }
    let pointer = p.env.load_system::<u64>(&mut p.cpu, tr.base.wrapping_add(u64::from(offset)))?;
    if canonical(pointer) { Ok(pointer) } else { Err(p.cpu.raise(Exception::stack(ext))) }
}
