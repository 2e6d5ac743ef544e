//! The header of a Linux bzImage (Linux, `Documentation/arch/x86/boot.rst`).
//!
//! A bzImage is a real-mode part, whose second sector holds the header, and the protected-mode part: a decompressor
//! with the compressed kernel (the *payload*) inside. Offsets here are the document's, from the start of the file.

use std::ops::Range;

use thiserror::Error;

use super::bytes::{range_within, u16_at, u32_at, u64_at};

const BOOT_FLAG: u16 = 0xaa55;
const MAGIC: &[u8] = b"HdrS";
/// The first protocol version that says where the payload is.
const OLDEST_VERSION: u16 = 0x0208;
/// The first one with `xloadflags`.
const XLOADFLAGS_VERSION: u16 = 0x020c;
/// `xloadflags`: the kernel has a 64-bit entry point.
const XLF_KERNEL_64: u16 = 1 << 0;
const SECTOR: usize = 512;
/// Where the header begins, in the file and in the zero page.
pub const HEADER_START: usize = 0x1f1;
/// Where the room for the header ends in the zero page.
const HEADER_LIMIT: usize = 0x290;

/// Why a bzImage cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BzimageError {
    /// The boot flag or the magic number is missing.
    #[error("it has no Linux boot header")]
    NotBzimage,
    /// The file ends inside the header.
    #[error("the file ends inside its boot header: it is truncated")]
    HeaderTruncated,
    /// A protocol from before Linux 2.6.26.
    #[error("its boot protocol {}.{:02} is too old: 2.08 is the oldest one supported", version >> 8, version & 0xff)]
    TooOld {
        /// Major version in the high byte, minor in the low.
        version: u16,
    },
    /// The payload or the protected-mode part lies outside the file.
    #[error("its {0} lies outside the file: it is truncated")]
    OutsideFile(&'static str),
}

/// What booting needs of a bzImage; the ranges lie in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bzimage {
    /// The compressed kernel, with the little-endian size of its contents in the last four bytes.
    pub payload: Range<usize>,
    /// The protected-mode part.
    pub protected_mode: Range<usize>,
    /// The header's own bytes, which go to [`HEADER_START`] of the zero page; they fit there.
    pub header: Range<usize>,
    /// The fields that booting looks at.
    pub fields: Fields,
}

/// Fields of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fields {
    /// `xloadflags` has `XLF_KERNEL_64`.
    pub has_64_bit_entry: bool,
    /// `cmdline_size`: the longest command line in bytes, without its terminator.
    pub command_line_limit: u32,
    /// `initrd_addr_max`: the highest address that the initramfs may occupy.
    pub initrd_address_max: u32,
    /// `pref_address`: where the kernel wants to run.
    pub preferred_address: u64,
    /// `init_size`: bytes it needs from there before it has looked at the memory map.
    pub init_size: u32,
}

impl Bzimage {
    /// Whether the file claims to be a bzImage (or an older Linux image).
    #[must_use]
    pub fn is_one(file: &[u8]) -> bool {
        u16_at(file, 0x1fe) == Some(BOOT_FLAG) && file.get(0x202..0x206) == Some(MAGIC)
    }

    /// Reads the header of `file`.
    ///
    /// # Errors
    /// The file is no bzImage, is too old or truncated.
    pub fn parse(file: &[u8]) -> Result<Self, BzimageError> {
        if !Self::is_one(file) {
            return Err(BzimageError::NotBzimage);
        }
        let truncated = BzimageError::HeaderTruncated;
        let version = u16_at(file, 0x206).ok_or(truncated)?;
        if version < OLDEST_VERSION {
            return Err(BzimageError::TooOld { version });
        }
        let u32_field = |offset| u32_at(file, offset).ok_or(truncated);
        let fields = Fields {
            has_64_bit_entry: version >= XLOADFLAGS_VERSION
                && u16_at(file, 0x236).ok_or(truncated)? & XLF_KERNEL_64 != 0,
            command_line_limit: u32_field(0x238)?,
            initrd_address_max: u32_field(0x22c)?,
            preferred_address: u64_at(file, 0x258).ok_or(truncated)?,
            init_size: u32_field(0x260)?,
        };

        // A jump instruction's operand, counted from 0x202, tells where the header ends.
        let header_end = 0x202 + usize::from(*file.get(0x201).ok_or(truncated)?);
        let header = HEADER_START..header_end.min(HEADER_LIMIT);
        if header.end > file.len() {
            return Err(truncated);
        }
        let setup_sectors = match file[HEADER_START] {
            0 => 4,
            sectors => usize::from(sectors),
        };
        let protected_mode = (setup_sectors + 1) * SECTOR..file.len();
        // `syssize`, in paragraphs of 16 bytes. What follows that part is a signature.
        let promised = u64::from(u32_field(0x1f4)?) * 16;
        if protected_mode.is_empty() || (protected_mode.len() as u64) < promised {
            return Err(BzimageError::OutsideFile("protected-mode part"));
        }
        let payload = range_within(u32_field(0x248)?.into(), u32_field(0x24c)?.into(), protected_mode.len())
            .ok_or(BzimageError::OutsideFile("payload"))?;
        let payload = protected_mode.start + payload.start..protected_mode.start + payload.end;
        Ok(Self { payload, protected_mode, header, fields })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::samples::{bzimage, truncations};

    #[test]
    fn header_fields_and_payload_are_found() {
        let file = bzimage(b"payload");
        let image = Bzimage::parse(&file).unwrap();
        assert_eq!(&file[image.payload], b"payload");
        assert_eq!(image.header.len(), 0x202 + 0x6a - HEADER_START);
        assert_eq!(
            image.fields,
            Fields {
                has_64_bit_entry: true,
                command_line_limit: 2047,
                initrd_address_max: 0x7fff_ffff,
                preferred_address: 0x100_0000,
                init_size: 0x20_0000,
            }
        );
    }

    #[test]
    fn every_truncation_is_refused() {
        for part in truncations(&bzimage(b"payload")) {
            assert!(Bzimage::parse(part).is_err(), "{} bytes", part.len());
        }
    }

    #[test]
    fn a_file_that_ends_behind_the_payload_but_before_its_promised_end_is_refused() {
        let mut file = bzimage(b"payload");
        let paragraphs = u8::try_from((file.len() - 5 * SECTOR).div_ceil(16)).unwrap();
        file[0x1f4] = paragraphs;
        assert_eq!(Bzimage::parse(&file), Err(BzimageError::OutsideFile("protected-mode part")));
        file.resize(5 * SECTOR + 16 * usize::from(paragraphs), 0);
        assert!(Bzimage::parse(&file).is_ok());
    }

    #[test]
    fn protocols_before_2_08_are_refused() {
        let mut file = bzimage(b"payload");
        file[0x206] = 7;
        assert_eq!(Bzimage::parse(&file), Err(BzimageError::TooOld { version: 0x0207 }));
    }

    #[test]
    fn before_2_12_there_is_no_64_bit_entry() {
        let mut file = bzimage(b"payload");
        file[0x206] = 0x0b;
        assert!(!Bzimage::parse(&file).unwrap().fields.has_64_bit_entry);
    }

    #[test]
    fn zero_setup_sectors_mean_four() {
        let mut file = bzimage(b"payload");
        assert_eq!(file[HEADER_START], 4);
        file[HEADER_START] = 0;
        assert_eq!(&file[Bzimage::parse(&file).unwrap().payload], b"payload");
    }

    #[test]
    fn a_payload_that_wraps_is_refused() {
        let mut file = bzimage(b"payload");
        file[0x248..0x250].fill(0xff);
        assert_eq!(Bzimage::parse(&file), Err(BzimageError::OutsideFile("payload")));
    }
}
