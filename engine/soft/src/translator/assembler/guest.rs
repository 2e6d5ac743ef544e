//! Operands in guest memory, after the check.

use super::{Assembler, Host, R10};

/// Where guest memory is, after its check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// At the host address in R10.
    Checked,
    /// At this distance from the guest address in `base`, plus what another register holds.
    Based {
        /// The base register.
        base: Host,
        /// The distance.
        displacement: i32,
        /// R11 or R10. It holds how far host addresses are from linear ones there; the operand's index may be added.
        delta: Host,
    },
}

impl Memory {
    /// The same place, after the base register was moved by `by`.
    pub const fn after_moving(self, by: i32) -> Self {
        match self {
            Self::Checked => Self::Checked,
            Self::Based { base, displacement, delta } => {
                Self::Based { base, displacement: displacement - by, delta }
            }
        }
    }
}

impl Assembler {
    /// Guest memory's operand, with REX and opcode before.
    fn guest_operand(&mut self, opcode: &[u8], reg: Host, memory: Memory, wide: bool) {
        let reg_bits = (reg.0 & 7) << 3;
        match memory {
            Memory::Checked => {
                self.rex(wide, reg, 0, R10.0);
                self.raw(opcode);
                self.raw(&[reg_bits | R10.0 & 7]);
            }
            Memory::Based { base, displacement, delta } => {
                self.rex(wide, reg, delta.0, base.0);
                self.raw(opcode);
                self.raw(&[0x84 | reg_bits, (delta.0 & 7) << 3 | base.0 & 7]);
                self.raw(&displacement.to_le_bytes());
            }
        }
    }

    /// `mov reg, memory`, of 64 or 32 bits.
    pub fn load_guest(&mut self, reg: Host, memory: Memory, wide: bool) {
        self.guest_operand(&[0x8b], reg, memory, wide);
    }

    /// `movzx reg, word memory`, of 32 bits.
    pub fn load_guest_word(&mut self, reg: Host, memory: Memory) {
        self.guest_operand(&[0x0f, 0xb7], reg, memory, false);
    }

    /// `mov memory, reg`, of 64 or 32 bits.
    pub fn store_guest(&mut self, memory: Memory, reg: Host, wide: bool) {
        self.guest_operand(&[0x89], reg, memory, wide);
    }

    /// `mov memory, value`, of 64 bits, to which it is sign-extended, or 32.
    pub fn store_guest_immediate(&mut self, memory: Memory, value: i32, wide: bool) {
        self.guest_operand(&[0xc7], Host(0), memory, wide);
        self.raw(&value.to_le_bytes());
    }

    /// `cmp qword [reg], 0`; the register is R11.
    pub fn cmp_r11_memory_zero(&mut self) {
        self.raw(&[0x49, 0x83, 0x3b, 0]);
    }
}
