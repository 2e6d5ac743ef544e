//! The few host instructions that translated code needs around the guest's own, as bytes.
//!
//! Guest instructions are encoded by `iced-x86`; what stands around each of them is always one of these, and writing the
//! bytes out is several times as fast. Everything is position-independent but for jumps to code that exists already, which
//! are [`Fixup`]s until the place of the new code is known.
//!
//! Memory operands are of two kinds: `[rsp + displacement]`, the processor itself ([`super::frame`]), and `[r10]`, guest
//! memory after its check.

/// A host register by its number in encodings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Host(pub u8);

/// RAX.
pub const RAX: Host = Host(0);
/// RCX.
pub const RCX: Host = Host(1);
/// RDX.
pub const RDX: Host = Host(2);
/// RBX.
pub const RBX: Host = Host(3);
/// RSP: the processor.
pub const RSP: Host = Host(4);
/// RBP.
pub const RBP: Host = Host(5);
/// RSI.
pub const RSI: Host = Host(6);
/// RDI.
pub const RDI: Host = Host(7);
/// R8.
pub const R8: Host = Host(8);
/// R9: the guest's RSP.
pub const R9: Host = Host(9);
/// R10: first scratch register; a guest address on its way to a host address.
pub const R10: Host = Host(10);
/// R11: second scratch register.
pub const R11: Host = Host(11);

/// Guest memory after its check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// At the host address in R10.
    Checked,
    /// At this distance from the guest address in `base`, plus R11: how far host addresses are from linear ones there.
    Grouped {
        /// The base register.
        base: Host,
        /// The distance.
        displacement: i32,
    },
}

impl Memory {
    /// The same place, after the base register was moved by `by`.
    pub const fn after_moving(self, by: i32) -> Self {
        match self {
            Self::Checked => Self::Checked,
            Self::Grouped { base, displacement } => Self::Grouped { base, displacement: displacement - by },
        }
    }
}

/// A condition as opcodes encode it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition(pub u8);

impl Condition {
    /// The opposite.
    pub const fn negated(self) -> Self {
        Self(self.0 ^ 1)
    }
}

/// Below, carry.
pub const BELOW: Condition = Condition(2);
/// Above or equal, no carry.
pub const ABOVE_OR_EQUAL: Condition = Condition(3);
/// Equal, zero.
pub const EQUAL: Condition = Condition(4);
/// Not equal, not zero.
pub const NOT_EQUAL: Condition = Condition(5);
/// Below or equal.
pub const BELOW_OR_EQUAL: Condition = Condition(6);
/// Above.
pub const ABOVE: Condition = Condition(7);
/// Negative.
pub const SIGN: Condition = Condition(8);

/// Four bytes that are filled in when the place of the new code is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fixup {
    /// Where the four bytes are, from the start of the new code.
    pub at: usize,
    /// What they tell.
    pub value: Value,
}

/// What a [`Fixup`]'s bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// The distance to code that exists already, from the start of the code memory.
    DistanceOut(u32),
    /// The distance to the new code's other part, from the start of the new code.
    DistanceAcross(usize),
    /// Where this place of the new code will be, from the start of the code memory.
    Place(usize),
}

/// Code without a place. Its two parts lie apart: what often runs, and behind `split` what seldom does.
#[derive(Debug, Clone, Copy)]
pub struct Code<'a> {
    /// All bytes.
    pub bytes: &'a [u8],
    /// Where the part begins that seldom runs.
    pub split: usize,
    /// What is to be filled in.
    pub fixups: &'a [Fixup],
}

/// A place in the new code that is jumped to before it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Label(usize);

/// Code in the making.
#[derive(Debug, Default)]
pub struct Assembler {
    bytes: Vec<u8>,
    split: Option<usize>,
    fixups: Vec<Fixup>,
    labels: Vec<Option<usize>>,
    /// Four-byte distances to labels.
    waiting: Vec<(usize, Label)>,
}

impl Assembler {
    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Forgets everything, for code anew.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.split = None;
        self.fixups.clear();
        self.labels.clear();
        self.waiting.clear();
    }

    /// What follows seldom runs.
    pub fn begin_cold(&mut self) {
        self.split = Some(self.bytes.len());
    }

    /// The code. Every label must have been placed.
    pub fn finish(&mut self) -> Code<'_> {
        let split = self.split.unwrap_or(self.bytes.len());
        for (at, Label(n)) in self.waiting.drain(..) {
            let target = self.labels[n].expect("every label is placed before the code is used");
            if (at < split) == (target < split) {
                let distance = target.wrapping_sub(at + 4) as u32;
                self.bytes[at..at + 4].copy_from_slice(&distance.to_le_bytes());
            } else {
                self.fixups.push(Fixup { at, value: Value::DistanceAcross(target) });
            }
        }
        Code { bytes: &self.bytes, split, fixups: &self.fixups }
    }

    /// Appends encoded instructions.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// A label to be placed later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Places a label here.
    pub fn place(&mut self, Label(n): Label) {
        self.labels[n] = Some(self.bytes.len());
    }

    /// A label here.
    pub fn here(&mut self) -> Label {
        self.labels.push(Some(self.bytes.len()));
        Label(self.labels.len() - 1)
    }

    fn distance_to(&mut self, label: Label) {
        self.waiting.push((self.bytes.len(), label));
        self.raw(&[0; 4]);
    }

    fn distance_out(&mut self, target: u32) {
        self.fixups.push(Fixup { at: self.bytes.len(), value: Value::DistanceOut(target) });
        self.raw(&[0; 4]);
    }

    /// Four bytes that tell where the place at `offset` of this code will be, from the start of the code memory.
    pub fn place_of(&mut self, offset: usize) {
        self.fixups.push(Fixup { at: self.bytes.len(), value: Value::Place(offset) });
        self.raw(&[0; 4]);
    }

    /// REX for a register operand, an index and a base; left out where it says nothing.
    fn rex(&mut self, wide: bool, reg: Host, index: u8, base: u8) {
        let rex = 0x40 | u8::from(wide) << 3 | (reg.0 >> 3) << 2 | (index >> 3) << 1 | base >> 3;
        if rex != 0x40 {
            self.bytes.push(rex);
        }
    }

    /// `[rsp + displacement]`, the shortest form.
    fn frame_operand(&mut self, reg: u8, displacement: i32) {
        match i8::try_from(displacement) {
            Ok(short) => self.raw(&[0x44 | (reg & 7) << 3, 0x24, short as u8]),
            Err(_) => {
                self.raw(&[0x84 | (reg & 7) << 3, 0x24]);
                self.raw(&displacement.to_le_bytes());
            }
        }
    }

    /// `opcode reg, [rsp + displacement]` or the other way round, of 64 bits.
    fn frame64(&mut self, opcode: u8, reg: Host, displacement: i32) {
        self.rex(true, reg, 0, 0);
        self.bytes.push(opcode);
        self.frame_operand(reg.0, displacement);
    }

    /// `opcode reg, [rsp + index * 8 + displacement]`, of 64 bits.
    fn table64(&mut self, opcode: u8, reg: Host, index: Host, scale: u8, displacement: i32) {
        self.rex(true, reg, index.0, 0);
        self.raw(&[opcode, 0x84 | (reg.0 & 7) << 3, scale << 6 | (index.0 & 7) << 3 | 4]);
        self.raw(&displacement.to_le_bytes());
    }

    fn pair(&mut self, wide: bool, opcode: u8, reg: Host, rm: Host) {
        self.rex(wide, reg, 0, rm.0);
        self.raw(&[opcode, 0xc0 | (reg.0 & 7) << 3 | rm.0 & 7]);
    }

    /// `mov reg, [frame]`.
    pub fn load(&mut self, reg: Host, displacement: i32) {
        self.frame64(0x8b, reg, displacement);
    }

    /// `mov [frame], reg`.
    pub fn store(&mut self, displacement: i32, reg: Host) {
        self.frame64(0x89, reg, displacement);
    }

    /// `add reg, [frame]`.
    pub fn add_frame(&mut self, reg: Host, displacement: i32) {
        self.frame64(0x03, reg, displacement);
    }

    /// `sub reg, [frame]`.
    pub fn sub_frame(&mut self, reg: Host, displacement: i32) {
        self.frame64(0x2b, reg, displacement);
    }

    /// `cmp reg, [frame]`.
    pub fn cmp_frame(&mut self, reg: Host, displacement: i32) {
        self.frame64(0x3b, reg, displacement);
    }

    /// `mov reg, [table + index * scale]`; `scale` is the logarithm.
    pub fn load_table(&mut self, reg: Host, index: Host, scale: u8, displacement: i32) {
        self.table64(0x8b, reg, index, scale, displacement);
    }

    /// `mov [table + index * scale], reg`; `scale` is the logarithm.
    pub fn store_table(&mut self, index: Host, scale: u8, displacement: i32, reg: Host) {
        self.table64(0x89, reg, index, scale, displacement);
    }

    /// `add reg, [table + index * scale]`; `scale` is the logarithm.
    pub fn add_table(&mut self, reg: Host, index: Host, scale: u8, displacement: i32) {
        self.table64(0x03, reg, index, scale, displacement);
    }

    /// `sub reg, [table + index * scale]`; `scale` is the logarithm.
    pub fn sub_table(&mut self, reg: Host, index: Host, scale: u8, displacement: i32) {
        self.table64(0x2b, reg, index, scale, displacement);
    }

    /// `cmp [table + index * 8], reg`.
    pub fn cmp_table(&mut self, index: Host, displacement: i32, reg: Host) {
        self.table64(0x39, reg, index, 3, displacement);
    }

    /// `jmp [frame]`.
    pub fn jmp_frame(&mut self, displacement: i32) {
        self.bytes.push(0xff);
        self.frame_operand(4, displacement);
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

    /// One of the eight operations with a sign-extended immediate: 0 ADD, 4 AND, 5 SUB, 7 CMP.
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

    /// `movsxd reg, dword [frame]`.
    pub fn load_sign_extended(&mut self, reg: Host, displacement: i32) {
        self.frame64(0x63, reg, displacement);
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

    /// `vextractf128 [frame], ymm, 1`, or `vinsertf128 ymm, ymm, [frame], 1`: the register's upper half.
    pub fn upper_half(&mut self, register: u8, displacement: i32, store: bool) {
        // VEX of three bytes: the register's high bit inverted, neither index nor high base; map 3; 256 bits, prefix 66, and the
        // register once more, inverted, or none.
        let high = !(register >> 3) << 7;
        let again = if store { 0x78 } else { (!register & 15) << 3 };
        self.raw(&[0xc4, high | 0x63, again | 0x05, if store { 0x19 } else { 0x18 }]);
        self.frame_operand(register, displacement);
        self.bytes.push(1);
    }

    /// Sets ZF if the 256 bytes in the frame, at a multiple of 32, are all zero. YMM0 is lost.
    pub fn test_upper_halves(&mut self, displacement: i32) {
        for at in (0..256).step_by(32) {
            // vmovaps ymm0, [frame]; then vorps ymm0, ymm0, [frame]
            self.raw(&[0xc5, 0xfc, if at == 0 { 0x28 } else { 0x56 }]);
            self.frame_operand(0, displacement + at);
        }
        // vptest ymm0, ymm0
        self.raw(&[0xc4, 0xe2, 0x7d, 0x17, 0xc0]);
    }

    /// `vzeroupper`.
    pub fn vzeroupper(&mut self) {
        self.raw(&[0xc5, 0xf8, 0x77]);
    }

    /// `test reg, value`, of 8 bits; the register is one of R8 to R15.
    pub fn test_byte(&mut self, reg: Host, value: u8) {
        self.rex(false, Host(0), 0, reg.0);
        self.raw(&[0xf6, 0xc0 | reg.0 & 7, value]);
    }

    /// Guest memory's operand, with REX and opcode before.
    fn guest_operand(&mut self, opcode: u8, reg: Host, memory: Memory) {
        let reg_bits = (reg.0 & 7) << 3;
        match memory {
            Memory::Checked => {
                self.rex(true, reg, 0, R10.0);
                self.raw(&[opcode, reg_bits | R10.0 & 7]);
            }
            Memory::Grouped { base, displacement } => {
                self.rex(true, reg, R11.0, base.0);
                self.raw(&[opcode, 0x84 | reg_bits, (R11.0 & 7) << 3 | base.0 & 7]);
                self.raw(&displacement.to_le_bytes());
            }
        }
    }

    /// `mov reg, memory`, of 64 bits.
    pub fn load_guest(&mut self, reg: Host, memory: Memory) {
        self.guest_operand(0x8b, reg, memory);
    }

    /// `mov reg, memory`, of 64 or 32 bits.
    pub fn load_guest_sized(&mut self, reg: Host, memory: Memory, wide: bool) {
        let start = self.bytes.len();
        self.load_guest(reg, memory);
        if !wide {
            // R10, R11 or the base is in it, so that there is a REX prefix.
            self.bytes[start] &= !8;
        }
    }

    /// `mov memory, reg`, of 64 bits.
    pub fn store_guest(&mut self, memory: Memory, reg: Host) {
        self.guest_operand(0x89, reg, memory);
    }

    /// `mov qword memory, value`, sign-extended.
    pub fn store_guest_immediate(&mut self, memory: Memory, value: i32) {
        self.guest_operand(0xc7, Host(0), memory);
        self.raw(&value.to_le_bytes());
    }

    /// `cmp qword [reg], 0`; the register is R11.
    pub fn cmp_r11_memory_zero(&mut self) {
        self.raw(&[0x49, 0x83, 0x3b, 0]);
    }

    /// `cmp byte [frame], value`.
    pub fn cmp_byte(&mut self, displacement: i32, value: u8) {
        self.bytes.push(0x80);
        self.frame_operand(7, displacement);
        self.bytes.push(value);
    }

    /// `cmp byte [frame], 0`.
    pub fn cmp_byte_zero(&mut self, displacement: i32) {
        self.cmp_byte(displacement, 0);
    }

    /// `and byte [frame], value`.
    pub fn and_byte(&mut self, displacement: i32, value: u8) {
        self.bytes.push(0x80);
        self.frame_operand(4, displacement);
        self.bytes.push(value);
    }

    /// `or byte [frame], value`.
    pub fn or_byte(&mut self, displacement: i32, value: u8) {
        self.bytes.push(0x80);
        self.frame_operand(1, displacement);
        self.bytes.push(value);
    }

    /// `or [frame], reg`.
    pub fn or_frame(&mut self, displacement: i32, reg: Host) {
        self.frame64(0x09, reg, displacement);
    }

    /// `movzx reg, byte [frame]`, of 32 bits.
    pub fn load_byte(&mut self, reg: Host, displacement: i32) {
        self.rex(false, reg, 0, 0);
        self.raw(&[0x0f, 0xb6]);
        self.frame_operand(reg.0, displacement);
    }

    /// `mov byte [frame], reg`; the register is one of R8 to R15.
    pub fn store_byte_of(&mut self, displacement: i32, reg: Host) {
        self.rex(false, reg, 0, 0);
        self.bytes.push(0x88);
        self.frame_operand(reg.0, displacement);
    }

    /// `mov byte [frame], value`.
    pub fn store_byte(&mut self, displacement: i32, value: u8) {
        self.bytes.push(0xc6);
        self.frame_operand(0, displacement);
        self.bytes.push(value);
    }

    /// `mov dword [frame], value`.
    pub fn store_immediate32(&mut self, displacement: i32, value: u32) {
        self.bytes.push(0xc7);
        self.frame_operand(0, displacement);
        self.raw(&value.to_le_bytes());
    }

    /// `sub dword [frame], value`.
    pub fn sub_immediate32(&mut self, displacement: i32, value: i8) {
        self.bytes.push(0x83);
        self.frame_operand(5, displacement);
        self.bytes.push(value as u8);
    }

    /// Saves the arithmetic flags to the frame: OF in the low byte, the others in the high one. Keeps RAX by way of
    /// `scratch`, and the flags.
    pub fn save_flags(&mut self, displacement: i32, scratch: Host) {
        self.mov(scratch, RAX);
        // seto al; lahf
        self.raw(&[0x0f, 0x90, 0xc0, 0x9f, 0x66, 0x89]);
        self.frame_operand(0, displacement);
        self.mov(RAX, scratch);
    }

    /// Loads the arithmetic flags as [`Assembler::save_flags`] left them.
    pub fn restore_flags(&mut self, displacement: i32, scratch: Host) {
        self.mov(scratch, RAX);
        // movzx eax, word [frame]
        self.raw(&[0x0f, 0xb7]);
        self.frame_operand(0, displacement);
        // add al, 0x7f; sahf
        self.raw(&[0x04, 0x7f, 0x9e]);
        self.mov(RAX, scratch);
    }

    /// `push value`, sign-extended.
    pub fn push_immediate(&mut self, value: i32) {
        self.bytes.push(0x68);
        self.raw(&value.to_le_bytes());
    }

    /// `push reg`.
    pub fn push(&mut self, reg: Host) {
        self.rex(false, Host(0), 0, reg.0);
        self.bytes.push(0x50 | reg.0 & 7);
    }

    /// `pop reg`.
    pub fn pop(&mut self, reg: Host) {
        self.rex(false, Host(0), 0, reg.0);
        self.bytes.push(0x58 | reg.0 & 7);
    }

    /// `ret`.
    pub fn ret(&mut self) {
        self.bytes.push(0xc3);
    }

    /// `jmp reg`.
    pub fn jmp_register(&mut self, reg: Host) {
        self.rex(false, Host(0), 0, reg.0);
        self.raw(&[0xff, 0xe0 | reg.0 & 7]);
    }

    /// `call reg`.
    pub fn call_register(&mut self, reg: Host) {
        self.rex(false, Host(0), 0, reg.0);
        self.raw(&[0xff, 0xd0 | reg.0 & 7]);
    }

    /// `jmp` to a label.
    pub fn jmp(&mut self, label: Label) {
        self.bytes.push(0xe9);
        self.distance_to(label);
    }

    /// A conditional jump to a label.
    pub fn jcc(&mut self, condition: Condition, label: Label) {
        self.raw(&[0x0f, 0x80 | condition.0]);
        self.distance_to(label);
    }

    /// `jmp` to code elsewhere. Returns where its distance is.
    pub fn jmp_out(&mut self, target: u32) -> usize {
        self.bytes.push(0xe9);
        self.distance_out(target);
        self.bytes.len() - 4
    }

    /// `call` to code elsewhere.
    pub fn call_out(&mut self, target: u32) {
        self.bytes.push(0xe8);
        self.distance_out(target);
    }

    /// `movaps [frame], xmm` or the other way round.
    pub fn vector(&mut self, register: u8, displacement: i32, store: bool) {
        self.rex(false, Host(register), 0, 0);
        self.raw(&[0x0f, if store { 0x29 } else { 0x28 }]);
        self.frame_operand(register, displacement);
    }

    /// `ldmxcsr [frame]`.
    pub fn load_mxcsr(&mut self, displacement: i32) {
        self.raw(&[0x0f, 0xae]);
        self.frame_operand(2, displacement);
    }

    /// `stmxcsr [frame]`.
    pub fn store_mxcsr(&mut self, displacement: i32) {
        self.raw(&[0x0f, 0xae]);
        self.frame_operand(3, displacement);
    }
}
