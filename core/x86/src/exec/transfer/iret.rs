//! IRET in all modes (APM volume 3, IRETx; volume 2, sections 8.7.4 and 8.9.5).

use super::descriptor::{Descriptor, is_null, rpl, selector_fault};
use super::stack::{Stack, switch_stack};
use super::{enter_code, set_cpl, set_rflags, task};
use crate::cpu::canonical;
use crate::cpu::word::RSP;
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::{Exception, Stop, Vector};
use crate::exec::transfer::delivery::null_stack;
use crate::state::{Attributes, Rflags, Segment, SegmentRegister};

/// IRET, IRETD, IRETQ: operand size in bytes in `immediate`.
pub(crate) fn interrupt_return<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    p.env.fence();
    let size = op.immediate as u8;
    if p.cpu.protected() {
        if !p.cpu.system_flags.contains(Rflags::NT) {
            protected(p, size)?;
        } else if p.cpu.long_mode() {
            return Err(p.cpu.general_protection());
        } else {
            task::leave(p, op.next_rip(&p.cpu))?;
        }
    } else {
        real_or_virtual_8086(p, size)?;
    }
    p.cpu.pending.nmi_blocked = false;
    Ok(())
}

/// The flags after a return that pops `image` of `size` bytes with the privilege of the returning code.
fn returned_flags<E>(p: &Processor<E>, image: u64, size: u8) -> Rflags {
    let mut changeable = Rflags::STATUS | Rflags::TF | Rflags::DF | Rflags::NT;
    if size > 2 {
        changeable |= Rflags::RF | Rflags::AC | Rflags::ID;
    }
    if p.cpu.cpl == 0 {
        changeable |= Rflags::IOPL;
        if size > 2 && p.cpu.protected() {
            changeable |= Rflags::VIF | Rflags::VIP;
        }
    }
    if p.cpu.cpl <= p.cpu.system_flags.iopl() {
        changeable |= Rflags::IF;
    }
    Rflags::from_bits_truncate(image) & changeable | p.cpu.rflags() & !changeable
}

fn real_or_virtual_8086<E: Environment>(p: &mut Processor<E>, size: u8) -> Result<(), Stop> {
    if p.cpu.virtual_8086() && p.cpu.system_flags.iopl() < 3 {
        return Err(p.cpu.general_protection());
    }
    let mut stack = Stack::current(&p.cpu);
    let rip = stack.pop(p, size)?;
    let selector = stack.pop(p, size)? as u16;
    let image = stack.pop(p, size)?;
    let segment = p.cpu.real_mode_segment(SegmentRegister::Cs, selector);
    if rip > u64::from(segment.limit) {
        return Err(p.cpu.general_protection());
    }
    let flags = returned_flags(p, image, size);
    stack.commit(&mut p.cpu);
    set_rflags(p, flags);
    p.cpu.segments[SegmentRegister::Cs as usize] = segment;
    p.cpu.rip = rip;
    p.cpu.derive_mode();
    Ok(())
}

fn protected<E: Environment>(p: &mut Processor<E>, size: u8) -> Result<(), Stop> {
    let mut stack = Stack::current(&p.cpu);
    let rip = stack.pop(p, size)?;
    let selector = stack.pop(p, size)? as u16;
    let image = stack.pop(p, size)?;
    let to_virtual_8086 = size == 4 && Rflags::from_bits_truncate(image).contains(Rflags::VM);
    if to_virtual_8086 && p.cpu.cpl == 0 && !p.cpu.long_mode() {
        return virtual_8086(p, stack, rip, selector, image);
    }
    let code = check_return_code(p, selector, rip)?;
    let cpl = rpl(selector);
    let outer = cpl > p.cpu.cpl;
    let flags = returned_flags(p, image, size);
    if outer || p.cpu.code64() {
        let pointer = stack.pop(p, size)?;
        let ss = stack.pop(p, size)? as u16;
        let long = is_long(p, code);
        let segment = check_return_stack(p, ss, cpl, long)?;
        code.mark_accessed(p)?;
        switch_stack(&mut p.cpu, segment, pointer, long);
    } else {
        code.mark_accessed(p)?;
        stack.commit(&mut p.cpu);
    }
    set_rflags(p, flags);
    enter_code(p, code.segment(selector), cpl, rip);
    if outer {
        drop_inner_segments(p);
    }
    Ok(())
}

/// Whether a code segment holds 64-bit code.
pub(super) fn is_long<E>(p: &Processor<E>, code: Descriptor) -> bool {
    p.cpu.long_mode() && code.attributes().contains(Attributes::LONG)
}

/// Checks an instruction pointer against the code segment that it is to be used in.
pub(super) fn check_rip<E>(p: &mut Processor<E>, code: Descriptor, rip: u64) -> Result<(), Stop> {
    let valid = if is_long(p, code) { canonical(rip) } else { rip <= u64::from(code.limit()) };
    if valid { Ok(()) } else { Err(p.cpu.general_protection()) }
}

/// The code segment to return to, checked; its RPL becomes the privilege level.
pub(super) fn check_return_code<E: Environment>(
    p: &mut Processor<E>,
    selector: u16,
    rip: u64,
) -> Result<Descriptor, Stop> {
    let invalid = selector_fault(Vector::Gp, selector, 0);
    if is_null(selector) {
        return Err(p.cpu.raise(Exception::general_protection(0)));
    }
    let code = Descriptor::load(p, selector, Vector::Gp, 0)?;
    let level = rpl(selector);
    let wrong_level = if code.is_conforming_code() { code.dpl() > level } else { code.dpl() != level };
    let both_sizes = is_long(p, code) && code.attributes().contains(Attributes::DEFAULT_BIG);
    if !code.is_code() || level < p.cpu.cpl || wrong_level || both_sizes {
        return Err(p.cpu.raise(invalid));
    }
    if !code.present() {
        return Err(p.cpu.raise(selector_fault(Vector::Np, selector, 0)));
    }
    check_rip(p, code, rip)?;
    Ok(code)
}

/// The stack segment to return to at privilege level `cpl`, checked. 64-bit code above level 3 may have none.
pub(super) fn check_return_stack<E: Environment>(
    p: &mut Processor<E>,
    selector: u16,
    cpl: u8,
    long: bool,
) -> Result<Segment, Stop> {
    if is_null(selector) {
        return if long && cpl < 3 && rpl(selector) == cpl {
            Ok(null_stack(cpl))
        } else {
            Err(p.cpu.general_protection())
        };
    }
    let stack = Descriptor::load(p, selector, Vector::Gp, 0)?;
    if rpl(selector) != cpl || stack.dpl() != cpl || !stack.is_writable_data() {
        return Err(p.cpu.raise(selector_fault(Vector::Gp, selector, 0)));
    }
    if !stack.present() {
        return Err(p.cpu.raise(selector_fault(Vector::Ss, selector, 0)));
    }
    stack.mark_accessed(p)?;
    Ok(stack.segment(selector))
}

/// After a return to an outer level: data segments that it may not use become null.
pub(super) fn drop_inner_segments<E>(p: &mut Processor<E>) {
    use SegmentRegister::{Ds, Es, Fs, Gs};
    let cpl = p.cpu.cpl;
    for register in [Es, Ds, Fs, Gs] {
        let segment = &mut p.cpu.segments[register as usize];
        let a = segment.attributes;
        let conforming = a.contains(Attributes::CODE | Attributes::EXPAND_DOWN_OR_CONFORMING);
        if a.contains(Attributes::PRESENT) && !conforming && a.dpl() < cpl {
            *segment = Segment::default();
        }
    }
    p.cpu.derive_mode();
}

/// IRETD at privilege level 0 with VM set in the popped flags.
fn virtual_8086<E: Environment>(
    p: &mut Processor<E>,
    mut stack: Stack,
    rip: u64,
    code: u16,
    image: u64,
) -> Result<(), Stop> {
    use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};
    let pointer = stack.pop(p, 4)?;
    let mut selectors = [(Cs, code), (Ss, 0), (Es, 0), (Ds, 0), (Fs, 0), (Gs, 0)];
    for (_, selector) in &mut selectors[1..] {
        *selector = stack.pop(p, 4)? as u16;
    }
    if rip > 0xffff {
        return Err(p.cpu.general_protection());
    }
    set_rflags(p, Rflags::from_bits_truncate(image));
    for (register, selector) in selectors {
        p.cpu.segments[register as usize] = p.cpu.real_mode_segment(register, selector);
    }
    p.cpu.gpr[RSP] = pointer;
    p.cpu.rip = rip;
    set_cpl(p, 3);
    p.cpu.derive_mode();
    Ok(())
}
