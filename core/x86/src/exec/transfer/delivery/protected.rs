//! Delivery in protected and virtual-8086 mode (APM volume 2, sections 8.7 and 8.8).

use super::{Event, enter_flags};
use crate::cpu::word::RSP;
use crate::environment::{Environment, Processor};
use crate::exception::{Exception, Stop, Vector};
use crate::exec::transfer::descriptor::{Descriptor, is_null, kind, rpl, selector_fault};
use crate::exec::transfer::stack::Stack;
use crate::exec::transfer::{enter_code, task};
use crate::state::{Attributes, Segment, SegmentRegister};

pub(super) fn deliver<E: Environment>(p: &mut Processor<E>, event: Event) -> Result<(), Stop> {
    let gate = load_gate(p, event)?;
    let (selector, ext) = (gate.gate_selector(), event.ext);
    if gate.system_kind() == Some(kind::TASK_GATE) {
        let flags = event.flags(p);
        return task::enter_by_interrupt(p, selector, event.error_code, flags, ext);
    }
    let code = check_code(p, selector, ext)?;
    let cpl = if code.is_conforming_code() { p.cpu.cpl } else { code.dpl() };
    // A 16-bit gate pushes words.
    let size = if gate.attributes().kind() & 8 == 0 { 2 } else { 4 };

    let old = *p.cpu.segment(SegmentRegister::Ss);
    let virtual_8086 = p.cpu.virtual_8086();
    let mut new = old;
    let mut stack = Stack::current(&p.cpu).with_fault(Exception::stack(ext));
    if cpl < p.cpu.cpl {
        let (segment, pointer) = inner_stack(p, cpl, ext)?;
        let fault = selector_fault(Vector::Ss, segment.selector, ext);
        new = segment;
        stack = Stack::other(new, pointer, false, true, fault);
        if virtual_8086 {
            use SegmentRegister::{Ds, Es, Fs, Gs};
            for register in [Gs, Fs, Ds, Es] {
                let selector = p.cpu.segment(register).selector;
                stack.push(p, size, u64::from(selector))?;
            }
        }
        stack.push(p, size, u64::from(old.selector))?;
        stack.push(p, size, p.cpu.gpr[RSP])?;
    }
    let cs = u64::from(p.cpu.segment(SegmentRegister::Cs).selector);
    for value in [event.flags(p), cs, p.cpu.rip] {
        stack.push(p, size, value)?;
    }
    if let Some(error_code) = event.error_code {
        stack.push(p, size, u64::from(error_code))?;
    }
    let segment = code.segment(selector);
    if gate.gate_offset() > u64::from(segment.limit) {
        return Err(p.cpu.raise(Exception::general_protection(ext)));
    }
    code.mark_accessed(p)?;

    p.cpu.segments[SegmentRegister::Ss as usize] = new;
    stack.commit(&mut p.cpu);
    if virtual_8086 {
        use SegmentRegister::{Ds, Es, Fs, Gs};
        for register in [Gs, Fs, Ds, Es] {
            p.cpu.segments[register as usize] = Segment::default();
        }
    }
    enter_flags(p, matches!(gate.attributes().kind(), kind::INTERRUPT_GATE16 | kind::INTERRUPT_GATE));
    enter_code(p, segment, cpl, gate.gate_offset());
    Ok(())
}

fn load_gate<E: Environment>(p: &mut Processor<E>, event: Event) -> Result<Descriptor, Stop> {
    use kind::{INTERRUPT_GATE, INTERRUPT_GATE16, TASK_GATE, TRAP_GATE, TRAP_GATE16};
    let offset = u16::from(event.vector) * 8;
    let invalid = Exception::general_protection(event.gate_code());
    if offset + 7 > p.cpu.idtr.limit {
        return Err(p.cpu.raise(invalid));
    }
    let address = p.cpu.idtr.base.wrapping_add(u64::from(offset)) & 0xffff_ffff;
    let low = p.env.load_system::<u64>(&mut p.cpu, address)?;
    let gate = Descriptor::new(low, 0, address);
    let is_gate = matches!(
        gate.system_kind(),
        Some(TASK_GATE | INTERRUPT_GATE16 | TRAP_GATE16 | INTERRUPT_GATE | TRAP_GATE)
    );
    if !is_gate || event.checks_privilege && gate.dpl() < p.cpu.cpl {
        return Err(p.cpu.raise(invalid));
    }
    if !gate.present() {
        return Err(p.cpu.raise(Exception::with_code(Vector::Np, event.gate_code())));
    }
    Ok(gate)
}

/// The code segment that a gate leads to.
fn check_code<E: Environment>(p: &mut Processor<E>, selector: u16, ext: u32) -> Result<Descriptor, Stop> {
    let invalid = selector_fault(Vector::Gp, selector, ext);
    if is_null(selector) {
        return Err(p.cpu.raise(invalid));
    }
    let code = Descriptor::load(p, selector, Vector::Gp, ext)?;
    // Virtual-8086 code can only be interrupted to privilege level 0.
    let wrong_level = p.cpu.virtual_8086() && (code.is_conforming_code() || code.dpl() != 0);
    if !code.is_code() || code.dpl() > p.cpu.cpl || wrong_level {
        return Err(p.cpu.raise(invalid));
    }
    if !code.present() {
        return Err(p.cpu.raise(selector_fault(Vector::Np, selector, ext)));
    }
    Ok(code)
}

/// The stack that the TSS holds for an inner privilege level (0 to 2): segment and pointer.
pub(in crate::exec::transfer) fn inner_stack<E: Environment>(
    p: &mut Processor<E>,
    cpl: u8,
    ext: u32,
) -> Result<(Segment, u64), Stop> {
    let tr = p.cpu.tr;
    let wide = tr.attributes.kind() & 8 != 0;
    let level = u32::from(cpl);
    let (offset, size) = if wide { (4 + 8 * level, 8) } else { (2 + 4 * level, 4) };
    if offset + (size - 1) > tr.limit {
        return Err(p.cpu.raise(selector_fault(Vector::Ts, tr.selector, ext)));
    }
    let address = tr.base.wrapping_add(u64::from(offset)) & 0xffff_ffff;
    let (pointer, selector) = if wide {
        let both = p.env.load_system::<u64>(&mut p.cpu, address)?;
        (both & 0xffff_ffff, (both >> 32) as u16)
    } else {
        let both = p.env.load_system::<u32>(&mut p.cpu, address)?;
        (u64::from(both & 0xffff), (both >> 16) as u16)
    };
    let segment = check_inner_stack(p, selector, cpl, ext)?;
    Ok((segment, pointer))
}

fn check_inner_stack<E: Environment>(
    p: &mut Processor<E>,
    selector: u16,
    cpl: u8,
    ext: u32,
) -> Result<Segment, Stop> {
    let invalid = selector_fault(Vector::Ts, selector, ext);
    if is_null(selector) {
        return Err(p.cpu.raise(invalid));
    }
    let descriptor = Descriptor::load(p, selector, Vector::Ts, ext)?;
    if rpl(selector) != cpl || descriptor.dpl() != cpl || !descriptor.is_writable_data() {
        return Err(p.cpu.raise(invalid));
    }
    if !descriptor.attributes().contains(Attributes::PRESENT) {
        return Err(p.cpu.raise(selector_fault(Vector::Ss, selector, ext)));
    }
    descriptor.mark_accessed(p)?;
    Ok(descriptor.segment(selector))
}
