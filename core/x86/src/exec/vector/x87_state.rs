//! x87 control and its environment in memory (APM volume 5).
//!
//! FINIT, FCLEX, FSTCW, FSTSW, FSTENV and FSAVE are an FWAIT followed by the instruction without it.

use super::area::store_image;
use super::unit::{Unit, X87, no_x87_exception, x87_enabled};
use crate::cpu::word::RAX;
use crate::cpu::{Cpu, Word};
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::{Exception, Stop};
use crate::state::Cr0;
use crate::vector::{self, EnvironmentFormat};

type Outcome = Result<(), Stop>;

/// FWAIT: CR0.MP decides whether it minds CR0.TS; CR0.EM does not matter.
pub fn fwait<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    if p.cpu.cr0.contains(Cr0::MP | Cr0::TS) {
        return Err(p.cpu.raise(Exception::DEVICE_NOT_AVAILABLE));
    }
    no_x87_exception(&mut p.cpu)
}

/// FNENI, FNDISI and FNSETPM, which do nothing since the 80387.
pub fn ignored<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    x87_enabled(&mut p.cpu)
}

/// FNINIT.
pub fn fninit<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    x87_enabled(&mut p.cpu)?;
    vector::fninit(&mut p.cpu.fpu);
    Ok(())
}

/// FNCLEX.
pub fn fnclex<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    x87_enabled(&mut p.cpu)?;
    vector::fnclex(&mut p.cpu.fpu);
    Ok(())
}

/// FLDCW.
pub fn fldcw<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    X87::available(&mut p.cpu)?;
    let linear = op.linear(p, 2, false)?;
    let value = p.env.load::<u16>(&mut p.cpu, op.segment, linear)?;
    vector::fldcw(&mut p.cpu.fpu, value);
    Ok(())
}

/// FNSTCW.
pub fn fnstcw<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    x87_enabled(&mut p.cpu)?;
    let linear = op.linear(p, 2, true)?;
    let value = p.cpu.fpu.fcw();
    p.env.store::<u16>(&mut p.cpu, op.segment, linear, value)
}

/// FNSTSW memory.
pub fn fnstsw_m<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    x87_enabled(&mut p.cpu)?;
    let linear = op.linear(p, 2, true)?;
    let value = p.cpu.fpu.fsw();
    p.env.store::<u16>(&mut p.cpu, op.segment, linear, value)
}

/// FNSTSW AX.
pub fn fnstsw_ax<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    x87_enabled(&mut p.cpu)?;
    u16::set(&mut p.cpu.gpr, RAX as u8, p.cpu.fpu.fsw());
    Ok(())
}

/// FNSTENV with an operand size of type `W`: 16 or 32 bits.
pub fn fnstenv<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    x87_enabled(&mut p.cpu)?;
    let format = format::<W>(&p.cpu);
    let image = vector::fnstenv(&p.cpu.fpu, format);
    let linear = address(p, op, format.environment_size(), true)?;
    store_image(p, op, linear, format.environment_size(), &image)?;
    vector::mask_x87_exceptions(&mut p.cpu.fpu);
    Ok(())
}

/// FNSAVE.
pub fn fnsave<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    x87_enabled(&mut p.cpu)?;
    let format = format::<W>(&p.cpu);
    let image = vector::fnsave(&p.cpu.fpu, format);
    let linear = address(p, op, format.state_size(), true)?;
    store_image(p, op, linear, format.state_size(), &image)?;
    vector::fninit(&mut p.cpu.fpu);
    Ok(())
}

/// FLDENV.
pub fn fldenv<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    X87::available(&mut p.cpu)?;
    let format = format::<W>(&p.cpu);
    let linear = address(p, op, format.environment_size(), false)?;
    let mut bytes = [0; EnvironmentFormat::Protected32.environment_size()];
    let bytes = &mut bytes[..format.environment_size()];
    p.env.load_bytes(&mut p.cpu, op.segment, linear, bytes)?;
    vector::fldenv(&mut p.cpu.fpu, format, bytes);
    Ok(())
}

/// FRSTOR.
pub fn frstor<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    X87::available(&mut p.cpu)?;
    let format = format::<W>(&p.cpu);
    let linear = address(p, op, format.state_size(), false)?;
    let mut bytes = [0; EnvironmentFormat::Protected32.state_size()];
    let bytes = &mut bytes[..format.state_size()];
    p.env.load_bytes(&mut p.cpu, op.segment, linear, bytes)?;
    vector::frstor(&mut p.cpu.fpu, format, bytes);
    Ok(())
}

fn format<W: Word>(cpu: &Cpu) -> EnvironmentFormat {
    match (cpu.protected(), W::BYTES) {
        (false, 2) => EnvironmentFormat::Real16,
        (false, _) => EnvironmentFormat::Real32,
        (true, 2) => EnvironmentFormat::Protected16,
        (true, _) => EnvironmentFormat::Protected32,
    }
}

/// The linear address of an operand of `size` bytes.
fn address<E: Environment>(p: &mut Processor<E>, op: &Op<E>, size: usize, write: bool) -> Result<u64, Stop> {
    let offset = op.effective_address(&p.cpu);
    p.cpu.linear(op.segment, offset, size as u64, write)
}
