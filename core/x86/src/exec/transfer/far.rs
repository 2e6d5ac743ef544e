//! Far jumps, calls and returns (APM volume 3, JMP, CALL and RET (far); volume 2, section 4.11).

use super::delivery::{inner_stack, inner_stack_pointer, null_stack};
use super::descriptor::{Descriptor, is_null, kind, rpl, selector_fault};
use super::enter_code;
use super::iret::{check_return_code, check_return_stack, check_rip, drop_inner_segments, is_long};
use super::segment::read_far_pointer;
use super::stack::{Stack, switch_stack};
use super::task::{self, Entry};
use crate::cpu::word::RSP;
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::{Exception, Stop, Vector};
use crate::state::{Attributes, SegmentRegister};

/// A far jump or call on its way.
struct Transfer {
    call: bool,
    /// The operand size in bytes: what a call pushes where no gate says otherwise.
    size: u8,
    selector: u16,
    offset: u64,
    /// The instruction after it.
    next: u64,
}

/// JMP ptr16:16 and ptr16:32: offset in bits 31:0 of `immediate`, selector above; operand size in `reg`.
pub(crate) fn jump_far<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    transfer(p, direct(p, op, false))
}

/// CALL ptr16:16 and ptr16:32: operands as for [`jump_far`].
pub(crate) fn call_far<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    transfer(p, direct(p, op, true))
}

/// JMP m16:16, m16:32, m16:64: operand size in `reg`.
pub(crate) fn jump_far_indirect<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    let target = indirect(p, op, false)?;
    transfer(p, target)
}

/// CALL m16:16, m16:32, m16:64: operand size in `reg`.
pub(crate) fn call_far_indirect<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    let target = indirect(p, op, true)?;
    transfer(p, target)
}

fn direct<E: Environment>(p: &Processor<E>, op: &Op<E>, call: bool) -> Transfer {
    Transfer {
        call,
        size: op.reg,
        selector: (op.immediate >> 32) as u16,
        offset: op.immediate & 0xffff_ffff,
        next: op.next_rip(&p.cpu),
    }
}

fn indirect<E: Environment>(p: &mut Processor<E>, op: &Op<E>, call: bool) -> Result<Transfer, Stop> {
    let (selector, offset) = read_far_pointer(p, op, op.reg)?;
    Ok(Transfer { call, size: op.reg, selector, offset, next: op.next_rip(&p.cpu) })
}

fn transfer<E: Environment>(p: &mut Processor<E>, t: Transfer) -> Result<(), Stop> {
    if !p.cpu.protected() {
        return real(p, &t);
    }
    if is_null(t.selector) {
        return Err(p.cpu.general_protection());
    }
    let descriptor = Descriptor::load(p, t.selector, Vector::Gp, 0)?;
    if descriptor.is_code() {
        return to_code(p, &t, descriptor);
    }
    // Gates and tasks are used at the level of the weaker of CPL and RPL.
    let level = p.cpu.cpl.max(rpl(t.selector));
    let known = match descriptor.system_kind() {
        Some(kind::CALL_GATE) => true,
        Some(kind::CALL_GATE16 | kind::TASK_GATE | kind::TSS16 | kind::TSS) => !p.cpu.long_mode(),
        _ => false,
    };
    if !known || descriptor.dpl() < level {
        return Err(p.cpu.raise(selector_fault(Vector::Gp, t.selector, 0)));
    }
    if !descriptor.present() {
        return Err(p.cpu.raise(selector_fault(Vector::Np, t.selector, 0)));
    }
    let entry = if t.call { Entry::Call } else { Entry::Jump };
    match descriptor.attributes().kind() {
        kind::TASK_GATE => task::enter(p, descriptor.gate_selector(), entry, t.next),
        kind::TSS16 | kind::TSS => task::enter(p, t.selector, entry, t.next),
        _ => through_gate(p, &t, descriptor),
    }
}

fn real<E: Environment>(p: &mut Processor<E>, t: &Transfer) -> Result<(), Stop> {
    let segment = p.cpu.real_mode_segment(SegmentRegister::Cs, t.selector);
    if t.offset > u64::from(segment.limit) {
        return Err(p.cpu.general_protection());
    }
    if t.call {
        push_return(p, Stack::current(&p.cpu), t.size, t.next)?;
    }
    p.cpu.segments[SegmentRegister::Cs as usize] = segment;
    p.cpu.rip = t.offset;
    p.cpu.derive_mode();
    Ok(())
}

/// Pushes CS and the return pointer and makes the stack the present one.
fn push_return<E: Environment>(
    p: &mut Processor<E>,
    mut stack: Stack,
    size: u8,
    rip: u64,
) -> Result<(), Stop> {
    let selector = p.cpu.segment(SegmentRegister::Cs).selector;
    stack.push(p, size, u64::from(selector))?;
    stack.push(p, size, rip)?;
    stack.commit(&mut p.cpu);
    Ok(())
}

fn to_code<E: Environment>(p: &mut Processor<E>, t: &Transfer, code: Descriptor) -> Result<(), Stop> {
    let cpl = p.cpu.cpl;
    let wrong_level =
        if code.is_conforming_code() { code.dpl() > cpl } else { rpl(t.selector) > cpl || code.dpl() != cpl };
    let both_sizes = is_long(p, code) && code.attributes().contains(Attributes::DEFAULT_BIG);
    if wrong_level || both_sizes {
        return Err(p.cpu.raise(selector_fault(Vector::Gp, t.selector, 0)));
    }
    if !code.present() {
        return Err(p.cpu.raise(selector_fault(Vector::Np, t.selector, 0)));
    }
    check_rip(p, code, t.offset)?;
    code.mark_accessed(p)?;
    if t.call {
        push_return(p, Stack::current(&p.cpu), t.size, t.next)?;
    }
    enter_code(p, code.segment(t.selector), cpl, t.offset);
    Ok(())
}

fn through_gate<E: Environment>(p: &mut Processor<E>, t: &Transfer, gate: Descriptor) -> Result<(), Stop> {
    let selector = gate.gate_selector();
    if is_null(selector) {
        return Err(p.cpu.general_protection());
    }
    let code = Descriptor::load(p, selector, Vector::Gp, 0)?;
    let cpl = p.cpu.cpl;
    let same_level = code.is_conforming_code() || !t.call;
    let wrong_level =
        if same_level && !code.is_conforming_code() { code.dpl() != cpl } else { code.dpl() > cpl };
    let size_bits = code.attributes() & (Attributes::LONG | Attributes::DEFAULT_BIG);
    let wrong_size = p.cpu.long_mode() && size_bits != Attributes::LONG;
    if !code.is_code() || wrong_level || wrong_size {
        return Err(p.cpu.raise(selector_fault(Vector::Gp, selector, 0)));
    }
    if !code.present() {
        return Err(p.cpu.raise(selector_fault(Vector::Np, selector, 0)));
    }
    check_rip(p, code, gate.gate_offset())?;
    code.mark_accessed(p)?;

    let size = match gate.attributes().kind() {
        kind::CALL_GATE16 => 2,
        _ if p.cpu.long_mode() => 8,
        _ => 4,
    };
    let new_cpl = if same_level { cpl } else { code.dpl() };
    if new_cpl < cpl {
        call_inner(p, t, gate, new_cpl, size)?;
    } else if t.call {
        let stack = if p.cpu.long_mode() {
            let ss = *p.cpu.segment(SegmentRegister::Ss);
            Stack::other(ss, p.cpu.gpr[RSP], true, false, Exception::stack(0))
        } else {
            Stack::current(&p.cpu)
        };
        push_return(p, stack, size, t.next)?;
    }
    enter_code(p, code.segment(selector), new_cpl, gate.gate_offset());
    Ok(())
}

/// The part of a call to a more privileged level that changes the stack: switches to it and fills it.
fn call_inner<E: Environment>(
    p: &mut Processor<E>,
    t: &Transfer,
    gate: Descriptor,
    cpl: u8,
    size: u8,
) -> Result<(), Stop> {
    let long = p.cpu.long_mode();
    let (segment, pointer) =
        if long { (null_stack(cpl), inner_stack_pointer(p, cpl, 0)?) } else { inner_stack(p, cpl, 0)? };
    let fault = selector_fault(Vector::Ss, segment.selector, 0);
    let mut stack = Stack::other(segment, pointer, long, true, fault);
    stack.push(p, size, u64::from(p.cpu.segment(SegmentRegister::Ss).selector))?;
    stack.push(p, size, p.cpu.gpr[RSP])?;
    if !long {
        // The caller's parameters keep their order, so the one pushed first is copied first.
        let count = usize::from(gate.gate_parameters());
        let mut parameters = [0; 31];
        let mut old = Stack::current(&p.cpu);
        for parameter in &mut parameters[..count] {
            *parameter = old.pop(p, size)?;
        }
        for &parameter in parameters[..count].iter().rev() {
            stack.push(p, size, parameter)?;
        }
    }
    push_return(p, stack, size, t.next)?;
    p.cpu.segments[SegmentRegister::Ss as usize] = segment;
    Ok(())
}

/// RETF and RETF imm16: operand size in `reg`, bytes of parameters to drop in `immediate`.
pub(crate) fn return_far<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    let (size, parameters) = (op.reg, op.immediate & 0xffff);
    let mut stack = Stack::current(&p.cpu);
    let rip = stack.pop(p, size)?;
    let selector = stack.pop(p, size)? as u16;
    stack.skip(parameters);
    if !p.cpu.protected() {
        let segment = p.cpu.real_mode_segment(SegmentRegister::Cs, selector);
        if rip > u64::from(segment.limit) {
            return Err(p.cpu.general_protection());
        }
        stack.commit(&mut p.cpu);
        p.cpu.segments[SegmentRegister::Cs as usize] = segment;
        p.cpu.rip = rip;
        p.cpu.derive_mode();
        return Ok(());
    }
    let code = check_return_code(p, selector, rip)?;
    let cpl = rpl(selector);
    if cpl == p.cpu.cpl {
        code.mark_accessed(p)?;
        stack.commit(&mut p.cpu);
        enter_code(p, code.segment(selector), cpl, rip);
        return Ok(());
    }
    let pointer = stack.pop(p, size)?;
    let ss = stack.pop(p, size)? as u16;
    let long = is_long(p, code);
    let segment = check_return_stack(p, ss, cpl, long)?;
    code.mark_accessed(p)?;
    switch_stack(&mut p.cpu, segment, pointer.wrapping_add(parameters), long);
    enter_code(p, code.segment(selector), cpl, rip);
    drop_inner_segments(p);
    Ok(())
}
