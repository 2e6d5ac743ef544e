//! VZEROUPPER and VZEROALL (APM volume 4). Outside of 64-bit code there are eight registers.

use super::unit::{Avx, Unit};
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::Stop;
use crate::state::FpuState;

fn registers<E>(p: &Processor<E>) -> usize {
    if p.cpu.code64() { 16 } else { 8 }
}

/// VZEROUPPER.
pub fn vzeroupper<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Result<(), Stop> {
    Avx::available(&mut p.cpu)?;
    let bytes = 16 * registers(p);
    p.cpu.fpu.ymm_mut()[..bytes].fill(0);
    Ok(())
}

/// VZEROALL.
pub fn vzeroall<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    vzeroupper(p, op)?;
    let bytes = 16 * registers(p);
    p.cpu.fpu.image_mut()[FpuState::XMM_OFFSET..][..bytes].fill(0);
    Ok(())
}
