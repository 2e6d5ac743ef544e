//! Control registers: MOV CRn, CLTS, LMSW, SMSW (APM volume 2, sections 3.1, 5.1 and 14.6; volume 3).

use super::{forbid_by_umip, require_cpl0};
use crate::cpu::Word;
use crate::decode::Op;
use crate::environment::{Environment, Processor, Stale};
use crate::exception::Stop;
use crate::paging::PHYSICAL_ADDRESS_BITS;
use crate::state::{Attributes, Cr0, Cr4, Efer, SegmentRegister};

/// CR3, bit 63 of the value written with PCIDs: the translations of the new PCID may be kept.
const CR3_KEEP: u64 = 1 << 63;
/// CR3: the process-context identifier.
const CR3_PCID: u64 = 0xfff;

/// MOV r, CRn: register `reg`, control register number `rm`.
pub(crate) fn mov_from_control<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    let value = match op.rm {
        0 => p.cpu.cr0.bits(),
        2 => p.cpu.cr2,
        3 => p.cpu.cr3,
        4 => p.cpu.cr4.bits(),
        8 => u64::from(p.env.task_priority()),
        _ => return Err(p.cpu.undefined_opcode()),
    };
    require_cpl0(p)?;
    if p.cpu.code64() {
        u64::set(&mut p.cpu.gpr, op.reg, value);
    } else {
        u32::set(&mut p.cpu.gpr, op.reg, u32::truncate(value));
    }
    Ok(())
}

/// MOV CRn, r: control register number `reg`, register `rm`.
pub(crate) fn mov_to_control<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    p.env.fence();
    if !matches!(op.reg, 0 | 2 | 3 | 4 | 8) {
        return Err(p.cpu.undefined_opcode());
    }
    require_cpl0(p)?;
    let value =
        if p.cpu.code64() { u64::get(&p.cpu.gpr, op.rm) } else { u64::from(u32::get(&p.cpu.gpr, op.rm)) };
    match op.reg {
        0 => set_cr0(p, value),
        2 => {
            p.cpu.cr2 = value;
            Ok(())
        }
        3 => set_cr3(p, value),
        4 => set_cr4(p, value),
        _ => {
            let priority = u8::try_from(value).ok().filter(|priority| *priority < 16);
            let priority = priority.ok_or_else(|| p.cpu.general_protection())?;
            p.env.set_task_priority(priority);
            Ok(())
        }
    }
}

/// CLTS.
pub(crate) fn clts<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    require_cpl0(p)?;
    p.cpu.cr0 -= Cr0::TS;
    Ok(())
}

/// The low word of CR0 that LMSW writes: PE, MP, EM, TS. PE can be set and not cleared.
fn load_machine_status<E: Environment>(p: &mut Processor<E>, value: u16) -> Result<(), Stop> {
    let old = p.cpu.cr0.bits();
    set_cr0(p, old & !0xe | u64::from(value & 0xf))
}

/// LMSW r16: register `rm`.
pub(crate) fn lmsw<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    require_cpl0(p)?;
    let value = u16::get(&p.cpu.gpr, op.rm);
    load_machine_status(p, value)
}

/// LMSW m16.
pub(crate) fn lmsw_memory<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    require_cpl0(p)?;
    let linear = op.linear(p, 2, false)?;
    let value = p.env.load::<u16>(&mut p.cpu, op.segment, linear)?;
    load_machine_status(p, value)
}

/// SMSW r: register `reg`, operand size in bytes in `immediate`.
pub(crate) fn smsw<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    forbid_by_umip(p)?;
    let value = p.cpu.cr0.bits();
    if op.immediate == 2 {
        u16::set(&mut p.cpu.gpr, op.reg, u16::truncate(value));
    } else {
        u64::set(&mut p.cpu.gpr, op.reg, value);
    }
    Ok(())
}

/// SMSW m16.
pub(crate) fn smsw_memory<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    forbid_by_umip(p)?;
    let linear = op.linear(p, 2, true)?;
    let value = u16::truncate(p.cpu.cr0.bits());
    p.env.store(&mut p.cpu, op.segment, linear, value)
}

fn set_cr0<E: Environment>(p: &mut Processor<E>, value: u64) -> Result<(), Stop> {
    let new = Cr0::from_bits_truncate(value) | Cr0::ET;
    let old = p.cpu.cr0;
    let impossible = value >> 32 != 0
        || new.contains(Cr0::PG) && !new.contains(Cr0::PE)
        || new.contains(Cr0::NW) && !new.contains(Cr0::CD);
    if impossible {
        return Err(p.cpu.general_protection());
    }
    let mut efer = p.cpu.efer;
    if (old ^ new).contains(Cr0::PG) && efer.contains(Efer::LME) {
        // Long mode starts and ends in compatibility or protected-mode code.
        let cs = p.cpu.segment(SegmentRegister::Cs);
        let in_64_bit_segment = cs.attributes.contains(Attributes::LONG);
        let forbidden = if new.contains(Cr0::PG) {
            !p.cpu.cr4.contains(Cr4::PAE) || in_64_bit_segment
        } else {
            in_64_bit_segment || p.cpu.cr4.contains(Cr4::PCIDE)
        };
        if forbidden {
            return Err(p.cpu.general_protection());
        }
        efer.set(Efer::LMA, new.contains(Cr0::PG));
    }
    p.cpu.cr0 = new;
    p.cpu.efer = efer;
    let changed = old ^ new;
    // Cached translations say what may be done to a page; that depends on WP.
    if changed.intersects(Cr0::PG | Cr0::PE | Cr0::WP) {
        p.env.forget(&p.cpu, Stale::All);
        p.cpu.derive_mode();
    } else if changed.contains(Cr0::AM) {
        p.env.forget(&p.cpu, Stale::Privilege);
    }
    Ok(())
}

fn set_cr3<E: Environment>(p: &mut Processor<E>, value: u64) -> Result<(), Stop> {
    let pcids = p.cpu.cr4.contains(Cr4::PCIDE);
    let reserved = u64::MAX << PHYSICAL_ADDRESS_BITS & !if pcids { CR3_KEEP } else { 0 };
    if p.cpu.long_mode() && value & reserved != 0 {
        return Err(p.cpu.general_protection());
    }
    p.cpu.cr3 = value & !CR3_KEEP;
    p.env.forget(&p.cpu, Stale::NonGlobal);
    Ok(())
}

fn set_cr4<E: Environment>(p: &mut Processor<E>, value: u64) -> Result<(), Stop> {
    let new = Cr4::from_bits_retain(value);
    let old = p.cpu.cr4;
    let long_mode = p.cpu.long_mode();
    let enables_pcids = new.contains(Cr4::PCIDE) && !old.contains(Cr4::PCIDE);
    let forbidden = !p.cpu.model.cr4_bits().contains(new)
        || long_mode && !new.contains(Cr4::PAE)
        || enables_pcids && (!long_mode || p.cpu.cr3 & CR3_PCID != 0);
    if forbidden {
        return Err(p.cpu.general_protection());
    }
    p.cpu.cr4 = new;
    let changed = old ^ new;
    if changed.intersects(Cr4::PGE | Cr4::PSE | Cr4::PAE | Cr4::PCIDE | Cr4::SMEP | Cr4::SMAP) {
        p.env.forget(&p.cpu, Stale::All);
    }
    Ok(())
}
