//! What the processor says of itself, of time and of chance: CPUID, RDTSC, RDTSCP, RDPID, RDPMC, RDRAND, RDSEED
//! (APM volume 3).

use crate::cpu::word::{RAX, RBX, RCX, RDX};
use crate::cpu::{LazyFlags, Word};
use crate::cpuid::CpuidContext;
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::Stop;
use crate::state::{Cr4, Rflags};

/// CPUID.
pub(crate) fn cpuid<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    p.env.fence();
    let context = CpuidContext::new(&p.cpu, p.env.apic_id());
    let function = u32::truncate(p.cpu.gpr[RAX]);
    let index = u32::truncate(p.cpu.gpr[RCX]);
    let result = p.cpu.model.leaf(function, index, &context);
    p.cpu.gpr[RAX] = u64::from(result.eax);
    p.cpu.gpr[RBX] = u64::from(result.ebx);
    p.cpu.gpr[RCX] = u64::from(result.ecx);
    p.cpu.gpr[RDX] = u64::from(result.edx);
    Ok(())
}

/// Puts a 64-bit value into EDX:EAX.
pub(super) fn set_edx_eax<E>(p: &mut Processor<E>, value: u64) {
    p.cpu.gpr[RAX] = value & 0xffff_ffff;
    p.cpu.gpr[RDX] = value >> 32;
}

/// The guest's time-stamp counter.
pub(super) fn time_stamp<E: Environment>(p: &mut Processor<E>) -> u64 {
    p.env.timestamp().wrapping_add(p.cpu.msrs.tsc_offset)
}

fn read_time_stamp<E: Environment>(p: &mut Processor<E>) -> Result<(), Stop> {
    if p.cpu.cr4.contains(Cr4::TSD) && p.cpu.cpl != 0 {
        return Err(p.cpu.general_protection());
    }
    let value = time_stamp(p);
    set_edx_eax(p, value);
    Ok(())
}

/// RDTSC.
pub(crate) fn rdtsc<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    read_time_stamp(p)
}

/// RDTSCP.
pub(crate) fn rdtscp<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    read_time_stamp(p)?;
    p.cpu.gpr[RCX] = p.cpu.msrs.tsc_aux & 0xffff_ffff;
    Ok(())
}

/// RDPID: register `reg`.
pub(crate) fn rdpid<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    let value = p.cpu.msrs.tsc_aux & 0xffff_ffff;
    u64::set(&mut p.cpu.gpr, op.reg, value);
    Ok(())
}

/// RDPMC: no model has performance counters, so that every number is wrong.
pub(crate) fn rdpmc<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    Err(p.cpu.general_protection())
}

/// RDRAND and RDSEED: register `reg`. There always is a number, so that CF is set and the other flags are clear.
pub(crate) fn random<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    let value = p.env.random();
    W::set(&mut p.cpu.gpr, op.reg, W::truncate(value));
    p.cpu.flags = LazyFlags::from_bits(Rflags::CF);
    Ok(())
}
