//! FNSTENV, FLDENV, FNSAVE and FRSTOR: the x87 environment and state in their four memory formats
//! (APM volume 2, section 11.4.4.2 "x87 environment"; SDM volume 1, figures 8-9 to 8-12).
//!
//! Selectors of the exception pointers are not kept and stored as zero, which CPUID Fn7_EBX announces as FCS/FDS
//! deprecation. Reserved halves of 32-bit fields are stored as ones, as processors do.

use super::StoreImage;
use super::fields::{self, Pointers, read_u16, read_u32, write};
use crate::state::FpuState;

/// Bytes of the eight data registers behind the environment of FNSAVE and FRSTOR.
const REGISTERS_SIZE: usize = 80;

/// The memory format, chosen by operand size and mode. 64-bit code uses the protected-mode ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EnvironmentFormat {
    /// 16-bit operand size in real or virtual-8086 mode.
    Real16,
    /// 16-bit operand size in protected mode.
    Protected16,
    /// 32-bit operand size in real or virtual-8086 mode.
    Real32,
    /// 32-bit operand size in protected mode.
    Protected32,
}

impl EnvironmentFormat {
    /// Bytes that FNSTENV stores and FLDENV loads: 14 or 28.
    #[must_use]
    pub const fn environment_size(self) -> usize {
        match self {
            Self::Real16 | Self::Protected16 => 14,
            Self::Real32 | Self::Protected32 => 28,
        }
    }

    /// Bytes that FNSAVE stores and FRSTOR loads: 94 or 108.
    #[must_use]
    pub const fn state_size(self) -> usize {
        self.environment_size() + REGISTERS_SIZE
    }
}

/// FNSTENV: what it stores. After the store comes [`super::mask_x87_exceptions`].
#[must_use]
pub fn fnstenv(fpu: &FpuState, format: EnvironmentFormat) -> StoreImage {
    let mut image = StoreImage::new();
    store_environment(fpu, format, image.piece(0..format.environment_size()));
    image
}

/// FNSAVE: what it stores. After the store comes [`super::fninit`].
#[must_use]
pub fn fnsave(fpu: &FpuState, format: EnvironmentFormat) -> StoreImage {
    let mut image = StoreImage::new();
    let bytes = image.piece(0..format.state_size());
    store_environment(fpu, format, bytes);
    for n in 0..8 {
        write(bytes, format.environment_size() + 10 * n, &fields::st(fpu, n));
    }
    image
}

/// FLDENV (waiting) of [`EnvironmentFormat::environment_size`] bytes. The data registers keep their contents; which one is
/// ST(0) changes with the stack top. An exception flag that is set and not masked makes
/// an exception pending.
///
/// # Panics
/// `bytes` is shorter than the format.
pub fn fldenv(fpu: &mut FpuState, format: EnvironmentFormat, bytes: &[u8]) {
    let stride = format.environment_size() / 7;
    let field = |n| read_u16(bytes, stride * n);
    fields::move_top(fpu, field(1));
    fields::set_control_and_status(fpu, field(0), field(1));
    fpu.set_ftw(abridge(field(2)));
    let pointers = match format {
        EnvironmentFormat::Protected16 => {
            Pointers { opcode: 0, instruction: u64::from(field(3)), operand: u64::from(field(5)) }
        }
        EnvironmentFormat::Real16 => Pointers {
            opcode: field(4),
            instruction: u64::from(field(3)) | u64::from(field(4) >> 12) << 16,
            operand: u64::from(field(5)) | u64::from(field(6) >> 12) << 16,
        },
        EnvironmentFormat::Protected32 => Pointers {
            opcode: read_u16(bytes, 18),
            instruction: u64::from(read_u32(bytes, 12)),
            operand: u64::from(read_u32(bytes, 20)),
        },
        EnvironmentFormat::Real32 => {
            let high = |at| u64::from(read_u32(bytes, at) >> 12 & 0xffff) << 16;
            Pointers {
                opcode: field(4),
                instruction: u64::from(field(3)) | high(16),
                operand: u64::from(field(5)) | high(24),
            }
        }
    };
    fields::set_pointers(fpu, pointers);
}

/// FRSTOR (waiting) of [`EnvironmentFormat::state_size`] bytes.
///
/// # Panics
/// `bytes` is shorter than the format.
pub fn frstor(fpu: &mut FpuState, format: EnvironmentFormat, bytes: &[u8]) {
    fldenv(fpu, format, bytes);
    for n in 0..8 {
        let mut value = [0; 10];
        value.copy_from_slice(&bytes[format.environment_size() + 10 * n..][..10]);
        fields::set_st(fpu, n, value);
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the formats hold fewer bits of the pointers than there are"
)]
fn store_environment(fpu: &FpuState, format: EnvironmentFormat, bytes: &mut [u8]) {
    let Pointers { opcode, instruction, operand } = fields::pointers(fpu);
    let control = [fpu.fcw(), fpu.fsw(), full_tag_word(fpu)];
    let real16 = |pointer: u64| (pointer >> 16 << 12) as u16;
    let real32 = |pointer: u64| pointer as u32 >> 16 << 12;
    let words = |bytes: &mut [u8], pointers: [u16; 4]| {
        for (n, word) in control.into_iter().chain(pointers).enumerate() {
            write(bytes, 2 * n, &word.to_le_bytes());
        }
    };
    let doublewords = |bytes: &mut [u8], pointers: [u32; 4]| {
        let control = control.into_iter().map(|word| RESERVED_HIGH | u32::from(word));
        for (n, doubleword) in control.chain(pointers).enumerate() {
            write(bytes, 4 * n, &doubleword.to_le_bytes());
        }
    };
    match format {
        EnvironmentFormat::Protected16 => words(bytes, [instruction as u16, 0, operand as u16, 0]),
        EnvironmentFormat::Real16 => {
            words(bytes, [instruction as u16, real16(instruction) | opcode, operand as u16, real16(operand)])
        }
        EnvironmentFormat::Protected32 => {
            doublewords(bytes, [instruction as u32, u32::from(opcode) << 16, operand as u32, RESERVED_HIGH])
        }
        EnvironmentFormat::Real32 => doublewords(
            bytes,
            [
                RESERVED_HIGH | instruction as u32 & 0xffff,
                real32(instruction) | u32::from(opcode),
                RESERVED_HIGH | operand as u32 & 0xffff,
                real32(operand),
            ],
        ),
    }
}

/// The reserved upper half of a 32-bit field.
const RESERVED_HIGH: u32 = 0xffff_0000;

/// The tag word with two bits for each physical register: 0 valid, 1 zero, 2 special, 3 empty.
fn full_tag_word(fpu: &FpuState) -> u16 {
    let top = fields::top(fpu);
    (0..8).fold(0, |word, physical| {
        let tag = if fpu.ftw() >> physical & 1 == 0 {
            3
        } else {
            content_tag(fields::st(fpu, (physical + 8 - top) & 7))
        };
        word | tag << (2 * physical)
    })
}

/// The tag of a register in use, by its contents. Numbers without the integer bit are special, whatever their exponent.
fn content_tag(value: [u8; 10]) -> u16 {
    let significand = fields::read_u64(&value, 0);
    match read_u16(&value, 8) & 0x7fff {
        0 if significand == 0 => 1,
        0 | 0x7fff => 2,
        _ if significand >> 63 == 0 => 2,
        _ => 0,
    }
}

/// The abridged tag word: which physical registers are not empty.
fn abridge(full: u16) -> u8 {
    (0..8).fold(0, |word, physical| word | u8::from(full >> (2 * physical) & 3 != 3) << physical)
}

#[cfg(test)]
mod tests {
    use super::super::{mask_x87_exceptions, record_x87_pointers, x87_exception_pending};
    use super::*;

    const FORMATS: [EnvironmentFormat; 4] = [
        EnvironmentFormat::Real16,
        EnvironmentFormat::Protected16,
        EnvironmentFormat::Real32,
        EnvironmentFormat::Protected32,
    ];

    fn bytes(image: &StoreImage) -> &[u8] {
        let (offset, bytes) = image.pieces().next().expect("one piece");
        assert_eq!((offset, image.pieces().count()), (0, 1));
        bytes
    }

    /// Top of stack 5; ST(0) = 1.0, ST(1) = 0, ST(2) infinity, the rest empty.
    fn sample() -> FpuState {
        let mut fpu = FpuState::new();
        fpu.set_fsw(5 << 11);
        fpu.set_ftw(0b1110_0000);
        fields::set_st(&mut fpu, 0, [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f]);
        fields::set_st(&mut fpu, 2, [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x7f]);
        record_x87_pointers(&mut fpu, 0x0012_3456, Some(0x000a_bcde), 0xddee);
        fpu
    }

    #[test]
    fn tags_follow_the_contents_and_are_numbered_physically() {
        assert_eq!(full_tag_word(&sample()), 0b10_01_00_11_11_11_11_11);
        assert_eq!(abridge(0b10_01_00_11_11_11_11_11), 0b1110_0000);
        assert_eq!(content_tag([0, 0, 0, 0, 0, 0, 0, 0x40, 0xff, 0x3f]), 2, "unnormal");
        assert_eq!(content_tag([1, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 2, "denormal");
        assert_eq!(content_tag([0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80]), 1, "negative zero");
    }

    #[test]
    fn each_format_puts_the_pointers_where_the_manual_draws_them() {
        let fpu = sample();
        let image = fnstenv(&fpu, EnvironmentFormat::Protected32);
        let b = bytes(&image);
        assert_eq!(b.len(), 28);
        assert_eq!((read_u32(b, 0), read_u32(b, 4)), (0xffff_037f, 0xffff_2800));
        assert_eq!((read_u32(b, 12), read_u32(b, 16)), (0x0012_3456, 0x05ee_0000));
        assert_eq!((read_u32(b, 20), read_u32(b, 24)), (0x000a_bcde, 0xffff_0000));
        let image = fnstenv(&fpu, EnvironmentFormat::Real32);
        let b = bytes(&image);
        assert_eq!((read_u32(b, 12), read_u32(b, 16)), (0xffff_3456, 0x0001_25ee));
        assert_eq!((read_u32(b, 20), read_u32(b, 24)), (0xffff_bcde, 0x0000_a000));
        let image = fnstenv(&fpu, EnvironmentFormat::Real16);
        let b = bytes(&image);
        assert_eq!(b.len(), 14);
        assert_eq!((read_u16(b, 6), read_u16(b, 8)), (0x3456, 0x25ee));
        assert_eq!((read_u16(b, 10), read_u16(b, 12)), (0xbcde, 0xa000));
        let image = fnstenv(&fpu, EnvironmentFormat::Protected16);
        let b = bytes(&image);
        assert_eq!((read_u16(b, 6), read_u16(b, 10)), (0x3456, 0xbcde));
    }

    #[test]
    fn what_fnsave_stores_frstor_brings_back_in_every_format() {
        for format in FORMATS {
            let mut fpu = sample();
            // What every format can hold: 16 bits of pointer, and no opcode.
            record_x87_pointers(&mut fpu, 0x3456, Some(0xbcde), 0xd800);
            let image = fnsave(&fpu, format);
            assert_eq!(bytes(&image).len(), format.state_size());
            let mut loaded = FpuState::new();
            frstor(&mut loaded, format, bytes(&image));
            assert_eq!(loaded, fpu, "{format:?}");
        }
    }

    #[test]
    fn real_mode_formats_keep_as_many_pointer_bits_as_they_have() {
        for (format, mask) in
            [(EnvironmentFormat::Real16, 0xf_ffff), (EnvironmentFormat::Real32, 0xffff_ffff)]
        {
            let image = fnstenv(&sample(), format);
            let mut loaded = FpuState::new();
            fldenv(&mut loaded, format, bytes(&image));
            let expected = Pointers { opcode: 0x5ee, instruction: 0x12_3456 & mask, operand: 0xa_bcde };
            assert_eq!(fields::pointers(&loaded), expected);
        }
    }

    #[test]
    fn loading_an_unmasked_flag_makes_an_exception_pending_and_fnstenv_ends_it() {
        let mut fpu = sample();
        let mut environment = [0; 14];
        write(&mut environment, 2, &1u16.to_le_bytes());
        fldenv(&mut fpu, EnvironmentFormat::Protected16, &environment);
        assert!(x87_exception_pending(&fpu));
        assert_eq!(fpu.fsw(), 0x8081);
        mask_x87_exceptions(&mut fpu);
        assert_eq!((fpu.fcw(), fpu.fsw()), (0x007f, 0x0001));
    }
}
