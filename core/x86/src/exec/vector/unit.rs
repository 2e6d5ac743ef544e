//! Which control bits make which part of the vector unit unavailable (APM volume 2, sections 3.1.1, 8.2.7 and 11.3).

use crate::cpu::Cpu;
use crate::exception::{Exception, Stop};
use crate::state::{Cr0, Cr4};
use crate::vector::x87_exception_pending;

/// The part of the unit that an instruction works on.
pub trait Unit: 'static {
    /// It works on the x87 registers, which are the MMX registers too. Its instructions can leave an x87 exception pending,
    /// and change the register stack when they store.
    const X87_STATE: bool;

    /// Checks that the instruction may execute.
    ///
    /// # Errors
    /// #UD or #NM if it is unavailable, #MF if it waits for x87 exceptions and one is pending.
    fn available(cpu: &mut Cpu) -> Result<(), Stop>;
}

/// x87.
#[derive(Debug)]
pub struct X87;

/// MMX registers only.
#[derive(Debug)]
pub struct Mmx;

/// MMX and XMM registers.
#[derive(Debug)]
pub struct MmxXmm;

/// XMM registers only.
#[derive(Debug)]
pub struct Sse;

impl Unit for X87 {
    const X87_STATE: bool = true;

    #[inline(always)]
    fn available(cpu: &mut Cpu) -> Result<(), Stop> {
        x87_enabled(cpu)?;
        no_x87_exception(cpu)
    }
}

impl Unit for Mmx {
    const X87_STATE: bool = true;

    #[inline(always)]
    fn available(cpu: &mut Cpu) -> Result<(), Stop> {
        if cpu.cr0.intersects(Cr0::EM.union(Cr0::TS)) {
            return Err(unavailable(cpu, Cr4::empty()));
        }
        no_x87_exception(cpu)
    }
}

impl Unit for MmxXmm {
    const X87_STATE: bool = true;

    #[inline(always)]
    fn available(cpu: &mut Cpu) -> Result<(), Stop> {
        Sse::available(cpu)?;
        no_x87_exception(cpu)
    }
}

impl Unit for Sse {
    const X87_STATE: bool = false;

    #[inline(always)]
    fn available(cpu: &mut Cpu) -> Result<(), Stop> {
        if cpu.cr0.intersects(Cr0::EM.union(Cr0::TS)) || !cpu.cr4.contains(Cr4::OSFXSR) {
            return Err(unavailable(cpu, Cr4::OSFXSR));
        }
        Ok(())
    }
}

/// XMM and YMM registers, by instructions that VEX encodes. CR0.EM and CR4.OSFXSR do not matter to them (APM volume 4, section
/// 1.5, table 1-23).
#[derive(Debug)]
pub struct Avx;

impl Unit for Avx {
    const X87_STATE: bool = false;

    #[inline(always)]
    fn available(cpu: &mut Cpu) -> Result<(), Stop> {
        if !cpu.avx_enabled() || !cpu.protected() {
            return Err(cpu.undefined_opcode());
        }
        if cpu.cr0.contains(Cr0::TS) {
            return Err(cpu.raise(Exception::DEVICE_NOT_AVAILABLE));
        }
        Ok(())
    }
}

/// Checks what x87 instructions need that do not wait, FXSAVE and FXRSTOR included.
///
/// # Errors
/// #NM if CR0.EM or CR0.TS is set.
#[inline(always)]
pub fn x87_enabled(cpu: &mut Cpu) -> Result<(), Stop> {
    if cpu.cr0.intersects(Cr0::EM.union(Cr0::TS)) {
        return Err(cpu.raise(Exception::DEVICE_NOT_AVAILABLE));
    }
    Ok(())
}

/// Checks that no unmasked x87 exception is pending.
///
/// Without CR0.NE a PC reports them by interrupt 13 instead, through the FERR# pin. That pin is not modelled: they are
/// raised as #MF either way.
///
/// # Errors
/// #MF.
#[inline(always)]
pub fn no_x87_exception(cpu: &mut Cpu) -> Result<(), Stop> {
    if x87_exception_pending(&cpu.fpu) {
        return Err(cpu.raise(Exception::FLOATING_POINT));
    }
    Ok(())
}

/// #UD if CR0.EM is set or one of the `needed` bits of CR4 is not; #NM otherwise.
#[cold]
fn unavailable(cpu: &mut Cpu, needed: Cr4) -> Stop {
    if cpu.cr0.contains(Cr0::EM) || !cpu.cr4.contains(needed) {
        cpu.undefined_opcode()
    } else {
        cpu.raise(Exception::DEVICE_NOT_AVAILABLE)
    }
}
