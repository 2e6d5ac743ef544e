//! FXSAVE and FXRSTOR (APM volume 2, section 11.4.4.3; SDM volume 1, sections 10.5 and 13.4).

use core::ops::Range;

use super::StoreImage;
use super::fields::{self, Pointers, read_u16, read_u32, read_u64, write};
use super::mxcsr::checked;
use crate::exception::Exception;
use crate::state::{FpuState, Mxcsr};

/// FCW to FDP.
pub(super) const X87_CONTROL: Range<usize> = 0..24;
/// MXCSR and MXCSR_MASK.
pub(super) const MXCSR: Range<usize> = 24..32;
/// ST(0) to ST(7).
pub(super) const X87_REGISTERS: Range<usize> = 32..160;
const XMM: usize = 160;

/// The variant of the FXSAVE layout, chosen by REX.W and mode. XSAVE and its kin use the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FxsaveLayout {
    /// REX.W: 64-bit exception pointers; otherwise 32-bit offsets, with selectors that read as zero.
    pub wide_pointers: bool,
    /// How many XMM registers take part: 16 in 64-bit code, 8 elsewhere; 0 for FXSAVE and FXRSTOR at CPL 0 in 64-bit code
    /// with EFER.FFXSR.
    pub xmm_registers: u8,
}

impl FxsaveLayout {
    /// The XMM registers that take part.
    pub(super) fn registers(self) -> Range<usize> {
        0..usize::from(self.xmm_registers.min(16))
    }

    /// Where they lie.
    pub(super) fn xmm(self) -> Range<usize> {
        XMM..XMM + 16 * self.registers().end
    }
}

/// FXSAVE: what it stores. The rest of its 512 bytes keeps its contents but must be writable.
#[must_use]
pub fn fxsave(fpu: &FpuState, layout: FxsaveLayout) -> StoreImage {
    let mut image = StoreImage::new();
    let end = layout.xmm().end;
    let bytes = image.piece(0..end);
    store_control(fpu, layout, &mut bytes[X87_CONTROL]);
    store_mxcsr(fpu, &mut bytes[MXCSR]);
    store_registers(fpu, &mut bytes[X87_REGISTERS]);
    bytes[XMM..].copy_from_slice(&fpu.image()[XMM..end]);
    image
}

/// FXRSTOR of 512 bytes.
///
/// # Errors
/// #GP(0) if the new MXCSR has bits that do not exist; nothing is changed then.
pub fn fxrstor(fpu: &mut FpuState, layout: FxsaveLayout, bytes: &[u8; 512]) -> Result<(), Exception> {
    let mxcsr = load_mxcsr(bytes)?;
    load_x87(fpu, layout, bytes);
    fpu.set_mxcsr(mxcsr);
    load_xmm(fpu, layout, bytes);
    Ok(())
}

/// The bytes of [`X87_CONTROL`].
pub(super) fn store_control(fpu: &FpuState, layout: FxsaveLayout, bytes: &mut [u8]) {
    bytes.copy_from_slice(&fpu.image()[..24]);
    bytes[5] = 0;
    if !layout.wide_pointers {
        bytes[12..16].fill(0);
        bytes[20..24].fill(0);
    }
}

/// The bytes of [`MXCSR`].
pub(super) fn store_mxcsr(fpu: &FpuState, bytes: &mut [u8]) {
    write(bytes, 0, &fpu.mxcsr().bits().to_le_bytes());
    write(bytes, 4, &Mxcsr::all().bits().to_le_bytes());
}

/// The bytes of [`X87_REGISTERS`].
pub(super) fn store_registers(fpu: &FpuState, bytes: &mut [u8]) {
    bytes.copy_from_slice(&fpu.image()[X87_REGISTERS]);
}

/// Loads what [`X87_CONTROL`] and [`X87_REGISTERS`] name. An exception flag that is set and not masked makes an exception
/// pending.
pub(super) fn load_x87(fpu: &mut FpuState, layout: FxsaveLayout, bytes: &[u8]) {
    fields::set_control_and_status(fpu, read_u16(bytes, 0), read_u16(bytes, 2));
    fpu.set_ftw(bytes[4]);
    let pointer =
        |at| if layout.wide_pointers { read_u64(bytes, at) } else { u64::from(read_u32(bytes, at)) };
    fields::set_pointers(
        fpu,
        Pointers { opcode: read_u16(bytes, 6), instruction: pointer(8), operand: pointer(16) },
    );
    for n in 0..8 {
        let mut value = [0; 10];
        value.copy_from_slice(&bytes[X87_REGISTERS.start + 16 * n..][..10]);
        fields::set_st(fpu, n, value);
    }
}

/// The MXCSR value in an area, or #GP(0).
pub(super) fn load_mxcsr(bytes: &[u8]) -> Result<Mxcsr, Exception> {
    checked(read_u32(bytes, MXCSR.start))
}

/// Loads the XMM registers that take part.
pub(super) fn load_xmm(fpu: &mut FpuState, layout: FxsaveLayout, bytes: &[u8]) {
    for n in layout.registers() {
        let low = u128::from(read_u64(bytes, XMM + 16 * n));
        fpu.set_xmm(n, low | u128::from(read_u64(bytes, XMM + 16 * n + 8)) << 64);
    }
}

#[cfg(test)]
mod tests {
    use super::super::record_x87_pointers;
    use super::*;

    fn sample() -> FpuState {
        let mut fpu = FpuState::new();
        fpu.set_fcw(0x027f);
        fpu.set_fsw(0x3841);
        fpu.set_ftw(0x80);
        record_x87_pointers(&mut fpu, 0x1234_5678_9abc, Some(0x7fff_0000_0010), 0xd9e8);
        fpu.set_mxcsr(Mxcsr::from_bits_retain(0x1fa0));
        for n in 0..8 {
            fields::set_st(&mut fpu, n, [0x10 + u8::try_from(n).expect("small"); 10]);
        }
        for n in 0..16 {
            fpu.set_xmm(n, (0x1111_2222_3333_4444 * (n as u128 + 1)) << 40);
        }
        fpu
    }

    fn stored(fpu: &FpuState, layout: FxsaveLayout, background: u8) -> [u8; 512] {
        let mut bytes = [background; 512];
        for (offset, piece) in fxsave(fpu, layout).pieces() {
            write(&mut bytes, usize::try_from(offset).expect("small"), piece);
        }
        bytes
    }

    const LONG: FxsaveLayout = FxsaveLayout { wide_pointers: true, xmm_registers: 16 };
    const LEGACY: FxsaveLayout = FxsaveLayout { wide_pointers: false, xmm_registers: 8 };

    #[test]
    fn a_saved_state_comes_back_whole() {
        let fpu = sample();
        let mut loaded = FpuState::new();
        assert_eq!(fxrstor(&mut loaded, LONG, &stored(&fpu, LONG, 0xee)), Ok(()));
        assert_eq!(loaded, fpu);
    }

    #[test]
    fn outside_64_bit_code_the_upper_registers_are_neither_stored_nor_loaded() {
        let bytes = stored(&sample(), LEGACY, 0xee);
        assert!(bytes[288..].iter().all(|&b| b == 0xee));
        let mut loaded = FpuState::new();
        loaded.set_xmm(8, 5);
        assert_eq!(fxrstor(&mut loaded, LEGACY, &bytes), Ok(()));
        assert_eq!((loaded.xmm(7), loaded.xmm(8)), (sample().xmm(7), 5));
        assert_eq!(fields::pointers(&loaded).instruction, 0x5678_9abc);
    }

    #[test]
    fn the_mxcsr_mask_is_the_models_and_not_the_hosts() {
        assert_eq!(read_u32(&stored(&sample(), LONG, 0), 28), 0xffff);
    }

    #[test]
    fn fast_fxsave_leaves_the_xmm_registers_out_but_not_mxcsr() {
        let fast = FxsaveLayout { xmm_registers: 0, ..LONG };
        let bytes = stored(&sample(), fast, 0xee);
        assert!(bytes[160..].iter().all(|&b| b == 0xee));
        assert_eq!(read_u32(&bytes, 24), 0x1fa0);
    }

    #[test]
    fn a_reserved_mxcsr_bit_faults_before_anything_is_loaded() {
        let mut bytes = stored(&sample(), LONG, 0);
        bytes[26] = 1;
        let mut fpu = FpuState::new();
        assert_eq!(fxrstor(&mut fpu, LONG, &bytes), Err(Exception::general_protection(0)));
        assert_eq!(fpu, FpuState::new());
    }
}
