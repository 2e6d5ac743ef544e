//! String instructions and their repetition (APM volume 3: MOVS, STOS, LODS, CMPS, SCAS, INS, OUTS).
//!
//! Each iteration is complete before the next begins, so a fault or a device access leaves the registers pointing at the
//! element concerned. Long repetitions stop now and then ([`Stop::Restart`]) to let interrupts in.

use super::alu::{Binary, Cmp};
use super::system::{check_io, port_in, port_out};
use crate::cpu::word::{RAX, RCX, RDI, RDX, RSI};
use crate::cpu::{Cpu, Word};
use crate::decode::{Op, OpFlags};
use crate::environment::{Environment, Processor};
use crate::exception::Stop;
use crate::state::{Rflags, SegmentRegister};

type Outcome = Result<(), Stop>;
const ES: SegmentRegister = SegmentRegister::Es;

/// Iterations, or fast-path calls of up to a page each, between two looks at waiting interrupts.
const ROUNDS: u32 = 64;

#[inline(always)]
fn step<W: Word>(cpu: &Cpu) -> u64 {
    let bytes = u64::from(W::BYTES);
    if cpu.system_flags.contains(Rflags::DF) { bytes.wrapping_neg() } else { bytes }
}

#[inline(always)]
fn advance(cpu: &mut Cpu, slot: usize, by: u64, mask: u64) {
    let value = cpu.gpr[slot].wrapping_add(by);
    cpu.set_masked(slot, value, mask);
}

/// Runs `body` once, or as often as the REP prefix and rCX say. `body` gets the elements left and returns how many it did
/// and whether to go on.
#[inline(always)]
fn repeat<E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
    mut body: impl FnMut(&mut Processor<E>, u64) -> Result<(u64, bool), Stop>,
) -> Outcome {
    if !op.flags.intersects(OpFlags::REP | OpFlags::REPNE) {
        return body(p, 1).map(|_| ());
    }
    let mask = op.address_mask();
    // A debugger sees each iteration.
    let is_debugged = p.cpu.system_flags.contains(Rflags::TF) || p.cpu.breakpoints_enabled();
    let rounds = if is_debugged { 1 } else { ROUNDS };
    for _ in 0..rounds {
        let left = p.cpu.gpr[RCX] & mask;
        if left == 0 {
            return Ok(());
        }
        let (done, more) = body(p, left)?;
        p.env.retire();
        p.cpu.set_masked(RCX, left - done, mask);
        if left == done || !more {
            return Ok(());
        }
    }
    Err(Stop::Restart)
}

#[inline(always)]
fn source<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<u64, Stop> {
    let offset = p.cpu.gpr[RSI] & op.address_mask();
    p.cpu.linear(op.segment, offset, u64::from(W::BYTES), false)
}

#[inline(always)]
fn destination<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>, write: bool) -> Result<u64, Stop> {
    let offset = p.cpu.gpr[RDI] & op.address_mask();
    p.cpu.linear(ES, offset, u64::from(W::BYTES), write)
}

/// Whether the bulk path may be tried: upwards, in 64-bit code, where no limit can lie between two elements.
#[inline(always)]
fn bulk<E: Environment>(p: &Processor<E>, op: &Op<E>, left: u64) -> bool {
    left > 1
        && p.cpu.code64()
        && op.address_mask() == u64::MAX
        && !p.cpu.system_flags.intersects(Rflags::DF | Rflags::TF)
}

/// MOVS.
pub fn movs<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let mask = op.address_mask();
    repeat(p, op, |p, left| {
        let from = source::<W, E>(p, op)?;
        let to = destination::<W, E>(p, op, true)?;
        let mut done = 0;
        if bulk(p, op, left) {
            done = p.env.copy_elements::<W>(&mut p.cpu, from, to, left);
        }
        if done == 0 {
            let value = p.env.load::<W>(&mut p.cpu, op.segment, from)?;
            p.env.store::<W>(&mut p.cpu, ES, to, value)?;
            done = 1;
        }
        let by = step::<W>(&p.cpu).wrapping_mul(done);
        advance(&mut p.cpu, RSI, by, mask);
        advance(&mut p.cpu, RDI, by, mask);
        Ok((done, true))
    })
}

/// STOS.
pub fn stos<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let mask = op.address_mask();
    let value = W::truncate(p.cpu.gpr[RAX]);
    repeat(p, op, |p, left| {
        let to = destination::<W, E>(p, op, true)?;
        let mut done = 0;
        if bulk(p, op, left) {
            done = p.env.fill_elements::<W>(&mut p.cpu, to, value, left);
        }
        if done == 0 {
            p.env.store::<W>(&mut p.cpu, ES, to, value)?;
            done = 1;
        }
        let by = step::<W>(&p.cpu).wrapping_mul(done);
        advance(&mut p.cpu, RDI, by, mask);
        Ok((done, true))
    })
}

/// LODS.
pub fn lods<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let mask = op.address_mask();
    repeat(p, op, |p, _| {
        let from = source::<W, E>(p, op)?;
        let value = p.env.load::<W>(&mut p.cpu, op.segment, from)?;
        W::set(&mut p.cpu.gpr, RAX as u8, value);
        let by = step::<W>(&p.cpu);
        advance(&mut p.cpu, RSI, by, mask);
        Ok((1, true))
    })
}

/// Whether a comparing repetition goes on: REPE while equal, REPNE while not.
#[inline(always)]
fn goes_on<E: Environment>(p: &Processor<E>, op: &Op<E>) -> bool {
    p.cpu.flags.zf() != op.flags.contains(OpFlags::REPNE)
}

/// CMPS.
pub fn cmps<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let mask = op.address_mask();
    repeat(p, op, |p, _| {
        // In this order, which shows if both fault.
        let with = destination::<W, E>(p, op, false)?;
        let b = p.env.load::<W>(&mut p.cpu, ES, with)?;
        let from = source::<W, E>(p, op)?;
        let a = p.env.load::<W>(&mut p.cpu, op.segment, from)?;
        p.cpu.flags = Cmp::apply(p.cpu.flags, a, b).1;
        let by = step::<W>(&p.cpu);
        advance(&mut p.cpu, RSI, by, mask);
        advance(&mut p.cpu, RDI, by, mask);
        Ok((1, goes_on(p, op)))
    })
}

/// SCAS.
pub fn scas<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let mask = op.address_mask();
    repeat(p, op, |p, _| {
        let with = destination::<W, E>(p, op, false)?;
        let b = p.env.load::<W>(&mut p.cpu, ES, with)?;
        p.cpu.flags = Cmp::apply(p.cpu.flags, W::truncate(p.cpu.gpr[RAX]), b).1;
        let by = step::<W>(&p.cpu);
        advance(&mut p.cpu, RDI, by, mask);
        Ok((1, goes_on(p, op)))
    })
}

/// INS.
pub fn ins<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let mask = op.address_mask();
    let port = p.cpu.gpr[RDX] as u16;
    check_io(p, port, W::BYTES)?;
    repeat(p, op, |p, _| {
        let to = destination::<W, E>(p, op, true)?;
        // The port is read only once the page is known to take the value.
        p.env.update::<W>(&mut p.cpu, ES, to, false, |_| None)?;
        let value = port_in(p, port, W::BYTES)?;
        p.env.store::<W>(&mut p.cpu, ES, to, W::truncate(u64::from(value)))?;
        let by = step::<W>(&p.cpu);
        advance(&mut p.cpu, RDI, by, mask);
        Ok((1, true))
    })
}

/// OUTS.
pub fn outs<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let mask = op.address_mask();
    let port = p.cpu.gpr[RDX] as u16;
    check_io(p, port, W::BYTES)?;
    repeat(p, op, |p, _| {
        let from = source::<W, E>(p, op)?;
        let value = p.env.load::<W>(&mut p.cpu, op.segment, from)?;
        port_out(p, port, W::BYTES, value.zero_extend() as u32)?;
        let by = step::<W>(&p.cpu);
        advance(&mut p.cpu, RSI, by, mask);
        Ok((1, true))
    })
}
