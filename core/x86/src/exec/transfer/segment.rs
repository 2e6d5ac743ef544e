//! Loading ES, SS, DS, FS and GS, with the checks of the present mode (APM volume 2, sections 4.5, 4.11 and 4.12.1).

use super::descriptor::{Descriptor, is_null, rpl, selector_fault};
use super::stack::Stack;
use crate::cpu::{Cpu, Word};
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::{Stop, Vector};
use crate::exec::transfer::delivery::null_stack;
use crate::state::{Attributes, Segment, SegmentRegister};

impl Cpu {
    /// What a segment register holds after a load in real or virtual-8086 mode. In real mode only the base changes, so
    /// that a limit set in protected mode stays.
    pub(crate) fn real_mode_segment(&self, register: SegmentRegister, selector: u16) -> Segment {
        let mut segment = Segment::real_mode(selector);
        if register == SegmentRegister::Cs {
            segment.attributes |= Attributes::CODE;
        }
        if self.virtual_8086() {
            segment.attributes = segment.attributes.with_dpl(3);
        } else {
            let old = self.segment(register);
            let kept = Attributes::AVAILABLE | Attributes::DEFAULT_BIG | Attributes::GRANULARITY;
            segment.attributes |= old.attributes & kept;
            if old.attributes.contains(Attributes::PRESENT) {
                segment.limit = old.limit;
            }
        }
        segment
    }
}

/// Loads a segment register other than CS.
///
/// # Errors
/// #GP, #NP or #SS with the selector, #PF.
pub fn load_segment<E: Environment>(
    p: &mut Processor<E>,
    register: SegmentRegister,
    selector: u16,
) -> Result<(), Stop> {
    let segment = resolve(p, register, selector, Vector::Gp, 0)?;
    p.cpu.segments[register as usize] = segment;
    p.cpu.derive_mode();
    Ok(())
}

/// What a segment register other than CS is to hold for a selector. `invalid` is the exception for one that breaks a
/// rule: #GP, or #TS during a task switch. `ext` is for the error codes of what it raises.
pub(super) fn resolve<E: Environment>(
    p: &mut Processor<E>,
    register: SegmentRegister,
    selector: u16,
    invalid: Vector,
    ext: u32,
) -> Result<Segment, Stop> {
    if !p.cpu.protected() {
        Ok(p.cpu.real_mode_segment(register, selector))
    } else if register == SegmentRegister::Ss {
        resolve_stack(p, selector, invalid, ext)
    } else if is_null(selector) {
        Ok(Segment { selector, ..Segment::default() })
    } else {
        let descriptor = Descriptor::load(p, selector, invalid, ext)?;
        let level = p.cpu.cpl.max(rpl(selector));
        if !descriptor.is_readable() || !descriptor.is_conforming_code() && descriptor.dpl() < level {
            return Err(p.cpu.raise(selector_fault(invalid, selector, ext)));
        }
        if !descriptor.present() {
            return Err(p.cpu.raise(selector_fault(Vector::Np, selector, ext)));
        }
        descriptor.mark_accessed(p)?;
        Ok(descriptor.segment(selector))
    }
}

fn resolve_stack<E: Environment>(
    p: &mut Processor<E>,
    selector: u16,
    invalid: Vector,
    ext: u32,
) -> Result<Segment, Stop> {
    let cpl = p.cpu.cpl;
    if is_null(selector) {
        // 64-bit code above level 3 runs without a stack segment.
        return if p.cpu.code64() && cpl < 3 && rpl(selector) == cpl {
            Ok(null_stack(cpl))
        } else {
            Err(p.cpu.raise(selector_fault(invalid, selector, ext)))
        };
    }
    let descriptor = Descriptor::load(p, selector, invalid, ext)?;
    if rpl(selector) != cpl || descriptor.dpl() != cpl || !descriptor.is_writable_data() {
        return Err(p.cpu.raise(selector_fault(invalid, selector, ext)));
    }
    if !descriptor.present() {
        return Err(p.cpu.raise(selector_fault(Vector::Ss, selector, ext)));
    }
    descriptor.mark_accessed(p)?;
    Ok(descriptor.segment(selector))
}

/// The segment register of an encoding number that may be loaded: CS and the two free numbers may not.
fn loadable<E>(p: &mut Processor<E>, number: u8) -> Result<SegmentRegister, Stop> {
    match SegmentRegister::ALL.get(usize::from(number)) {
        None | Some(SegmentRegister::Cs) => Err(p.cpu.undefined_opcode()),
        Some(&register) => Ok(register),
    }
}

/// Loads a segment register for MOV and POP: interrupts and debug exceptions wait for one instruction after SS, so that its pointer
/// can follow (SDM volume 3, section 6.8.3).
fn load_with_shadow<E: Environment>(p: &mut Processor<E>, number: u8, selector: u16) -> Result<(), Stop> {
    let register = loadable(p, number)?;
    load_segment(p, register, selector)?;
    if register == SegmentRegister::Ss {
        p.cpu.pending.interrupt_shadow = true;
        p.cpu.pending.debug_shadow = Some(0);
    }
    Ok(())
}

/// MOV Sreg, r: segment `reg`, register `rm`.
pub(crate) fn mov_to_segment<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    load_with_shadow(p, op.reg, u16::get(&p.cpu.gpr, op.rm))
}

/// MOV Sreg, m16: segment `reg`.
pub(crate) fn mov_to_segment_from_memory<E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
) -> Result<(), Stop> {
    let linear = op.linear(p, 2, false)?;
    let selector = p.env.load::<u16>(&mut p.cpu, op.segment, linear)?;
    load_with_shadow(p, op.reg, selector)
}

fn selector_of<E>(p: &mut Processor<E>, number: u8) -> Result<u16, Stop> {
    let segment = p.cpu.segments.get(usize::from(number)).map(|segment| segment.selector);
    segment.ok_or_else(|| p.cpu.undefined_opcode())
}

/// MOV r, Sreg: register `reg`, segment `rm`, operand size in bytes in `immediate`; wide registers are zero-extended.
pub(crate) fn mov_from_segment<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    let selector = selector_of(p, op.rm)?;
    if op.immediate == 2 {
        u16::set(&mut p.cpu.gpr, op.reg, selector);
    } else {
        u64::set(&mut p.cpu.gpr, op.reg, u64::from(selector));
    }
    Ok(())
}

/// MOV m16, Sreg: segment `rm`.
pub(crate) fn mov_from_segment_to_memory<E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
) -> Result<(), Stop> {
    let selector = selector_of(p, op.rm)?;
    let linear = op.linear(p, 2, true)?;
    p.env.store(&mut p.cpu, op.segment, linear, selector)
}

/// POP Sreg: segment `reg`, operand size in bytes in `immediate`.
pub(crate) fn pop_segment<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    let mut stack = Stack::current(&p.cpu);
    let selector = stack.pop(p, op.immediate as u8)? as u16;
    load_with_shadow(p, op.reg, selector)?;
    stack.commit(&mut p.cpu);
    Ok(())
}

/// LDS, LES, LFS, LGS, LSS: register `reg`, segment `rm`, operand size in bytes in `immediate`.
pub(crate) fn load_far_pointer<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    let register = loadable(p, op.rm)?;
    let (selector, offset) = read_far_pointer(p, op, op.immediate as u8)?;
    load_segment(p, register, selector)?;
    match op.immediate {
        2 => u16::set(&mut p.cpu.gpr, op.reg, offset as u16),
        4 => u32::set(&mut p.cpu.gpr, op.reg, offset as u32),
        _ => u64::set(&mut p.cpu.gpr, op.reg, offset),
    }
    Ok(())
}

/// Reads a far pointer operand: selector and offset of `size` (2, 4 or 8) bytes.
pub(super) fn read_far_pointer<E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
    size: u8,
) -> Result<(u16, u64), Stop> {
    let linear = op.linear(p, size + 2, false)?;
    let mut bytes = [0; 10];
    let length = usize::from(size) + 2;
    p.env.load_bytes(&mut p.cpu, op.segment, linear, &mut bytes[..length])?;
    let (offset, selector) = bytes[..length].split_at(usize::from(size));
    let mut wide = [0; 8];
    wide[..offset.len()].copy_from_slice(offset);
    Ok((u16::from_le_bytes([selector[0], selector[1]]), u64::from_le_bytes(wide)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exception::Exception;

    #[test]
    fn a_real_mode_load_keeps_a_limit_from_protected_mode() {
        let mut cpu = Cpu::new(crate::cpuid::CpuModel::default());
        cpu.segments[SegmentRegister::Ds as usize] = Segment::flat(8, Attributes::from_bits_retain(0xc93));
        let segment = cpu.real_mode_segment(SegmentRegister::Ds, 0x1234);
        assert_eq!((segment.base, segment.limit), (0x12340, u32::MAX));
    }

    #[test]
    fn null_selectors_are_those_with_index_zero_in_the_gdt() {
        assert!(is_null(0) && is_null(3) && !is_null(4) && !is_null(8));
        assert_eq!(selector_fault(Vector::Gp, 0xb, 1), Exception::general_protection(9));
    }
}
