//! Operands of the processor itself, at a distance from RSP, and of its tables. The flags too, which lie there.

use super::{Assembler, Host, RAX};

impl Assembler {
    /// `[rsp + displacement]`, the shortest form.
    pub(super) fn frame_operand(&mut self, reg: u8, displacement: i32) {
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

    /// `imul reg, [frame]`.
    pub fn multiply_frame(&mut self, reg: Host, displacement: i32) {
        self.rex(true, reg, 0, 0);
        self.raw(&[0x0f, 0xaf]);
        self.frame_operand(reg.0, displacement);
    }

    /// `mov reg, dword [frame]`, of 32 bits.
    pub fn load32(&mut self, reg: Host, displacement: i32) {
        self.rex(false, reg, 0, 0);
        self.bytes.push(0x8b);
        self.frame_operand(reg.0, displacement);
    }

    /// `cmp reg, [frame]`.
    pub fn cmp_frame(&mut self, reg: Host, displacement: i32) {
        self.frame64(0x3b, reg, displacement);
    }

    /// `and reg, [frame]`.
    pub fn and_frame(&mut self, reg: Host, displacement: i32) {
        self.frame64(0x23, reg, displacement);
    }

    /// `and word [frame], reg`.
    pub fn and_frame_word(&mut self, displacement: i32, reg: Host) {
        self.bytes.push(0x66);
        self.rex(false, reg, 0, 0);
        self.bytes.push(0x21);
        self.frame_operand(reg.0, displacement);
    }

    /// `test byte [frame], value`.
    pub fn test_frame_byte(&mut self, displacement: i32, value: u8) {
        self.bytes.push(0xf6);
        self.frame_operand(0, displacement);
        self.bytes.push(value);
    }

    /// `or [frame], reg`.
    pub fn or_frame(&mut self, displacement: i32, reg: Host) {
        self.frame64(0x09, reg, displacement);
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

    /// `cmp [table + index * scale], reg`; `scale` is the logarithm.
    pub fn cmp_table(&mut self, index: Host, scale: u8, displacement: i32, reg: Host) {
        self.table64(0x39, reg, index, scale, displacement);
    }

    /// `movsxd reg, dword [frame]`.
    pub fn load_sign_extended(&mut self, reg: Host, displacement: i32) {
        self.frame64(0x63, reg, displacement);
    }

    /// `movzx reg, byte [frame]`, of 32 bits.
    pub fn load_byte(&mut self, reg: Host, displacement: i32) {
        self.rex(false, reg, 0, 0);
        self.raw(&[0x0f, 0xb6]);
        self.frame_operand(reg.0, displacement);
    }

    /// `movzx reg, word [frame]`, of 32 bits.
    pub fn load_word(&mut self, reg: Host, displacement: i32) {
        self.rex(false, reg, 0, 0);
        self.raw(&[0x0f, 0xb7]);
        self.frame_operand(reg.0, displacement);
    }

    /// `cmp byte [frame], value`.
    pub fn cmp_byte(&mut self, displacement: i32, value: u8) {
        self.bytes.push(0x80);
        self.frame_operand(7, displacement);
        self.bytes.push(value);
    }

    /// `cmp dword [frame], value`.
    pub fn cmp_immediate32(&mut self, displacement: i32, value: u32) {
        self.bytes.push(0x81);
        self.frame_operand(7, displacement);
        self.raw(&value.to_le_bytes());
    }

    /// `cmp byte [frame], 0`.
    pub fn cmp_byte_zero(&mut self, displacement: i32) {
        self.cmp_byte(displacement, 0);
    }

    /// `cmp qword [frame], 0`.
    pub fn cmp_zero(&mut self, displacement: i32) {
        self.raw(&[0x48, 0x83]);
        self.frame_operand(7, displacement);
        self.bytes.push(0);
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

    /// `inc qword [frame]`.
    pub fn increment(&mut self, displacement: i32) {
        self.raw(&[0x48, 0xff]);
        self.frame_operand(0, displacement);
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
}
