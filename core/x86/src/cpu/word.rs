//! Operand sizes as types, and the general-purpose registers seen through them.

/// The general-purpose registers as instructions address them.
///
/// Slots 0 to 15 are the registers in encoding order. [`ZERO`] is always 0 and [`BLOCK`] holds the instruction pointer
/// at the start of the running block, so that an effective address is the same sum whatever its parts are.
pub type Registers = [u64; 32];

/// RAX's slot.
pub const RAX: usize = 0;
/// RCX's slot.
pub const RCX: usize = 1;
/// RDX's slot.
pub const RDX: usize = 2;
/// RBX's slot.
pub const RBX: usize = 3;
/// RSP's slot.
pub const RSP: usize = 4;
/// RBP's slot.
pub const RBP: usize = 5;
/// RSI's slot.
pub const RSI: usize = 6;
/// RDI's slot.
pub const RDI: usize = 7;
/// R11's slot.
pub const R11: usize = 11;
/// The slot that is always zero.
pub const ZERO: usize = 16;
/// The slot that holds the running block's first instruction pointer.
pub const BLOCK: usize = 17;
/// Set in an 8-bit register's number for AH, CH, DH and BH.
pub const HIGH_BYTE: u8 = 0x10;

/// An operand of 8, 16, 32 or 64 bits.
pub trait Word: Copy + Eq + core::fmt::Debug + Send + Sync + 'static {
    /// Width in bits.
    const BITS: u32;
    /// Width in bytes.
    const BYTES: u8;
    /// All ones, zero-extended.
    const MASK: u64 = u64::MAX >> (64 - Self::BITS);

    /// The low bits of `value`.
    fn truncate(value: u64) -> Self;
    /// Zero-extended.
    fn zero_extend(self) -> u64;
    /// Sign-extended.
    fn sign_extend(self) -> u64;
    /// Reads a register; for 8 bits [`HIGH_BYTE`] selects bits 15:8.
    fn get(registers: &Registers, number: u8) -> Self;
    /// Writes a register: 32 bits clear the upper half, narrower ones keep the rest.
    fn set(registers: &mut Registers, number: u8, value: Self);
}

macro_rules! word {
    ($unsigned:ty, $signed:ty, $set:expr) => {
        impl Word for $unsigned {
            const BITS: u32 = <$unsigned>::BITS;
            const BYTES: u8 = (<$unsigned>::BITS / 8) as u8;

            #[inline(always)]
            fn truncate(value: u64) -> Self {
                value as $unsigned
            }
            #[inline(always)]
            fn zero_extend(self) -> u64 {
                self as u64
            }
            #[inline(always)]
            fn sign_extend(self) -> u64 {
                self as $signed as i64 as u64
            }
            #[inline(always)]
            fn get(registers: &Registers, number: u8) -> Self {
                registers[usize::from(number & 31)] as $unsigned
            }
            #[inline(always)]
            fn set(registers: &mut Registers, number: u8, value: Self) {
                let slot = &mut registers[usize::from(number & 31)];
                *slot = $set(*slot, value);
            }
        }
    };
}

word!(u16, i16, |old: u64, new: u16| old & !0xffff | u64::from(new));
word!(u32, i32, |_: u64, new: u32| u64::from(new));
word!(u64, i64, |_: u64, new: u64| new);

impl Word for u8 {
    const BITS: u32 = 8;
    const BYTES: u8 = 1;

    #[inline(always)]
    fn truncate(value: u64) -> Self {
        value as u8
    }
    #[inline(always)]
    fn zero_extend(self) -> u64 {
        u64::from(self)
    }
    #[inline(always)]
    fn sign_extend(self) -> u64 {
        self as i8 as i64 as u64
    }
    #[inline(always)]
    fn get(registers: &Registers, number: u8) -> Self {
        (registers[usize::from(number & 15)] >> ((number & HIGH_BYTE) >> 1)) as u8
    }
    #[inline(always)]
    fn set(registers: &mut Registers, number: u8, value: Self) {
        let shift = (number & HIGH_BYTE) >> 1;
        let slot = &mut registers[usize::from(number & 15)];
        *slot = *slot & !(0xff << shift) | u64::from(value) << shift;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn narrow_writes_keep_the_rest_and_32_bits_clear_it() {
        let mut registers = [0; 32];
        registers[3] = 0x1122_3344_5566_7788;
        u8::set(&mut registers, HIGH_BYTE | 3, 0xaa);
        assert_eq!(registers[3], 0x1122_3344_5566_aa88);
        assert_eq!(u8::get(&registers, HIGH_BYTE | 3), 0xaa);
        u8::set(&mut registers, 3, 0xbb);
        u16::set(&mut registers, 3, 0xccdd);
        assert_eq!(registers[3], 0x1122_3344_5566_ccdd);
        u32::set(&mut registers, 3, 1);
        assert_eq!(registers[3], 1);
    }
}
