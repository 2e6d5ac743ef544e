//! Moves and arithmetic between registers and immediates, and the addition of addresses.

use super::{Assembler, Host};

impl Assembler {
    fn pair(&mut self, wide: bool, opcode: u8, reg: Host, rm: Host) {
        self.rex(wide, reg, 0, rm.0);
        self.raw(&[opcode, 0xc0 | (reg.0 & 7) << 3 | rm.0 & 7]);
    }

    /// `mov reg, reg`, of 64 bits.
    pub fn mov(&mut self, to: Host, from: Host) {
        self.pair(true, 0x89, from, to);
    }

    /// `mov reg, reg`, of 32 bits.
    pub fn mov32(&mut self, to: Host, from: Host) {
        self.pair(false, 0x89, from, to);
    }

    /// `cmp reg, reg`, of 64 bits.
    pub fn cmp(&mut self, a: Host, b: Host) {
        self.pair(true, 0x39, b, a);
    }

    /// 2 to the power of `exponent`, below 32, into `reg`: `mov reg, 0; bts reg, exponent`.
    pub fn power_of_two(&mut self, reg: Host, exponent: Host) {
        self.mov_immediate(reg, 0);
        self.rex(true, exponent, 0, reg.0);
        self.raw(&[0x0f, 0xab, 0xc0 | (exponent.0 & 7) << 3 | reg.0 & 7]);
    }

    /// `xor reg, reg`, of 64 bits.
    pub fn xor(&mut self, a: Host, b: Host) {
        self.pair(true, 0x31, b, a);
    }

    /// `or reg, reg`, of 64 bits.
    pub fn or(&mut self, a: Host, b: Host) {
        self.pair(true, 0x09, b, a);
    }

    /// `sub reg, reg`, of 64 bits.
    pub fn sub(&mut self, a: Host, b: Host) {
        self.pair(true, 0x29, b, a);
    }

    /// `mov reg, value`, the shortest form.
    pub fn mov_immediate(&mut self, reg: Host, value: u64) {
        if let Ok(low) = u32::try_from(value) {
            self.rex(false, Host(0), 0, reg.0);
            self.bytes.push(0xb8 | reg.0 & 7);
            self.raw(&low.to_le_bytes());
        } else if let Ok(signed) = i32::try_from(value as i64) {
            self.rex(true, Host(0), 0, reg.0);
            self.raw(&[0xc7, 0xc0 | reg.0 & 7]);
            self.raw(&signed.to_le_bytes());
        } else {
            self.rex(true, Host(0), 0, reg.0);
            self.bytes.push(0xb8 | reg.0 & 7);
            self.raw(&value.to_le_bytes());
        }
    }

    /// One of the eight operations with a sign-extended immediate: 0 ADD, 1 OR, 4 AND, 5 SUB, 6 XOR, 7 CMP.
    fn immediate(&mut self, wide: bool, operation: u8, reg: Host, value: i32) {
        self.rex(wide, Host(0), 0, reg.0);
        let operand = 0xc0 | operation << 3 | reg.0 & 7;
        match i8::try_from(value) {
            Ok(short) => self.raw(&[0x83, operand, short as u8]),
            Err(_) => {
                self.raw(&[0x81, operand]);
                self.raw(&value.to_le_bytes());
            }
        }
    }

    /// `add reg, value`, of 64 bits.
    pub fn add_immediate(&mut self, reg: Host, value: i32) {
        self.immediate(true, 0, reg, value);
    }

    /// `and reg, value`, of 64 bits.
    pub fn and_immediate(&mut self, reg: Host, value: i32) {
        self.immediate(true, 4, reg, value);
    }

    /// `and reg, value`, of 32 bits.
    pub fn and_immediate32(&mut self, reg: Host, value: i32) {
        self.immediate(false, 4, reg, value);
    }

    /// `or reg, value`, of 32 bits.
    pub fn or_immediate32(&mut self, reg: Host, value: i32) {
        self.immediate(false, 1, reg, value);
    }

    /// `xor reg, value`, of 32 bits.
    pub fn xor_immediate32(&mut self, reg: Host, value: i32) {
        self.immediate(false, 6, reg, value);
    }

    /// `cmp reg, value`, of 64 bits.
    pub fn cmp_immediate(&mut self, reg: Host, value: i32) {
        self.immediate(true, 7, reg, value);
    }

    /// `shr reg, count`, of 32 bits.
    pub fn shr32(&mut self, reg: Host, count: u8) {
        self.rex(false, Host(0), 0, reg.0);
        self.raw(&[0xc1, 0xe8 | reg.0 & 7, count]);
    }

    /// `shl reg, count`, of 32 bits.
    pub fn shl32(&mut self, reg: Host, count: u8) {
        self.rex(false, Host(0), 0, reg.0);
        self.raw(&[0xc1, 0xe0 | reg.0 & 7, count]);
    }

    /// `shr reg, count`, of 64 bits.
    pub fn shr(&mut self, reg: Host, count: u8) {
        self.rex(true, Host(0), 0, reg.0);
        self.raw(&[0xc1, 0xe8 | reg.0 & 7, count]);
    }

    /// `shl reg, count`, of 64 bits.
    pub fn shl(&mut self, reg: Host, count: u8) {
        self.rex(true, Host(0), 0, reg.0);
        self.raw(&[0xc1, 0xe0 | reg.0 & 7, count]);
    }

    /// `sar reg, count`, of 64 bits.
    pub fn sar(&mut self, reg: Host, count: u8) {
        self.rex(true, Host(0), 0, reg.0);
        self.raw(&[0xc1, 0xf8 | reg.0 & 7, count]);
    }

    /// `movsxd reg, reg`: 32 bits to 64.
    pub fn sign_extend(&mut self, to: Host, from: Host) {
        self.rex(true, to, 0, from.0);
        self.raw(&[0x63, 0xc0 | (to.0 & 7) << 3 | from.0 & 7]);
    }

    /// `neg reg`, of 64 bits.
    pub fn neg(&mut self, reg: Host) {
        self.rex(true, Host(0), 0, reg.0);
        self.raw(&[0xf7, 0xd8 | reg.0 & 7]);
    }

    /// `imul reg, reg, value`, of 32 bits.
    pub fn multiply32(&mut self, to: Host, from: Host, value: i32) {
        self.rex(false, to, 0, from.0);
        self.raw(&[0x69, 0xc0 | (to.0 & 7) << 3 | from.0 & 7]);
        self.raw(&value.to_le_bytes());
    }

    /// `lea reg, [base + displacement]`, of 64 bits; neither flags nor the base change.
    pub fn lea(&mut self, reg: Host, base: Host, displacement: i32) {
        self.lea_sum(reg, Some(base), None, displacement);
    }

    /// `lea reg, [base + index * 2^scale + displacement]`, of 64 bits. The index is not RSP.
    pub fn lea_sum(&mut self, reg: Host, base: Option<Host>, index: Option<(Host, u8)>, displacement: i32) {
        self.lea_any(true, reg, base, index, displacement);
    }

    /// The same of 32 bits: the sum's low half.
    pub fn lea32_sum(&mut self, reg: Host, base: Option<Host>, index: Option<(Host, u8)>, displacement: i32) {
        self.lea_any(false, reg, base, index, displacement);
    }

    fn lea_any(
        &mut self,
        wide: bool,
        reg: Host,
        base: Option<Host>,
        index: Option<(Host, u8)>,
        displacement: i32,
    ) {
        let (index_number, scale) = index.map_or((4, 0), |(index, scale)| (index.0, scale));
        let base_number = base.map_or(5, |base| base.0);
        // Encoding 4 in ModRM asks for an index byte; encoding 5 without a displacement means "no base".
        let needs_sib = index.is_some() || base_number & 7 == 4 || base.is_none();
        let index_high = if index.is_some() { index_number } else { 0 };
        let base_high = if base.is_some() { base_number } else { 0 };
        self.rex(wide, reg, index_high, base_high);
        self.bytes.push(0x8d);
        let short = i8::try_from(displacement).ok().filter(|_| base.is_some());
        let mode = match short {
            Some(0) if base_number & 7 != 5 => 0,
            Some(_) => 0x40,
            None if base.is_none() => 0,
            None => 0x80,
        };
        let rm = if needs_sib { 4 } else { base_number & 7 };
        self.bytes.push(mode | (reg.0 & 7) << 3 | rm);
        if needs_sib {
            self.bytes.push(scale << 6 | (index_number & 7) << 3 | base_number & 7);
        }
        match (mode, short) {
            (0x40, Some(short)) => self.bytes.push(short as u8),
            (0, _) if base.is_some() => {}
            _ => self.raw(&displacement.to_le_bytes()),
        }
    }

    /// `cmp byte [reg], 0`; the register is R10 or R11.
    pub fn cmp_byte_at_zero(&mut self, reg: Host) {
        self.rex(false, Host(0), 0, reg.0);
        self.raw(&[0x80, 0x38 | reg.0 & 7, 0]);
    }

    /// `rdtsc`: into RAX and RDX.
    pub fn rdtsc(&mut self) {
        self.raw(&[0x0f, 0x31]);
    }

    /// `lfence`.
    pub fn lfence(&mut self) {
        self.raw(&[0x0f, 0xae, 0xe8]);
    }

    /// `test reg, value`, of 8 bits; the register is one of R8 to R15.
    pub fn test_byte(&mut self, reg: Host, value: u8) {
        self.rex(false, Host(0), 0, reg.0);
        self.raw(&[0xf6, 0xc0 | reg.0 & 7, value]);
    }
}
