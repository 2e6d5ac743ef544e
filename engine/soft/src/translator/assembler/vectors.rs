//! Vector registers, MXCSR and FCW, between the processor and the host.

use super::{Assembler, Host};

impl Assembler {
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

    /// `movaps [frame], xmm` or the other way round.
    pub fn vector(&mut self, register: u8, displacement: i32, store: bool) {
        self.rex(false, Host(register), 0, 0);
        self.raw(&[0x0f, if store { 0x29 } else { 0x28 }]);
        self.frame_operand(register, displacement);
    }

    /// `fldcw [frame]`.
    pub fn load_x87_control(&mut self, displacement: i32) {
        self.bytes.push(0xd9);
        self.frame_operand(5, displacement);
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
