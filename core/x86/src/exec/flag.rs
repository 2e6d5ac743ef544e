//! Single flags and decimal arithmetic (APM volume 3: CLC, STC, CMC, CLD, STD, LAHF, SAHF, SALC, AAA, AAS, AAD, AAM,
//! DAA, DAS).

use crate::cpu::word::{HIGH_BYTE, RAX};
use crate::cpu::{LazyFlags, Word};
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::{Exception, Stop};
use crate::state::Rflags;

type Outcome = Result<(), Stop>;
const AL: u8 = RAX as u8;
const AH: u8 = HIGH_BYTE | AL;

/// CLC.
pub fn clc<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    p.cpu.flags.set_cf(false);
    Ok(())
}

/// STC.
pub fn stc<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    p.cpu.flags.set_cf(true);
    Ok(())
}

/// CMC.
pub fn cmc<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    let cf = p.cpu.flags.cf();
    p.cpu.flags.set_cf(!cf);
    Ok(())
}

/// CLD.
pub fn cld<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    p.cpu.system_flags.remove(Rflags::DF);
    Ok(())
}

/// STD.
pub fn std<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    p.cpu.system_flags.insert(Rflags::DF);
    Ok(())
}

/// LAHF.
pub fn lahf<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    let flags = p.cpu.flags.bits() | Rflags::FIXED;
    u8::set(&mut p.cpu.gpr, AH, flags.bits() as u8);
    Ok(())
}

/// SAHF.
pub fn sahf<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    let ah = Rflags::from_bits_truncate(u64::from(u8::get(&p.cpu.gpr, AH)));
    let of = p.cpu.flags.bits() & Rflags::OF;
    p.cpu.flags = LazyFlags::from_bits(ah & Rflags::STATUS | of);
    Ok(())
}

/// SALC: AL becomes all ones or all zeros after CF.
pub fn salc<E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    let value = if p.cpu.flags.cf() { 0xff } else { 0 };
    u8::set(&mut p.cpu.gpr, AL, value);
    Ok(())
}

/// AAA (`ADD`) and AAS.
pub fn ascii_adjust<const ADD: bool, E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    let ax = u16::get(&p.cpu.gpr, AL);
    let adjust = ax & 0xf > 9 || p.cpu.flags.af();
    let adjusted = match (adjust, ADD) {
        (false, _) => ax,
        (true, true) => ax.wrapping_add(0x106),
        (true, false) => ax.wrapping_sub(0x106),
    } & 0xff0f;
    u16::set(&mut p.cpu.gpr, AL, adjusted);
    p.cpu.flags = LazyFlags::from_parts(adjusted as u8, adjust, false, adjust);
    Ok(())
}

/// DAA (`ADD`) and DAS.
pub fn decimal_adjust<const ADD: bool, E: Environment>(p: &mut Processor<E>, _: &Op<E>) -> Outcome {
    let al = u8::get(&p.cpu.gpr, AL);
    let old_cf = p.cpu.flags.cf();
    let low = al & 0xf > 9 || p.cpu.flags.af();
    let high = al > 0x99 || old_cf;
    let correction = if low { 6 } else { 0 } + if high { 0x60 } else { 0 };
    let result = if ADD { al.wrapping_add(correction) } else { al.wrapping_sub(correction) };
    // A borrow of the low digit's correction also sets CF (APM volume 3, DAS).
    let cf = high || !ADD && low && al < 6;
    u8::set(&mut p.cpu.gpr, AL, result);
    p.cpu.flags = LazyFlags::from_parts(result, cf, false, low);
    Ok(())
}

/// AAD.
pub fn aad<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let (al, ah) = (u8::get(&p.cpu.gpr, AL), u8::get(&p.cpu.gpr, AH));
    let result = al.wrapping_add(ah.wrapping_mul(op.immediate as u8));
    u16::set(&mut p.cpu.gpr, AL, u16::from(result));
    p.cpu.flags = LazyFlags::logic(result);
    Ok(())
}

/// AAM.
pub fn aam<E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let (al, base) = (u8::get(&p.cpu.gpr, AL), op.immediate as u8);
    if base == 0 {
        return Err(p.cpu.raise(Exception::DIVIDE_ERROR));
    }
    u8::set(&mut p.cpu.gpr, AH, al / base);
    u8::set(&mut p.cpu.gpr, AL, al % base);
    p.cpu.flags = LazyFlags::logic(al % base);
    Ok(())
}
