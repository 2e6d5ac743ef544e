//! XGETBV and XSETBV (APM volume 4; SDM volume 1, section 13.3).

use super::identity::set_edx_eax;
use super::require_cpl0;
use crate::cpu::Word;
use crate::cpu::word::{RAX, RCX, RDX};
use crate::decode::Op;
use crate::environment::{Environment, Processor, Stale};
use crate::exception::Stop;
use crate::state::{Cr4, Xcr0};
use crate::vector;

fn require_osxsave<E>(p: &mut Processor<E>) -> Result<(), Stop> {
    if p.cpu.cr4.contains(Cr4::OSXSAVE) { Ok(()) } else { Err(p.cpu.undefined_opcode()) }
}

/// XGETBV: XCR0, or with ECX = 1 those of its components that are in use.
pub(crate) fn xgetbv<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    require_osxsave(p)?;
    let value = match u32::truncate(p.cpu.gpr[RCX]) {
        0 => p.cpu.xcr0,
        1 => p.cpu.xcr0 & vector::in_use(&p.cpu.fpu),
        _ => return Err(p.cpu.general_protection()),
    };
    set_edx_eax(p, value.bits());
    Ok(())
}

/// XSETBV.
pub(crate) fn xsetbv<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    require_osxsave(p)?;
    require_cpl0(p)?;
    let low = p.cpu.gpr[RAX] & 0xffff_ffff;
    let value = Xcr0::from_bits_retain(p.cpu.gpr[RDX] << 32 | low);
    let valid = u32::truncate(p.cpu.gpr[RCX]) == 0
        && value.contains(Xcr0::X87)
        && (value.contains(Xcr0::SSE) || !value.contains(Xcr0::AVX))
        && p.cpu.model.xcr0_bits().contains(value);
    if !valid {
        return Err(p.cpu.general_protection());
    }
    p.cpu.xcr0 = value;
    // It decides how translated code keeps the vector registers.
    p.env.forget(&p.cpu, Stale::Privilege);
    Ok(())
}
