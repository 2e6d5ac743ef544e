//! Jumps, calls and the host's stack.

use super::{Assembler, Host, Label};

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
/// Less or equal, signed.
pub const LESS_OR_EQUAL: Condition = Condition(14);

impl Assembler {
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

    /// `jmp [frame]`.
    pub fn jmp_frame(&mut self, displacement: i32) {
        self.bytes.push(0xff);
        self.frame_operand(4, displacement);
    }

    /// `jmp` to a label.
    pub fn jmp(&mut self, label: Label) {
        self.bytes.push(0xe9);
        self.distance_to(label);
    }

    /// `call` of a label.
    pub fn call(&mut self, label: Label) {
        self.bytes.push(0xe8);
        self.distance_to(label);
    }

    /// The address of a label.
    pub fn address_of(&mut self, reg: Host, label: Label) {
        self.rex(true, reg, 0, 0);
        self.raw(&[0x8d, (reg.0 & 7) << 3 | 5]);
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
}
