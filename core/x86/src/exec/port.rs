//! IN and OUT (APM volume 3).

use super::system::{check_io, port_in, port_out};
use crate::cpu::Word;
use crate::cpu::word::{RAX, RDX};
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::Stop;

/// The port: an immediate, or DX.
#[inline(always)]
fn port<const BY_DX: bool, E: Environment>(p: &Processor<E>, op: &Op<E>) -> u16 {
    if BY_DX { p.cpu.gpr[RDX] as u16 } else { op.immediate as u16 & 0xff }
}

/// IN.
pub fn input<const BY_DX: bool, W: Word, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
) -> Result<(), Stop> {
    let port = port::<BY_DX, E>(p, op);
    check_io(p, port, W::BYTES)?;
    let value = port_in(p, port, W::BYTES)?;
    W::set(&mut p.cpu.gpr, RAX as u8, W::truncate(u64::from(value)));
    Ok(())
}

/// OUT.
pub fn output<const BY_DX: bool, W: Word, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
) -> Result<(), Stop> {
    let port = port::<BY_DX, E>(p, op);
    check_io(p, port, W::BYTES)?;
    port_out(p, port, W::BYTES, W::truncate(p.cpu.gpr[RAX]).zero_extend() as u32)
}
