//! The header of a multiboot 1 kernel (Multiboot Specification 0.6.96, sections 3.1 and 3.2).

use thiserror::Error;

use super::bytes::{range_within, u32_at};
use super::elf::{Elf, ElfError};
use super::segment::Segment;

/// The header lies within this many bytes from the start of the file, on a 4-byte boundary.
const SEARCHED: usize = 8192;
const MAGIC: u32 = 0x1bad_b002;
/// Flags bits 0 and 1: modules on page boundaries, memory information. Tern always gives both.
const ALWAYS_GIVEN: u32 = 0b11;
/// Flags bit 2: the kernel needs a video mode.
const VIDEO_MODE: u32 = 1 << 2;
/// Flags bits 0 to 15 are requirements; a loader that does not know one must refuse.
const REQUIREMENTS: u32 = 0xffff;
/// Flags bit 16: the address fields are valid and override the ELF headers.
const ADDRESS_FIELDS: u32 = 1 << 16;

/// Why a multiboot kernel cannot be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MultibootError {
    /// No header with a right checksum.
    #[error("it has no multiboot header in its first 8192 bytes")]
    NoHeader,
    /// The kernel insists on a video mode.
    #[error("it asks for a video mode, and the machine has no display: clear bit 2 of its multiboot flags")]
    VideoMode,
    /// A requirement that the specification does not define.
    #[error("its multiboot flags {0:#x} require features that do not exist")]
    UnknownRequirement(u32),
    /// The file ends inside the address fields.
    #[error("the file ends inside its multiboot header: it is truncated")]
    Truncated,
    /// The address fields contradict each other or the file.
    #[error("the address fields of its multiboot header contradict each other or the file's size")]
    Addresses,
    /// Neither address fields nor a loadable ELF file.
    #[error("its multiboot header has no address fields, and as an ELF file it cannot be loaded")]
    Elf(#[source] ElfError),
}

/// How a multiboot kernel is loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Multiboot {
    /// Physical address of the first instruction.
    pub entry: u32,
    /// What goes where: at least one, ascending, disjoint.
    pub segments: Vec<Segment>,
}

impl Multiboot {
    /// Whether `file` has a multiboot header.
    #[must_use]
    pub fn is_one(file: &[u8]) -> bool {
        find_header(file).is_some()
    }

    /// Reads the header of `file`, and its ELF headers if it has no addresses.
    ///
    /// # Errors
    /// There is no header, it requires what Tern cannot give, or it contradicts itself or the file.
    pub fn parse(file: &[u8]) -> Result<Self, MultibootError> {
        let (offset, flags) = find_header(file).ok_or(MultibootError::NoHeader)?;
        if flags & VIDEO_MODE != 0 {
            return Err(MultibootError::VideoMode);
        }
        if flags & REQUIREMENTS & !ALWAYS_GIVEN != 0 {
            return Err(MultibootError::UnknownRequirement(flags));
        }
        if flags & ADDRESS_FIELDS != 0 {
            return from_address_fields(file, offset);
        }
        let elf = Elf::parse(file).map_err(MultibootError::Elf)?;
        let entry = elf.physical_entry().map_err(MultibootError::Elf)?;
        Ok(Self { entry, segments: elf.segments })
    }
}

/// The header's offset in the file, and its flags.
fn find_header(file: &[u8]) -> Option<(usize, u32)> {
    (0..file.len().min(SEARCHED)).step_by(4).find_map(|offset| {
        let header = file.get(offset..(offset + 12).min(SEARCHED))?;
        let (magic, flags, checksum) = (u32_at(header, 0)?, u32_at(header, 4)?, u32_at(header, 8)?);
        let sum = magic.wrapping_add(flags).wrapping_add(checksum);
        (magic == MAGIC && sum == 0).then_some((offset, flags))
    })
}

/// Section 3.1.3, "The address fields of Multiboot header".
fn from_address_fields(file: &[u8], offset: usize) -> Result<Multiboot, MultibootError> {
    let field = |index: usize| u32_at(file, offset + 12 + 4 * index).ok_or(MultibootError::Truncated);
    let entry = field(4)?;
    let (header_address, load) = (u64::from(field(0)?), u64::from(field(1)?));
    let (load_end, bss_end) = (u64::from(field(2)?), u64::from(field(3)?));

    // The header's own address ties file offsets to addresses.
    let before_header = header_address.checked_sub(load).ok_or(MultibootError::Addresses)?;
    let file_start = (offset as u64).checked_sub(before_header).ok_or(MultibootError::Addresses)?;
    let file_size = match load_end {
        0 => file.len() as u64 - file_start,
        _ => load_end.checked_sub(load).ok_or(MultibootError::Addresses)?,
    };
    let bytes = range_within(file_start, file_size, file.len()).ok_or(MultibootError::Addresses)?;
    let memory_size = match bss_end {
        0 => file_size,
        _ => bss_end.checked_sub(load).filter(|size| *size >= file_size).ok_or(MultibootError::Addresses)?,
    };
    if !(load..load + memory_size).contains(&entry.into()) {
        return Err(MultibootError::Addresses);
    }
    let segment = Segment { file: bytes, address: load, virtual_address: load, memory_size };
    Ok(Multiboot { entry, segments: vec![segment] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::samples::{multiboot, truncations};

    #[test]
    fn address_fields_say_what_goes_where() {
        // Four bytes before the header, load at 1 MiB, no load end: the whole file; 0x1000 bytes in memory.
        let file = multiboot(0x1_0003, &[0x10_0004, 0x10_0000, 0, 0x10_1000, 0x10_0024], b"code");
        let kernel = Multiboot::parse(&file).unwrap();
        assert_eq!(kernel.entry, 0x10_0024);
        assert_eq!(
            kernel.segments,
            [Segment {
                file: 0..file.len(),
                address: 0x10_0000,
                virtual_address: 0x10_0000,
                memory_size: 0x1000
            }]
        );
    }

    #[test]
    fn every_truncation_is_refused() {
        let end = 0x10_0000 + 4 + 32 + 4;
        let file = multiboot(0x1_0003, &[0x10_0004, 0x10_0000, end, end, 0x10_0024], b"code");
        assert!(Multiboot::parse(&file).is_ok());
        for part in truncations(&file) {
            assert!(Multiboot::parse(part).is_err(), "{} bytes", part.len());
        }
    }

    #[test]
    fn a_header_behind_8192_bytes_does_not_count() {
        let header = multiboot(0x1_0000, &[0x10_0004, 0x10_0000, 0, 0, 0x10_0000], b"");
        let mut file = vec![0; SEARCHED - 16];
        file.extend(&header);
        assert!(Multiboot::is_one(&file));
        file.splice(0..0, [0; 4]);
        assert!(!Multiboot::is_one(&file));
    }

    #[test]
    fn a_wrong_checksum_is_no_header() {
        let mut file = multiboot(0x1_0000, &[0; 5], b"");
        file[12] ^= 1;
        assert_eq!(Multiboot::parse(&file), Err(MultibootError::NoHeader));
    }

    #[test]
    fn requirements_that_cannot_be_met_are_refused() {
        assert_eq!(Multiboot::parse(&multiboot(0x1_0004, &[0; 5], b"")), Err(MultibootError::VideoMode));
        assert_eq!(
            Multiboot::parse(&multiboot(0x1_0008, &[0; 5], b"")),
            Err(MultibootError::UnknownRequirement(0x1_0008))
        );
    }

    #[test]
    fn contradicting_addresses_are_refused() {
        for addresses in [
            [0x0f_ffff, 0x10_0000, 0, 0, 0x10_0000], // header below the load address
            [0x10_1000, 0x10_0000, 0, 0, 0x10_0000], // load address before the file
            [0x10_0004, 0x10_0000, 0x0f_0000, 0, 0x10_0000], // end before start
            [0x10_0004, 0x10_0000, 0x20_0000, 0, 0x10_0000], // end behind the file
            [0x10_0004, 0x10_0000, 0, 0x10_0001, 0x10_0000], // bss ends before the data
            [0x10_0004, 0x10_0000, 0, 0, 0x20_0000], // entry outside
        ] {
            let file = multiboot(0x1_0000, &addresses, b"code");
            assert_eq!(Multiboot::parse(&file), Err(MultibootError::Addresses), "{addresses:x?}");
        }
    }

    #[test]
    fn without_address_fields_the_elf_headers_count() {
        let file = multiboot(0, &[], b"");
        assert_eq!(Multiboot::parse(&file), Err(MultibootError::Elf(ElfError::NotElf)));
    }
}
