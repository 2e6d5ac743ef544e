//! The x87, MMX and SSE state in the 64-bit FXSAVE layout (APM volume 2, section 11.4.4), and behind it what AVX adds: the
//! upper halves of the YMM registers, as XSAVE saves them (section 11.5.10).

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

/// Bytes of an FXSAVE image.
pub const FPU_IMAGE_SIZE: usize = 512;
/// Bytes of the upper halves of the sixteen YMM registers.
pub const YMM_SIZE: usize = 256;

bitflags! {
    /// MXCSR: SSE control and status.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(transparent)]
    pub struct Mxcsr: u32 {
        /// The six sticky exception flags IE, DE, ZE, OE, UE and PE.
        const FLAGS = 0x003f;
        /// Denormals are zeros.
        const DAZ = 0x0040;
        /// The six exception masks, in the order of the flags.
        const MASKS = 0x1f80;
        /// Rounding control.
        const RC = 0x6000;
        /// Flush to zero.
        const FZ = 0x8000;
    }
}

impl Default for Mxcsr {
    fn default() -> Self {
        Self::MASKS
    }
}

/// An FXSAVE image, aligned so that the processor's own FXRSTOR can load it, and the YMM registers' upper halves.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct FpuState {
    image: [u8; FPU_IMAGE_SIZE],
    ymm: [u8; YMM_SIZE],
}

impl FpuState {
    /// Bytes of the image that software can observe; the rest is reserved or free for software's own use.
    pub const ARCHITECTURAL_SIZE: usize = 416;
    /// Where MXCSR is in the image.
    pub const MXCSR_OFFSET: usize = 24;
    /// Where XMM0 is in the image; the others follow it.
    pub const XMM_OFFSET: usize = 160;
    /// Where the upper half of YMM0 is from the start of the state; the others follow it.
    pub const YMM_OFFSET: usize = FPU_IMAGE_SIZE;

    /// The state after FNINIT with cleared registers and MXCSR at its reset value.
    #[must_use]
    pub const fn new() -> Self {
        let mut image = [0; FPU_IMAGE_SIZE];
        image[0] = 0x7f;
        image[1] = 0x03;
        image[24] = 0x80;
        image[25] = 0x1f;
        Self { image, ymm: [0; YMM_SIZE] }
    }

    /// The whole image.
    #[must_use]
    pub const fn image(&self) -> &[u8; FPU_IMAGE_SIZE] {
        &self.image
    }

    /// The whole image, to be changed. The caller keeps reserved MXCSR bits clear.
    pub const fn image_mut(&mut self) -> &mut [u8; FPU_IMAGE_SIZE] {
        &mut self.image
    }

    /// The x87 control word.
    #[must_use]
    pub const fn fcw(&self) -> u16 {
        u16::from_le_bytes([self.image[0], self.image[1]])
    }

    /// Sets the x87 control word.
    pub const fn set_fcw(&mut self, value: u16) {
        [self.image[0], self.image[1]] = value.to_le_bytes();
    }

    /// The x87 status word; bit 7 (ES) says that an unmasked exception waits.
    #[must_use]
    pub const fn fsw(&self) -> u16 {
        u16::from_le_bytes([self.image[2], self.image[3]])
    }

    /// Sets the x87 status word.
    pub const fn set_fsw(&mut self, value: u16) {
        [self.image[2], self.image[3]] = value.to_le_bytes();
    }

    /// The abridged tag word: one bit per physical register, set where it is in use.
    #[must_use]
    pub const fn ftw(&self) -> u8 {
        self.image[4]
    }

    /// Sets the abridged tag word.
    pub const fn set_ftw(&mut self, value: u8) {
        self.image[4] = value;
    }

    /// MXCSR.
    #[must_use]
    pub const fn mxcsr(&self) -> Mxcsr {
        let i = &self.image;
        Mxcsr::from_bits_retain(u32::from_le_bytes([i[24], i[25], i[26], i[27]]))
    }

    /// Sets MXCSR; bits that do not exist are dropped.
    pub const fn set_mxcsr(&mut self, value: Mxcsr) {
        let b = Mxcsr::from_bits_truncate(value.bits()).bits().to_le_bytes();
        [self.image[24], self.image[25], self.image[26], self.image[27]] = b;
    }

    /// XMM register `n` (0 to 15).
    #[must_use]
    pub fn xmm(&self, n: usize) -> u128 {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.image[160 + 16 * n..176 + 16 * n]);
        u128::from_le_bytes(bytes)
    }

    /// Sets XMM register `n` (0 to 15).
    pub fn set_xmm(&mut self, n: usize, value: u128) {
        self.image[160 + 16 * n..176 + 16 * n].copy_from_slice(&value.to_le_bytes());
    }

    /// The upper halves of YMM0 to YMM15, one after the other.
    #[must_use]
    pub const fn ymm(&self) -> &[u8; YMM_SIZE] {
        &self.ymm
    }

    /// The same, to be changed.
    pub const fn ymm_mut(&mut self) -> &mut [u8; YMM_SIZE] {
        &mut self.ymm
    }

    /// YMM register `n` (0 to 15).
    #[must_use]
    pub fn vector(&self, n: usize) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&self.image[160 + 16 * n..176 + 16 * n]);
        bytes[16..].copy_from_slice(&self.ymm[16 * n..16 * n + 16]);
        bytes
    }

    /// Sets YMM register `n` (0 to 15).
    pub fn set_vector(&mut self, n: usize, value: &[u8; 32]) {
        self.image[160 + 16 * n..176 + 16 * n].copy_from_slice(&value[..16]);
        self.ymm[16 * n..16 * n + 16].copy_from_slice(&value[16..]);
    }
}

impl Default for FpuState {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for FpuState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("FpuState")
            .field("fcw", &format_args!("{:#06x}", self.fcw()))
            .field("fsw", &format_args!("{:#06x}", self.fsw()))
            .field("mxcsr", &format_args!("{:#010x}", self.mxcsr().bits()))
            .finish_non_exhaustive()
    }
}

/// The upper halves follow the image where one of them is not zero: a processor without AVX has the image alone.
impl Serialize for FpuState {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut bytes = self.image.to_vec();
        if self.ymm != [0; YMM_SIZE] {
            bytes.extend_from_slice(&self.ymm);
        }
        bytes.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for FpuState {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = alloc::vec::Vec::<u8>::deserialize(deserializer)?;
        let wrong =
            || serde::de::Error::custom("an FXSAVE image has 512 bytes, and YMM's upper halves 256 more");
        let (image, ymm) = bytes.split_first_chunk().ok_or_else(wrong)?;
        let ymm = match ymm {
            [] => [0; YMM_SIZE],
            ymm => ymm.try_into().map_err(|_| wrong())?,
        };
        let mut state = Self { image: *image, ymm };
        state.set_mxcsr(state.mxcsr());
        Ok(state)
    }
}
