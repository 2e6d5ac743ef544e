//! SYSCALL, SYSRET, SYSENTER, SYSEXIT (APM volume 2, section 6.1; volume 3). As on AMD's processors, SYSENTER and SYSEXIT
//! do not exist in long mode, and SYSCALL enters the kernel from compatibility mode as well.

use super::{require_cpl0, require_protected};
use crate::cpu::Mode;
use crate::cpu::word::{R11, RCX, RDX, RSP};
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::{Exception, Stop};
use crate::exec::transfer::{enter_code, set_rflags};
use crate::state::{Attributes, Cr0, Dr6, Efer, Rflags, Segment, SegmentRegister};

/// A flat code segment as these instructions load it, without a descriptor.
fn code(selector: u16, dpl: u8, long: bool) -> Segment {
    let size = if long { Attributes::LONG } else { Attributes::DEFAULT_BIG };
    let attributes = Attributes::from_bits_retain(0x9b) | Attributes::GRANULARITY | size;
    Segment::flat(selector, attributes.with_dpl(dpl))
}

/// A flat stack segment as these instructions load it.
fn stack(selector: u16, dpl: u8) -> Segment {
    let attributes = Attributes::from_bits_retain(0x93) | Attributes::GRANULARITY | Attributes::DEFAULT_BIG;
    Segment::flat(selector, attributes.with_dpl(dpl))
}

/// Continues at privilege level `cpl` with these segments.
fn enter<E: Environment>(p: &mut Processor<E>, cs: Segment, ss: Segment, cpl: u8, rip: u64) {
    p.cpu.segments[SegmentRegister::Ss as usize] = ss;
    enter_code(p, cs, cpl, rip);
}

/// CS and SS as SYSCALL loads them in long mode, with this STAR.
#[must_use]
pub fn syscall_segments(star: u64) -> (Segment, Segment) {
    let selector = (star >> 32) as u16 & !3;
    (code(selector, 0, true), stack(selector.wrapping_add(8), 0))
}

/// CS and SS as SYSRET loads them on the way to 64-bit code (`long`), or else to code of 32 bits, with this STAR.
#[must_use]
pub fn sysret_segments(star: u64, long: bool) -> (Segment, Segment) {
    let selector = (star >> 48) as u16 | 3;
    (code(selector.wrapping_add(if long { 16 } else { 0 }), 3, long), stack(selector.wrapping_add(8), 3))
}

fn require_syscall<E>(p: &mut Processor<E>) -> Result<(), Stop> {
    require_protected(p)?;
    if p.cpu.efer.contains(Efer::SCE) { Ok(()) } else { Err(p.cpu.undefined_opcode()) }
}

/// SYSCALL.
pub(crate) fn syscall<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    require_syscall(p)?;
    let next = op.next_rip(&p.cpu);
    let star = p.cpu.msrs.star;
    let (cs, ss) = syscall_segments(star);
    let flags = p.cpu.rflags() - Rflags::RF;
    p.cpu.gpr[RCX] = next;
    if p.cpu.long_mode() {
        let rip = if p.cpu.mode.contains(Mode::LONG) { p.cpu.msrs.lstar } else { p.cpu.msrs.cstar };
        p.cpu.gpr[R11] = flags.bits();
        let kept = Rflags::from_bits_truncate(flags.bits() & !p.cpu.msrs.sfmask);
        set_rflags(p, kept);
        enter(p, cs, ss, 0, rip);
    } else {
        set_rflags(p, flags - Rflags::IF);
        enter(p, code(cs.selector, 0, false), ss, 0, star & 0xffff_ffff);
    }
    Ok(())
}

/// SYSRET: `immediate` is 8 to return to 64-bit code, else 4.
pub(crate) fn sysret<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    require_syscall(p)?;
    require_cpl0(p)?;
    let long = op.immediate == 8;
    let flags = if p.cpu.long_mode() {
        Rflags::from_bits_truncate(p.cpu.gpr[R11]) - (Rflags::RF | Rflags::VM)
    } else {
        p.cpu.rflags() | Rflags::IF
    };
    if flags.contains(Rflags::TF) && !p.cpu.system_flags.contains(Rflags::TF) {
        // Unlike what IRET and POPF set, it traps before the instruction that is returned to (APM volume 2, section 13.1.4).
        p.cpu.deferred = Some(Exception::debug(Dr6::BS.bits()));
    }
    set_rflags(p, flags);
    let (cs, ss) = sysret_segments(p.cpu.msrs.star, long);
    let rip = if long { p.cpu.gpr[RCX] } else { p.cpu.gpr[RCX] & 0xffff_ffff };
    enter(p, cs, ss, 3, rip);
    Ok(())
}

/// The selector that SYSENTER's segments start from.
fn sysenter_selector<E>(p: &mut Processor<E>) -> Result<u16, Stop> {
    if p.cpu.long_mode() {
        return Err(p.cpu.undefined_opcode());
    }
    let selector = p.cpu.msrs.sysenter_cs as u16 & !3;
    if !p.cpu.cr0.contains(Cr0::PE) || selector == 0 {
        return Err(p.cpu.general_protection());
    }
    Ok(selector)
}

/// SYSENTER.
pub(crate) fn sysenter<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    let selector = sysenter_selector(p)?;
    let flags = p.cpu.rflags() - (Rflags::IF | Rflags::RF | Rflags::VM);
    set_rflags(p, flags);
    p.cpu.gpr[RSP] = p.cpu.msrs.sysenter_esp & 0xffff_ffff;
    let rip = p.cpu.msrs.sysenter_eip & 0xffff_ffff;
    enter(p, code(selector, 0, false), stack(selector.wrapping_add(8), 0), 0, rip);
    Ok(())
}

/// SYSEXIT.
pub(crate) fn sysexit<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    let selector = sysenter_selector(p)?;
    require_cpl0(p)?;
    p.cpu.gpr[RSP] = p.cpu.gpr[RCX] & 0xffff_ffff;
    let rip = p.cpu.gpr[RDX] & 0xffff_ffff;
    let (cs, ss) = (selector.wrapping_add(16) | 3, selector.wrapping_add(24) | 3);
    enter(p, code(cs, 3, false), stack(ss, 3), 3, rip);
    Ok(())
}
