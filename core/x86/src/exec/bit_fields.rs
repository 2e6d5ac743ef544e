//! BMI1, BMI2, LZCNT, MOVBE and ADX on general registers (APM volume 3; ADX: SDM volume 2).
//!
//! `op.reg` is the destination, `op.rm` the operand that always is a register, `op.extra` the register of the other one, which
//! may be memory.

use crate::cpu::word::RDX;
use crate::cpu::{LazyFlags, Word};
use crate::decode::Op;
use crate::environment::{Environment, Processor};
use crate::exception::Stop;

type Outcome = Result<(), Stop>;

/// What an instruction computes from its register and its other operand. Undefined flags follow the result or are clear.
pub trait BitFields: 'static {
    /// It is encoded by VEX, which only protected mode knows.
    const VEX: bool = true;
    /// The result.
    fn apply<W: Word>(register: W, source: W, flags: &mut LazyFlags) -> W;
}

/// ANDN.
pub struct Andn;
impl BitFields for Andn {
    fn apply<W: Word>(register: W, source: W, flags: &mut LazyFlags) -> W {
        let result = W::truncate(!register.zero_extend() & source.zero_extend());
        *flags = LazyFlags::logic(result);
        result
    }
}

/// BEXTR: the register is start and length.
pub struct Bextr;
impl BitFields for Bextr {
    fn apply<W: Word>(register: W, source: W, flags: &mut LazyFlags) -> W {
        let (start, length) = (register.zero_extend() & 0xff, register.zero_extend() >> 8 & 0xff);
        let field = if start < 64 { source.zero_extend() >> start } else { 0 };
        let result = W::truncate(if length < 64 { field & ((1 << length) - 1) } else { field });
        *flags = LazyFlags::logic(result);
        result
    }
}

/// BZHI: the register is the first bit that is cleared.
pub struct Bzhi;
impl BitFields for Bzhi {
    fn apply<W: Word>(register: W, source: W, flags: &mut LazyFlags) -> W {
        let first = register.zero_extend() & 0xff;
        let beyond = first >= u64::from(W::BITS);
        let result = if beyond { source } else { W::truncate(source.zero_extend() & ((1 << first) - 1)) };
        *flags = LazyFlags::from_parts(result, beyond, false, false);
        result
    }
}

/// BLSI: the lowest bit that is set.
pub struct Blsi;
impl BitFields for Blsi {
    fn apply<W: Word>(_: W, source: W, flags: &mut LazyFlags) -> W {
        let value = source.zero_extend();
        let result = W::truncate(value & value.wrapping_neg());
        *flags = LazyFlags::from_parts(result, value != 0, false, false);
        result
    }
}

/// BLSMSK: all bits up to the lowest one that is set.
pub struct Blsmsk;
impl BitFields for Blsmsk {
    fn apply<W: Word>(_: W, source: W, flags: &mut LazyFlags) -> W {
        let value = source.zero_extend();
        let result = W::truncate(value ^ value.wrapping_sub(1));
        *flags = LazyFlags::from_parts(result, value == 0, false, false);
        result
    }
}

/// BLSR: without the lowest bit that is set.
pub struct Blsr;
impl BitFields for Blsr {
    fn apply<W: Word>(_: W, source: W, flags: &mut LazyFlags) -> W {
        let value = source.zero_extend();
        let result = W::truncate(value & value.wrapping_sub(1));
        *flags = LazyFlags::from_parts(result, value == 0, false, false);
        result
    }
}

/// PDEP: bits of the register to the places that the source names.
pub struct Pdep;
impl BitFields for Pdep {
    fn apply<W: Word>(register: W, source: W, _: &mut LazyFlags) -> W {
        let (mut bits, mut places, mut result) = (register.zero_extend(), source.zero_extend(), 0);
        while places != 0 {
            if bits & 1 != 0 {
                result |= places & places.wrapping_neg();
            }
            bits >>= 1;
            places &= places - 1;
        }
        W::truncate(result)
    }
}

/// PEXT: the register's bits at the places that the source names.
pub struct Pext;
impl BitFields for Pext {
    fn apply<W: Word>(register: W, source: W, _: &mut LazyFlags) -> W {
        let (bits, mut places, mut result, mut n) = (register.zero_extend(), source.zero_extend(), 0, 0);
        while places != 0 {
            result |= (bits >> places.trailing_zeros() & 1) << n;
            places &= places - 1;
            n += 1;
        }
        W::truncate(result)
    }
}

/// The count in a register, as shifts take it.
fn count<W: Word>(register: W) -> u32 {
    register.zero_extend() as u32 & (W::BITS - 1)
}

/// SHLX.
pub struct Shlx;
impl BitFields for Shlx {
    fn apply<W: Word>(register: W, source: W, _: &mut LazyFlags) -> W {
        W::truncate(source.zero_extend() << count(register))
    }
}

/// SHRX.
pub struct Shrx;
impl BitFields for Shrx {
    fn apply<W: Word>(register: W, source: W, _: &mut LazyFlags) -> W {
        W::truncate(source.zero_extend() >> count(register))
    }
}

/// SARX.
pub struct Sarx;
impl BitFields for Sarx {
    fn apply<W: Word>(register: W, source: W, _: &mut LazyFlags) -> W {
        W::truncate((source.sign_extend() as i64 >> count(register)) as u64)
    }
}

/// LZCNT.
pub struct Lzcnt;
impl BitFields for Lzcnt {
    const VEX: bool = false;
    fn apply<W: Word>(_: W, source: W, flags: &mut LazyFlags) -> W {
        let zeros = source.zero_extend().leading_zeros() - (64 - W::BITS);
        counted(source, zeros, flags)
    }
}

/// TZCNT.
pub struct Tzcnt;
impl BitFields for Tzcnt {
    const VEX: bool = false;
    fn apply<W: Word>(_: W, source: W, flags: &mut LazyFlags) -> W {
        let zeros = source.zero_extend().trailing_zeros().min(W::BITS);
        counted(source, zeros, flags)
    }
}

fn counted<W: Word>(source: W, zeros: u32, flags: &mut LazyFlags) -> W {
    let result = W::truncate(u64::from(zeros));
    *flags = LazyFlags::from_parts(result, source.zero_extend() == 0, false, false);
    result
}

/// Sum and carry.
fn sum<W: Word>(a: W, b: W, carry: bool) -> (W, bool) {
    let sum = u128::from(a.zero_extend()) + u128::from(b.zero_extend()) + u128::from(carry);
    (W::truncate(sum as u64), sum >> W::BITS != 0)
}

/// ADCX: the carry is CF, and no other flag changes.
pub struct Adcx;
impl BitFields for Adcx {
    const VEX: bool = false;
    fn apply<W: Word>(register: W, source: W, flags: &mut LazyFlags) -> W {
        let (result, carry) = sum(register, source, flags.cf());
        flags.set_cf(carry);
        result
    }
}

/// ADOX: the carry is OF, and no other flag changes.
pub struct Adox;
impl BitFields for Adox {
    const VEX: bool = false;
    fn apply<W: Word>(register: W, source: W, flags: &mut LazyFlags) -> W {
        let (result, carry) = sum(register, source, flags.of());
        flags.set_cf_of(flags.cf(), carry);
        result
    }
}

/// The operand that may be memory.
#[inline(always)]
fn source<const MEMORY: bool, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Result<W, Stop> {
    if MEMORY {
        let linear = op.linear(p, W::BYTES, false)?;
        p.env.load::<W>(&mut p.cpu, op.segment, linear)
    } else {
        Ok(W::get(&p.cpu.gpr, op.extra as u8))
    }
}

/// VEX is unknown in real and in virtual-8086 mode.
fn require_protected<E: Environment>(p: &mut Processor<E>) -> Outcome {
    if p.cpu.protected() { Ok(()) } else { Err(p.cpu.undefined_opcode()) }
}

/// One of [`BitFields`].
pub fn bit_fields<B: BitFields, const MEMORY: bool, W: Word, E: Environment>(
    p: &mut Processor<E>,
    op: &Op<E>,
) -> Outcome {
    if B::VEX {
        require_protected(p)?;
    }
    let source = source::<MEMORY, W, E>(p, op)?;
    let register = W::get(&p.cpu.gpr, op.rm);
    let result = B::apply(register, source, &mut p.cpu.flags);
    W::set(&mut p.cpu.gpr, op.reg, result);
    Ok(())
}

/// RORX by `op.immediate`.
pub fn rorx<const MEMORY: bool, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    require_protected(p)?;
    let source = source::<MEMORY, W, E>(p, op)?.zero_extend();
    let count = op.immediate as u32 & (W::BITS - 1);
    let result = if count == 0 { source } else { source >> count | source << (W::BITS - count) };
    W::set(&mut p.cpu.gpr, op.reg, W::truncate(result));
    Ok(())
}

/// MULX: RDX times the source, its upper half to `op.reg`, its lower one to `op.rm`. If they are one, it holds the upper half.
pub fn mulx<const MEMORY: bool, W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    require_protected(p)?;
    let source = source::<MEMORY, W, E>(p, op)?;
    let factor = W::get(&p.cpu.gpr, RDX as u8);
    let product = u128::from(factor.zero_extend()) * u128::from(source.zero_extend());
    W::set(&mut p.cpu.gpr, op.rm, W::truncate(product as u64));
    W::set(&mut p.cpu.gpr, op.reg, W::truncate((product >> W::BITS) as u64));
    Ok(())
}

fn swapped<W: Word>(value: W) -> W {
    W::truncate(value.zero_extend().swap_bytes() >> (64 - W::BITS))
}

/// MOVBE from memory.
pub fn movbe_load<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let value = source::<true, W, E>(p, op)?;
    W::set(&mut p.cpu.gpr, op.reg, swapped(value));
    Ok(())
}

/// MOVBE to memory.
pub fn movbe_store<W: Word, E: Environment>(p: &mut Processor<E>, op: &Op<E>) -> Outcome {
    let linear = op.linear(p, W::BYTES, true)?;
    let value = swapped(W::get(&p.cpu.gpr, op.reg));
    p.env.store::<W>(&mut p.cpu, op.segment, linear, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result<B: BitFields>(register: u32, source: u32) -> (u32, bool, bool) {
        let mut flags = LazyFlags::default();
        let result = B::apply(register, source, &mut flags);
        (result, flags.cf(), flags.zf())
    }

    #[test]
    fn fields_and_bits_are_found() {
        assert_eq!(result::<Bextr>(0x0804, 0x1234_5678), (0x67, false, false));
        assert_eq!(result::<Bextr>(0xff1c, 0x1234_5678), (1, false, false));
        assert_eq!(result::<Bextr>(0x0840, 0x1234_5678), (0, false, true));
        assert_eq!(result::<Bzhi>(32, 0x8000_0001), (0x8000_0001, true, false));
        assert_eq!(result::<Bzhi>(31, 0x8000_0001), (1, false, false));
        assert_eq!(result::<Blsi>(0, 0x50), (0x10, true, false));
        assert_eq!(result::<Blsmsk>(0, 0), (u32::MAX, true, false));
        assert_eq!(result::<Blsr>(0, 0x10), (0, false, true));
        assert_eq!(result::<Lzcnt>(0, 0), (32, true, false));
        assert_eq!(result::<Tzcnt>(0, 1), (0, false, true));
    }

    #[test]
    fn deposits_and_extractions_undo_each_other() {
        assert_eq!(result::<Pdep>(0b1011, 0xf0f0).0, 0b1011_0000);
        assert_eq!(result::<Pext>(0xabcd, 0xf0f0).0, 0xac);
    }
}
