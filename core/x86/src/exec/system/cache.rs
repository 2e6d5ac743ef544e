//! Translations and caches: INVLPG, INVPCID, WBINVD, INVD, CLFLUSH (APM volume 2, sections 5.5 and 7.6; volume 3).
//!
//! Guests' memory is always coherent, so that emptying data caches has nothing to do.

use super::require_cpl0;
use crate::cpu::{Word, canonical};
use crate::decode::Op;
use crate::environment::{Environment, Processor, Stale};
use crate::exception::Stop;
use crate::state::Cr4;

/// INVLPG. The address is taken as it is: neither limits nor canonical form are checked.
pub(crate) fn invlpg<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    p.env.fence();
    require_cpl0(p)?;
    let linear = p.cpu.address_base[op.segment as usize].wrapping_add(op.effective_address(&p.cpu));
    let linear = if p.cpu.code64() { linear } else { linear & 0xffff_ffff };
    p.env.forget(&p.cpu, Stale::Page(linear));
    Ok(())
}

/// INVPCID: type in register `reg`, descriptor in memory. Translations of other PCIDs than the present one are not kept
/// by any engine, so that only the present one's matter.
pub(crate) fn invpcid<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    p.env.fence();
    require_cpl0(p)?;
    let linear = op.linear(p, 16, false)?;
    let mut bytes = [[0; 8]; 2];
    p.env.load_bytes(&mut p.cpu, op.segment, linear, bytes.as_flattened_mut())?;
    let [pcid, address] = bytes.map(u64::from_le_bytes);
    let kind =
        if p.cpu.code64() { u64::get(&p.cpu.gpr, op.reg) } else { u64::from(u32::get(&p.cpu.gpr, op.reg)) };
    let names_pcid = kind < 2;
    let valid = kind < 4
        && pcid >> 12 == 0
        && (!names_pcid || pcid == 0 || p.cpu.cr4.contains(Cr4::PCIDE))
        && (kind != 0 || canonical(address));
    if !valid {
        return Err(p.cpu.general_protection());
    }
    let stale = match kind {
        0 => Stale::Page(address),
        2 => Stale::All,
        _ => Stale::NonGlobal,
    };
    p.env.forget(&p.cpu, stale);
    Ok(())
}

/// WBINVD, INVD, and WBNOINVD, which is WBINVD where it does not exist.
pub(crate) fn wbinvd<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    require_cpl0(p)?;
    p.env.fence();
    Ok(())
}

/// CLFLUSH: faults like a load of one byte.
pub(crate) fn clflush<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    let linear = op.linear(p, 1, false)?;
    p.env.load::<u8>(&mut p.cpu, op.segment, linear)?;
    Ok(())
}
