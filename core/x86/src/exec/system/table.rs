//! The descriptor-table registers: LGDT, LIDT, SGDT, SIDT, LLDT, LTR, SLDT, STR (APM volume 2, section 4.6; volume 3).

use super::{forbid_by_umip, require_cpl0, require_protected};
use crate::cpu::{Word, canonical};
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::{Exception, Stop, Vector};
use crate::exec::transfer::descriptor::{Descriptor, is_null, kind, selector_fault};
use crate::state::{DescriptorTable, Segment};

/// Reads a table register's memory form: a 16-bit limit and a base of 3, 4 or 8 bytes as `immediate` says.
fn read_table<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<DescriptorTable, Stop> {
    require_cpl0(p)?;
    let size = if op.immediate == 8 { 10 } else { 6 };
    let linear = op.linear(p, size, false)?;
    let mut bytes = [0; 10];
    p.env.load_bytes(&mut p.cpu, op.segment, linear, &mut bytes[..usize::from(size)])?;
    let [l0, l1, base @ ..] = bytes;
    let mut base = u64::from_le_bytes(base);
    if op.immediate == 3 {
        base &= 0xff_ffff;
    }
    if !canonical(base) {
        return Err(p.cpu.general_protection());
    }
    Ok(DescriptorTable { base, limit: u16::from_le_bytes([l0, l1]) })
}

/// Writes a table register's memory form; the base has 8 bytes if `immediate` says so, else 4.
fn write_table<E: Environment>(p: &mut Processor<E>, op: &Op<E>, table: DescriptorTable) -> Result<(), Stop> {
    forbid_by_umip(p)?;
    let size = if op.immediate == 8 { 10 } else { 6 };
    let linear = op.linear(p, size, true)?;
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
    bytes[2..].copy_from_slice(&table.base.to_le_bytes());
    p.env.store_bytes(&mut p.cpu, op.segment, linear, &bytes[..usize::from(size)])
}

/// LGDT.
pub(crate) fn lgdt<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    p.env.fence();
    p.cpu.gdtr = read_table(p, op)?;
    Ok(())
}

/// LIDT.
pub(crate) fn lidt<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    p.env.fence();
    p.cpu.idtr = read_table(p, op)?;
    Ok(())
}

/// SGDT.
pub(crate) fn sgdt<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    write_table(p, op, p.cpu.gdtr)
}

/// SIDT.
pub(crate) fn sidt<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    write_table(p, op, p.cpu.idtr)
}

/// The selector operand of LLDT, LTR, LAR and their like: register `rm`, or memory.
pub(super) fn selector_operand<const MEMORY: bool, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
) -> Result<u16, Stop> {
    if !MEMORY {
        return Ok(u16::get(&p.cpu.gpr, op.rm));
    }
    let linear = op.linear(p, 2, false)?;
    p.env.load::<u16>(&mut p.cpu, op.segment, linear)
}

/// The system descriptor that LLDT or LTR loads.
fn load_system_descriptor<E: Environment>(
    p: &mut Processor<E>,
    selector: u16,
    accepts: impl Fn(u8) -> bool,
) -> Result<Descriptor, Stop> {
    let invalid = selector_fault(Vector::Gp, selector, 0);
    if selector & 4 != 0 {
        return Err(p.cpu.raise(invalid));
    }
    let descriptor = Descriptor::load(p, selector, Vector::Gp, 0)?;
    if !descriptor.system_kind().is_some_and(accepts) {
        return Err(p.cpu.raise(invalid));
    }
    if !descriptor.present() {
        return Err(p.cpu.raise(selector_fault(Vector::Np, selector, 0)));
    }
    if !canonical(descriptor.base()) {
        return Err(p.cpu.raise(invalid));
    }
    Ok(descriptor)
}

/// LLDT.
pub(crate) fn lldt<const MEMORY: bool, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    p.env.fence();
    require_protected(p)?;
    require_cpl0(p)?;
    let selector = selector_operand::<MEMORY, E>(p, op)?;
    p.cpu.ldtr = if is_null(selector) {
        Segment { selector, ..Segment::default() }
    } else {
        load_system_descriptor(p, selector, |kind| kind == kind::LDT)?.segment(selector)
    };
    Ok(())
}

/// LTR.
pub(crate) fn ltr<const MEMORY: bool, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    p.env.fence();
    require_protected(p)?;
    require_cpl0(p)?;
    let selector = selector_operand::<MEMORY, E>(p, op)?;
    if is_null(selector) {
        return Err(p.cpu.raise(Exception::general_protection(0)));
    }
    let legacy = !p.cpu.long_mode();
    let available = |kind| kind == kind::TSS || kind == kind::TSS16 && legacy;
    let descriptor = load_system_descriptor(p, selector, available)?;
    descriptor.set_busy(p, true)?;
    let mut tr = descriptor.segment(selector);
    tr.attributes = tr.attributes.with_kind(tr.attributes.kind() | kind::BUSY_BIT);
    p.cpu.tr = tr;
    Ok(())
}

/// Stores a selector in register `reg` with the operand size in `immediate`, or in 16 bits of memory.
fn store_selector<const MEMORY: bool, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
    selector: u16,
) -> Result<(), Stop> {
    require_protected(p)?;
    forbid_by_umip(p)?;
    if MEMORY {
        let linear = op.linear(p, 2, true)?;
        return p.env.store(&mut p.cpu, op.segment, linear, selector);
    }
    if op.immediate == 2 {
        u16::set(&mut p.cpu.gpr, op.reg, selector);
    } else {
        u64::set(&mut p.cpu.gpr, op.reg, u64::from(selector));
    }
    Ok(())
}

/// SLDT.
pub(crate) fn sldt<const MEMORY: bool, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    store_selector::<MEMORY, E>(p, op, p.cpu.ldtr.selector)
}

/// STR.
pub(crate) fn str<const MEMORY: bool, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    store_selector::<MEMORY, E>(p, op, p.cpu.tr.selector)
}
