//! Hardware task switches (APM volume 2, section 12.4; order of steps: SDM volume 3, section 8.3). Legacy mode only.
//!
//! A switch commits once both TSSs were found good and the old one was written. What goes wrong after that belongs to the
//! new task: the exception is delivered there, before its first instruction.

use super::descriptor::{Descriptor, is_null, kind, rpl, selector_fault};
use super::segment::resolve;
use super::stack::Stack;
use super::{set_cpl, set_rflags};
use crate::environment::{Environment, Processor, Stale};
use crate::exception::{Exception, Stop, Vector};
use crate::state::{Attributes, Cr0, Dr6, Dr7, Rflags, Segment, SegmentRegister};

/// What a task is entered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// A far jump: the old task is left for good.
    Jump,
    /// A far call: the new task returns to the old one.
    Call,
    /// An interrupt or exception through a task gate.
    Interrupt,
    /// IRET with NT set: back to the task in the link field.
    Return,
}

impl Entry {
    const fn nests(self) -> bool {
        matches!(self, Self::Call | Self::Interrupt)
    }
}

/// Where a TSS holds what: the 32-bit or the 16-bit format (APM volume 2, figures 12-5 and 12-6).
struct Layout {
    /// Bytes of a register's field.
    size: u8,
    /// Offset of the instruction pointer; flags, the eight general and the segment registers follow.
    rip: u64,
    segments: u64,
    segment_count: usize,
    ldt: u64,
    /// The last byte offset that a TSS of this format must have.
    last: u32,
}

const LAYOUT32: Layout =
    Layout { size: 4, rip: 0x20, segments: 0x48, segment_count: 6, ldt: 0x60, last: 0x67 };
const LAYOUT16: Layout =
    Layout { size: 2, rip: 0x0e, segments: 0x22, segment_count: 4, ldt: 0x2a, last: 0x2b };

const fn layout_of(attributes: Attributes) -> &'static Layout {
    if attributes.kind() & 8 == 0 { &LAYOUT16 } else { &LAYOUT32 }
}

/// What is read from the incoming TSS before anything is changed.
struct Image {
    cr3: u64,
    rip: u64,
    flags: u64,
    gpr: [u64; 8],
    selectors: [u16; 6],
    ldt: u16,
    /// The T bit: the task raises #DB before its first instruction.
    traps: bool,
}

/// Where the old task goes on when it is entered again, and with which flags.
struct Left {
    rip: u64,
    flags: u64,
}

fn field<E: Environment>(p: &mut Processor<E>, tss: Segment, offset: u64, size: u8) -> Result<u64, Stop> {
    let address = tss.base.wrapping_add(offset) & 0xffff_ffff;
    Ok(match size {
        2 => u64::from(p.env.load_system::<u16>(&mut p.cpu, address)?),
        _ => u64::from(p.env.load_system::<u32>(&mut p.cpu, address)?),
    })
}

fn set_field<E: Environment>(
    p: &mut Processor<E>,
    tss: Segment,
    offset: u64,
    size: u8,
    value: u64,
) -> Result<(), Stop> {
    let address = tss.base.wrapping_add(offset) & 0xffff_ffff;
    // Truncation to the field's size is the TSS format's.
    match size {
        2 => p.env.store_system(&mut p.cpu, address, value as u16),
        _ => p.env.store_system(&mut p.cpu, address, value as u32),
    }
}

fn read_image<E: Environment>(p: &mut Processor<E>, tss: Segment) -> Result<Image, Stop> {
    let layout = layout_of(tss.attributes);
    let step = u64::from(layout.size);
    let wide = layout.size == 4;
    let mut image = Image {
        cr3: if wide { field(p, tss, 0x1c, 4)? } else { p.cpu.cr3 },
        rip: field(p, tss, layout.rip, layout.size)?,
        flags: field(p, tss, layout.rip + step, layout.size)?,
        gpr: [0; 8],
        selectors: [0; 6],
        ldt: field(p, tss, layout.ldt, 2)? as u16,
        traps: wide && field(p, tss, 0x64, 2)? & 1 != 0,
    };
    for (offset, register) in (layout.rip + 2 * step..).step_by(step as usize).zip(&mut image.gpr) {
        *register = field(p, tss, offset, layout.size)?;
    }
    let selectors = image.selectors.iter_mut().take(layout.segment_count);
    for (offset, selector) in (layout.segments..).step_by(step as usize).zip(selectors) {
        *selector = field(p, tss, offset, 2)? as u16;
    }
    Ok(image)
}

fn save<E: Environment>(p: &mut Processor<E>, left: &Left) -> Result<(), Stop> {
    let tss = p.cpu.tr;
    let layout = layout_of(tss.attributes);
    let step = u64::from(layout.size);
    set_field(p, tss, layout.rip, layout.size, left.rip)?;
    set_field(p, tss, layout.rip + step, layout.size, left.flags)?;
    for (number, offset) in (layout.rip + 2 * step..).step_by(step as usize).take(8).enumerate() {
        set_field(p, tss, offset, layout.size, p.cpu.gpr[number])?;
    }
    let offsets = (layout.segments..).step_by(step as usize).take(layout.segment_count);
    for (number, offset) in offsets.enumerate() {
        set_field(p, tss, offset, 2, u64::from(p.cpu.segments[number].selector))?;
    }
    Ok(())
}

/// Finds the TSS descriptor of a task to enter. `invalid` is the exception for what is no available TSS.
fn find<E: Environment>(
    p: &mut Processor<E>,
    selector: u16,
    invalid: Vector,
    busy: bool,
    ext: u32,
) -> Result<Descriptor, Stop> {
    let fault = selector_fault(invalid, selector, ext);
    if selector & 4 != 0 || is_null(selector) {
        return Err(p.cpu.raise(fault));
    }
    let descriptor = Descriptor::load(p, selector, invalid, ext)?;
    let expected = if busy { [kind::TSS16_BUSY, kind::TSS_BUSY] } else { [kind::TSS16, kind::TSS] };
    if !descriptor.system_kind().is_some_and(|kind| expected.contains(&kind)) {
        return Err(p.cpu.raise(fault));
    }
    if !descriptor.present() {
        return Err(p.cpu.raise(selector_fault(Vector::Np, selector, ext)));
    }
    if descriptor.limit() < layout_of(descriptor.attributes()).last {
        return Err(p.cpu.raise(selector_fault(Vector::Ts, selector, ext)));
    }
    Ok(descriptor)
}

/// Enters a task by a jump or call to its TSS or task gate, whose privilege was checked. `return_rip` is where the old
/// task will go on.
pub(super) fn enter<E: Environment>(
    p: &mut Processor<E>,
    selector: u16,
    entry: Entry,
    return_rip: u64,
) -> Result<(), Stop> {
    let descriptor = find(p, selector, Vector::Gp, false, 0)?;
    let left = Left { rip: return_rip, flags: p.cpu.rflags().bits() };
    switch(p, descriptor, selector, entry, &left, 0).map(drop)
}

/// Enters a task through a task gate in the IDT. `flags` are those that another gate would push.
pub(super) fn enter_by_interrupt<E: Environment>(
    p: &mut Processor<E>,
    selector: u16,
    error_code: Option<u32>,
    flags: u64,
    ext: u32,
) -> Result<(), Stop> {
    let descriptor = find(p, selector, Vector::Gp, false, ext)?;
    let left = Left { rip: p.cpu.rip, flags };
    let arrived = switch(p, descriptor, selector, Entry::Interrupt, &left, ext)?;
    if let (true, Some(code)) = (arrived, error_code) {
        let mut stack = Stack::current(&p.cpu).with_fault(Exception::stack(ext));
        match stack.push(p, layout_of(p.cpu.tr.attributes).size, u64::from(code)) {
            Ok(()) => stack.commit(&mut p.cpu),
            Err(Stop::Exception) => {
                p.cpu.deferred = Some(p.cpu.exception);
                return Ok(());
            }
            Err(stop) => return Err(stop),
        }
    }
    Ok(())
}

/// IRET with NT set: goes back to the task in the link field.
pub(super) fn leave<E: Environment>(p: &mut Processor<E>, return_rip: u64) -> Result<(), Stop> {
    let selector = field(p, p.cpu.tr, 0, 2)? as u16;
    let descriptor = find(p, selector, Vector::Ts, true, 0)?;
    let flags = p.cpu.rflags() - Rflags::NT;
    let left = Left { rip: return_rip, flags: flags.bits() };
    switch(p, descriptor, selector, Entry::Return, &left, 0).map(drop)
}

/// Switches tasks. Returns whether the new task runs, rather than an exception in its context waiting to be delivered.
fn switch<E: Environment>(
    p: &mut Processor<E>,
    descriptor: Descriptor,
    selector: u16,
    entry: Entry,
    left: &Left,
    ext: u32,
) -> Result<bool, Stop> {
    let old = p.cpu.tr;
    let new = descriptor.segment(selector);
    let image = read_image(p, new)?;

    save(p, left)?;
    if entry.nests() {
        set_field(p, new, 0, 2, u64::from(old.selector))?;
    } else {
        Descriptor::load(p, old.selector, Vector::Ts, ext)?.set_busy(p, false)?;
    }
    if entry != Entry::Return {
        descriptor.set_busy(p, true)?;
    }

    commit(p, new, &image, entry);
    match load_segments(p, &image, ext) {
        Ok(()) => {
            if image.traps {
                p.cpu.deferred = Some(Exception::debug(Dr6::BT.bits()));
            }
            Ok(true)
        }
        Err(Stop::Exception) => {
            p.cpu.deferred = Some(p.cpu.exception);
            Ok(false)
        }
        Err(stop) => Err(stop),
    }
}

/// Loads everything but the segment descriptors.
fn commit<E: Environment>(p: &mut Processor<E>, new: Segment, image: &Image, entry: Entry) {
    let busy = new.attributes.kind() | kind::BUSY_BIT;
    p.cpu.tr = Segment { attributes: new.attributes.with_kind(busy), ..new };
    p.cpu.cr0 |= Cr0::TS;
    // The local enables of the four breakpoints.
    p.cpu.dr7 = Dr7::from_bits_retain(p.cpu.dr7.bits() & !0x155);
    if p.cpu.cr0.contains(Cr0::PG) {
        p.cpu.cr3 = image.cr3;
        p.env.forget(&p.cpu, Stale::NonGlobal);
    }
    let wide = new.attributes.kind() & 8 != 0;
    for (register, &value) in p.cpu.gpr.iter_mut().zip(&image.gpr) {
        *register = if wide { value } else { *register & !0xffff | value };
    }
    p.cpu.rip = image.rip;
    let mut flags = Rflags::from_bits_truncate(image.flags);
    if entry.nests() {
        flags |= Rflags::NT;
    }
    set_rflags(p, flags);
    for (segment, &selector) in p.cpu.segments.iter_mut().zip(&image.selectors) {
        *segment = Segment { selector, ..Segment::default() };
    }
    p.cpu.ldtr = Segment { selector: image.ldt, ..Segment::default() };
    // The privilege level is the new code's from here on, even if its descriptor turns out to be bad.
    let cpl = if p.cpu.virtual_8086() { 3 } else { rpl(image.selectors[1]) };
    set_cpl(p, cpl);
    p.cpu.derive_mode();
}

fn load_segments<E: Environment>(p: &mut Processor<E>, image: &Image, ext: u32) -> Result<(), Stop> {
    use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};
    load_ldt(p, image.ldt, ext)?;
    for register in [Cs, Ss, Ds, Es, Fs, Gs] {
        let selector = image.selectors[register as usize];
        p.cpu.segments[register as usize] = if register == Cs && p.cpu.protected() {
            resolve_code(p, selector, ext)?
        } else {
            resolve(p, register, selector, Vector::Ts, ext)?
        };
        p.cpu.derive_mode();
    }
    if image.rip > u64::from(p.cpu.segment(Cs).limit) {
        return Err(p.cpu.raise(Exception::general_protection(ext)));
    }
    Ok(())
}

fn load_ldt<E: Environment>(p: &mut Processor<E>, selector: u16, ext: u32) -> Result<(), Stop> {
    if is_null(selector) {
        return Ok(());
    }
    let fault = selector_fault(Vector::Ts, selector, ext);
    if selector & 4 != 0 {
        return Err(p.cpu.raise(fault));
    }
    let descriptor = Descriptor::load(p, selector, Vector::Ts, ext)?;
    if descriptor.system_kind() != Some(kind::LDT) || !descriptor.present() {
        return Err(p.cpu.raise(fault));
    }
    p.cpu.ldtr = descriptor.segment(selector);
    Ok(())
}

fn resolve_code<E: Environment>(p: &mut Processor<E>, selector: u16, ext: u32) -> Result<Segment, Stop> {
    let fault = selector_fault(Vector::Ts, selector, ext);
    if is_null(selector) {
        return Err(p.cpu.raise(fault));
    }
    let code = Descriptor::load(p, selector, Vector::Ts, ext)?;
    let level = rpl(selector);
    let wrong_level = if code.is_conforming_code() { code.dpl() > level } else { code.dpl() != level };
    if !code.is_code() || wrong_level {
        return Err(p.cpu.raise(fault));
    }
    if !code.present() {
        return Err(p.cpu.raise(selector_fault(Vector::Np, selector, ext)));
    }
    code.mark_accessed(p)?;
    Ok(code.segment(selector))
}
