//! The bases of FS and GS: SWAPGS, RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE (APM volume 3). They exist in 64-bit code only.

use super::require_cpl0;
use crate::cpu::{Cpu, Word, canonical};
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::Stop;
use crate::state::{Cr4, SegmentRegister};

impl Cpu {
    /// Sets the base of FS or GS.
    pub(crate) const fn set_segment_base(&mut self, register: SegmentRegister, base: u64) {
        self.segments[register as usize].base = base;
        self.address_base[register as usize] = base;
    }
}

/// SWAPGS.
pub(crate) fn swapgs<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    if !p.cpu.code64() {
        return Err(p.cpu.undefined_opcode());
    }
    require_cpl0(p)?;
    let base = p.cpu.segment(SegmentRegister::Gs).base;
    let kernel = core::mem::replace(&mut p.cpu.msrs.kernel_gs_base, base);
    p.cpu.set_segment_base(SegmentRegister::Gs, kernel);
    Ok(())
}

const fn register(number: u8) -> SegmentRegister {
    if number == SegmentRegister::Fs as u8 { SegmentRegister::Fs } else { SegmentRegister::Gs }
}

fn require_fsgsbase<E>(p: &mut Processor<E>) -> Result<(), Stop> {
    if p.cpu.code64() && p.cpu.cr4.contains(Cr4::FSGSBASE) { Ok(()) } else { Err(p.cpu.undefined_opcode()) }
}

/// RDFSBASE, RDGSBASE: register `reg`, segment number `rm`.
pub(crate) fn read_base<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    require_fsgsbase(p)?;
    let base = p.cpu.segment(register(op.rm)).base;
    W::set(&mut p.cpu.gpr, op.reg, W::truncate(base));
    Ok(())
}

/// WRFSBASE, WRGSBASE: register `reg`, segment number `rm`.
pub(crate) fn write_base<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    require_fsgsbase(p)?;
    let base = W::get(&p.cpu.gpr, op.reg).zero_extend();
    if !canonical(base) {
        return Err(p.cpu.general_protection());
    }
    p.cpu.set_segment_base(register(op.rm), base);
    Ok(())
}
