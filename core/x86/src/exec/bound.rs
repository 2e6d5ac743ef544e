//! BOUND (APM volume 3).

use crate::cpu::Word;
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::{Exception, Stop, Vector};

/// BOUND: #BR if the signed index is outside the two bounds in memory.
pub fn bound<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<(), Stop> {
    let linear = op.linear(p, 2 * W::BYTES, false)?;
    let lower = p.env.load::<W>(&mut p.cpu, op.segment, linear)?.sign_extend() as i64;
    let second = linear.wrapping_add(u64::from(W::BYTES));
    let upper = p.env.load::<W>(&mut p.cpu, op.segment, second)?.sign_extend() as i64;
    let index = W::get(&p.cpu.gpr, op.reg).sign_extend() as i64;
    if (lower..=upper).contains(&index) { Ok(()) } else { Err(p.cpu.raise(Exception::plain(Vector::Br))) }
}
