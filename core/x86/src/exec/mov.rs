//! Data movement: MOV, MOVZX, MOVSX, LEA, XCHG, CMOVcc, SETcc, BSWAP, sign extensions, XLAT (APM volume 3).

use super::condition::holds;
use crate::cpu::Word;
use crate::cpu::word::{RAX, RBX, RDX};
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::Stop;

type Outcome = Result<(), Stop>;

/// MOV register, register.
pub fn mov_rr<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let value = W::get(&p.cpu.gpr, op.rm);
    W::set(&mut p.cpu.gpr, op.reg, value);
    Ok(())
}

/// MOV register, immediate.
pub fn mov_ri<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    W::set(&mut p.cpu.gpr, op.reg, W::truncate(op.immediate));
    Ok(())
}

/// MOV register, memory.
pub fn mov_rm<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, W::BYTES, false)?;
    let value = p.env.load::<W>(&mut p.cpu, op.segment, linear)?;
    W::set(&mut p.cpu.gpr, op.reg, value);
    Ok(())
}

/// MOV memory, register.
pub fn mov_mr<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, W::BYTES, true)?;
    let value = W::get(&p.cpu.gpr, op.reg);
    p.env.store::<W>(&mut p.cpu, op.segment, linear, value)
}

/// MOV memory, immediate.
pub fn mov_mi<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, W::BYTES, true)?;
    p.env.store::<W>(&mut p.cpu, op.segment, linear, W::truncate(op.immediate))
}

/// MOVZX register, register: from `S` to `W`.
pub fn movzx_rr<S: Word, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let value = S::get(&p.cpu.gpr, op.rm).zero_extend();
    W::set(&mut p.cpu.gpr, op.reg, W::truncate(value));
    Ok(())
}

/// MOVZX register, memory.
pub fn movzx_rm<S: Word, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, S::BYTES, false)?;
    let value = p.env.load::<S>(&mut p.cpu, op.segment, linear)?.zero_extend();
    W::set(&mut p.cpu.gpr, op.reg, W::truncate(value));
    Ok(())
}

/// MOVSX and MOVSXD register, register.
pub fn movsx_rr<S: Word, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let value = S::get(&p.cpu.gpr, op.rm).sign_extend();
    W::set(&mut p.cpu.gpr, op.reg, W::truncate(value));
    Ok(())
}

/// MOVSX and MOVSXD register, memory.
pub fn movsx_rm<S: Word, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, S::BYTES, false)?;
    let value = p.env.load::<S>(&mut p.cpu, op.segment, linear)?.sign_extend();
    W::set(&mut p.cpu.gpr, op.reg, W::truncate(value));
    Ok(())
}

/// LEA.
pub fn lea<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let address = op.effective_address(&p.cpu);
    W::set(&mut p.cpu.gpr, op.reg, W::truncate(address));
    Ok(())
}

/// XCHG register, register.
pub fn xchg_rr<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let (a, b) = (W::get(&p.cpu.gpr, op.reg), W::get(&p.cpu.gpr, op.rm));
    W::set(&mut p.cpu.gpr, op.reg, b);
    W::set(&mut p.cpu.gpr, op.rm, a);
    Ok(())
}

/// XCHG memory, register: always locked.
pub fn xchg_mr<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, W::BYTES, true)?;
    let new = W::get(&p.cpu.gpr, op.reg);
    let old = p.env.update::<W>(&mut p.cpu, op.segment, linear, true, |_| Some(new))?;
    W::set(&mut p.cpu.gpr, op.reg, old);
    Ok(())
}

/// CMOVcc register, register. A 32-bit destination is zero-extended either way.
pub fn cmov_rr<const CODE: u8, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let from = if holds::<CODE>(p.cpu.flags) { op.rm } else { op.reg };
    let value = W::get(&p.cpu.gpr, from);
    W::set(&mut p.cpu.gpr, op.reg, value);
    Ok(())
}

/// CMOVcc register, memory: the memory is read either way.
pub fn cmov_rm<const CODE: u8, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, W::BYTES, false)?;
    let loaded = p.env.load::<W>(&mut p.cpu, op.segment, linear)?;
    let value = if holds::<CODE>(p.cpu.flags) { loaded } else { W::get(&p.cpu.gpr, op.reg) };
    W::set(&mut p.cpu.gpr, op.reg, value);
    Ok(())
}

/// SETcc register.
pub fn set_r<const CODE: u8, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let value = u8::from(holds::<CODE>(p.cpu.flags));
    u8::set(&mut p.cpu.gpr, op.reg, value);
    Ok(())
}

/// SETcc memory.
pub fn set_m<const CODE: u8, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, 1, true)?;
    let value = u8::from(holds::<CODE>(p.cpu.flags));
    p.env.store::<u8>(&mut p.cpu, op.segment, linear, value)
}

/// BSWAP. With a 16-bit operand, which the manual leaves undefined, processors give zero.
pub fn bswap<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let swapped = match W::BYTES {
        2 => 0,
        _ => W::get(&p.cpu.gpr, op.reg).zero_extend().swap_bytes() >> (64 - W::BITS),
    };
    W::set(&mut p.cpu.gpr, op.reg, W::truncate(swapped));
    Ok(())
}

/// CBW, CWDE and CDQE: the accumulator's lower half `S` is sign-extended to `W`.
pub fn extend_accumulator<S: Word, W: Word, E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    let value = S::truncate(p.cpu.gpr[RAX]).sign_extend();
    W::set(&mut p.cpu.gpr, RAX as u8, W::truncate(value));
    Ok(())
}

/// CWD, CDQ and CQO: rDX becomes the sign of rAX.
pub fn extend_into_rdx<W: Word, E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    let sign = (W::truncate(p.cpu.gpr[RAX]).sign_extend() as i64 >> 63) as u64;
    W::set(&mut p.cpu.gpr, RDX as u8, W::truncate(sign));
    Ok(())
}

/// XLAT: AL from the table at rBX.
pub fn xlat<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let offset = p.cpu.gpr[RBX].wrapping_add(p.cpu.gpr[RAX] & 0xff) & op.address_mask();
    let linear = p.cpu.linear(op.segment, offset, 1, false)?;
    let value = p.env.load::<u8>(&mut p.cpu, op.segment, linear)?;
    u8::set(&mut p.cpu.gpr, RAX as u8, value);
    Ok(())
}

/// Instructions without an effect here: NOP, PREFETCH, ENDBR.
pub fn nop<E: Environment>(_: &mut Processor<E>, _: &Op<E>) -> Outcome {
    Ok(())
}

/// PAUSE.
pub fn pause<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    p.env.pause();
    Ok(())
}

/// MFENCE; SFENCE and LFENCE order less. Translated code's own stores may be non-temporal.
pub fn fence<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    p.env.fence();
    Ok(())
}
