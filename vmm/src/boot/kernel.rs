//! A kernel file, understood: which protocol enters it, and where.

use std::borrow::Cow;

use thiserror::Error;

use super::parse::bzimage::{Bzimage, BzimageError};
use super::parse::detect::{KernelKind, NotAKernel, detect};
use super::parse::elf::{Elf, ElfError};
use super::parse::multiboot::{Multiboot, MultibootError};
use super::parse::unpack::{UnpackError, unpack};

/// The longest command line of a Linux kernel that does not say (`COMMAND_LINE_SIZE` without the terminator).
const LINUX_COMMAND_LINE_LIMIT: usize = 2047;
/// The longest command line for anything else: a page with its terminator.
const COMMAND_LINE_LIMIT: usize = 4095;
/// A flat image ends where low RAM does and begins where a boot sector is loaded.
const FLAT_IMAGE_LIMIT: usize = 0x9_fc00 - 0x7c00;

/// Why a file cannot be booted.
#[derive(Debug, Error)]
pub enum BootError {
    /// The file is none of the kinds that can be booted.
    #[error("not a kernel")]
    NotAKernel(#[from] NotAKernel),
    /// The file is a damaged or very old bzImage.
    #[error("cannot boot the bzImage")]
    Bzimage(#[from] BzimageError),
    /// The kernel inside does not come out.
    #[error("cannot unpack the bzImage")]
    Unpack(#[from] UnpackError),
    /// The bzImage offers no way in that Tern has.
    #[error(
        "the bzImage has neither a 64-bit entry nor a PVH one: configure its kernel for x86-64 or with CONFIG_PVH"
    )]
    BzimageWithoutEntry,
    /// The ELF file cannot be loaded.
    #[error("cannot load the ELF file")]
    Elf(#[from] ElfError),
    /// The ELF file does not say how it wants to be entered.
    #[error(
        "the ELF file has no PVH entry, is no x86-64 Linux kernel and has no multiboot header: give it a PVH note (Xen, type 18) or a multiboot 1 header"
    )]
    ElfWithoutEntry,
    /// The multiboot kernel cannot be loaded.
    #[error("cannot load the multiboot kernel")]
    Multiboot(#[from] MultibootError),
    /// The flat image does not fit between 0x7c00 and the end of low memory.
    #[error("a boot sector or flat image has 1 to {FLAT_IMAGE_LIMIT} bytes, not {0}")]
    FlatImageSize(usize),
}

/// The ways into a kernel.
#[derive(Debug)]
pub(super) enum Entry {
    Pvh {
        elf: Elf,
        entry: u32,
    },
    /// With the header of the bzImage that it was packed in, if it was.
    LinuxElf {
        elf: Elf,
        entry: u32,
        header: Option<Vec<u8>>,
    },
    LinuxBzimage(Bzimage),
    Multiboot(Multiboot),
    BootSector,
}

/// A kernel that can be loaded.
#[derive(Debug)]
pub struct Kernel<'a> {
    /// The file, or what was packed in it.
    pub(super) image: Cow<'a, [u8]>,
    pub(super) entry: Entry,
    /// Bytes without the terminator.
    pub(super) command_line_limit: usize,
    /// The address that an initramfs must lie below.
    pub(super) initrd_ceiling: u64,
}

impl<'a> Kernel<'a> {
    /// Reads a kernel file. Its kind shows by its bytes if `kind` is `None`.
    ///
    /// A bzImage is unpacked, which takes a moment, and entered where its own unpacker would; through PVH if it is a 32-bit
    /// kernel, and as it is, through the file's 64-bit entry point, if its compression is unknown.
    ///
    /// # Errors
    /// The file is not of this kind or no kernel at all, is truncated or corrupt, or asks for what Tern cannot do.
    pub fn parse(file: impl Into<Cow<'a, [u8]>>, kind: Option<KernelKind>) -> Result<Self, BootError> {
        let file = file.into();
        match kind.map_or_else(|| detect(&file), Ok)? {
            KernelKind::BzImage => Self::bzimage(file),
            KernelKind::Elf => Self::elf(file),
            KernelKind::Multiboot => {
                let header = Multiboot::parse(&file)?;
                Ok(Self::new(file, Entry::Multiboot(header), COMMAND_LINE_LIMIT))
            }
            KernelKind::BootSector if (1..=FLAT_IMAGE_LIMIT).contains(&file.len()) => {
                Ok(Self::new(file, Entry::BootSector, 0))
            }
            KernelKind::BootSector => Err(BootError::FlatImageSize(file.len())),
        }
    }

    /// The protocol that enters it, for messages.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        match self.entry {
            Entry::Pvh { .. } => "PVH",
            Entry::LinuxElf { .. } | Entry::LinuxBzimage(_) => "64-bit Linux",
            Entry::Multiboot(_) => "multiboot 1",
            Entry::BootSector => "boot sector",
        }
    }

    fn new(image: Cow<'a, [u8]>, entry: Entry, command_line_limit: usize) -> Self {
        Self { image, entry, command_line_limit, initrd_ceiling: u64::MAX }
    }

    fn elf(file: Cow<'a, [u8]>) -> Result<Self, BootError> {
        let elf = Elf::parse(&file)?;
        // A Linux that is entered through PVH first looks for Xen, by 256 CPUIDs: on hardware each leaves the guest.
        let entry = match elf.pvh_entry {
            _ if elf.has_linux_note && elf.is_64_bit => Self::linux(elf, None)?,
            Some(entry) => Entry::Pvh { elf, entry },
            None if elf.is_linux(&file) => Self::linux(elf, None)?,
            None => return Err(BootError::ElfWithoutEntry),
        };
        Ok(Self::new(file, entry, LINUX_COMMAND_LINE_LIMIT))
    }

    fn linux(elf: Elf, header: Option<Vec<u8>>) -> Result<Entry, BootError> {
        Ok(Entry::LinuxElf { entry: elf.physical_entry()?, elf, header })
    }

    fn bzimage(file: Cow<'a, [u8]>) -> Result<Self, BootError> {
        let bzimage = Bzimage::parse(&file)?;
        let fields = bzimage.fields;
        let mut kernel = match unpack(&file) {
            Ok(inner) => Self::unpacked(inner, &file[bzimage.header.clone()], fields.has_64_bit_entry)?,
            Err(UnpackError::UnknownCompression) if fields.has_64_bit_entry => {
                Self::new(file, Entry::LinuxBzimage(bzimage), 0)
            }
            Err(UnpackError::UnknownCompression) => return Err(BootError::BzimageWithoutEntry),
            Err(error) => return Err(error.into()),
        };
        kernel.command_line_limit = usize::try_from(fields.command_line_limit)
            .map_or(COMMAND_LINE_LIMIT, |limit| limit.min(COMMAND_LINE_LIMIT));
        kernel.initrd_ceiling = u64::from(fields.initrd_address_max) + 1;
        Ok(kernel)
    }

    /// The kernel that was in a bzImage with this header.
    fn unpacked(inner: Vec<u8>, header: &[u8], has_64_bit_entry: bool) -> Result<Self, BootError> {
        let elf = Elf::parse(&inner)?;
        let entry = match elf.pvh_entry {
            _ if elf.is_64_bit && has_64_bit_entry => Self::linux(elf, Some(header.to_vec()))?,
            Some(entry) => Entry::Pvh { elf, entry },
            None => return Err(BootError::BzimageWithoutEntry),
        };
        Ok(Self::new(Cow::Owned(inner), entry, 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::parse::bzimage::HEADER_START;
    use crate::boot::samples::{bzimage, elf, elf32, linux_note, load, multiboot, pvh_note};

    fn protocol(file: &[u8]) -> Result<&'static str, BootError> {
        Kernel::parse(file, None).map(|kernel| kernel.protocol())
    }

    #[test]
    fn the_kernel_in_a_bzimage_is_unpacked_and_entered_with_the_bzimages_header() {
        let code = load(0x100_0000, b"code", 0x1000);
        for inner in [elf(&[code.clone(), pvh_note(0x100_0000)]), elf(&[code])] {
            let file = bzimage(&inner);
            let kernel = Kernel::parse(&file[..], None).unwrap();
            assert_eq!(kernel.protocol(), "64-bit Linux");
            assert_eq!(*kernel.image, inner);
            assert_eq!((kernel.command_line_limit, kernel.initrd_ceiling), (2047, 0x8000_0000));
            let Entry::LinuxElf { entry, header: Some(header), .. } = kernel.entry else {
                panic!("{:?}", kernel.entry)
            };
            assert_eq!((entry, &header[0x202 - HEADER_START..][..4]), (0x100_0000, &b"HdrS"[..]));
        }
    }

    #[test]
    fn a_bzimage_of_unknown_compression_is_entered_as_it_is() {
        let file = bzimage(b"unknown compression");
        let kernel = Kernel::parse(&file[..], None).unwrap();
        assert_eq!(kernel.protocol(), "64-bit Linux");
        assert_eq!(*kernel.image, file);
        assert_eq!(kernel.command_line_limit, 2047);
    }

    #[test]
    fn a_32_bit_bzimage_is_entered_through_pvh_or_refused() {
        let code = load(0x100_0000, b"code", 0x1000);
        for (inner, is_taken) in
            [(elf32(&[code.clone(), pvh_note(0x100_0000)]), true), (elf32(&[code]), false)]
        {
            let mut file = bzimage(&inner);
            file[0x236] = 0;
            match protocol(&file) {
                Ok(protocol) => assert_eq!((protocol, is_taken), ("PVH", true)),
                Err(error) => {
                    assert!(matches!(error, BootError::BzimageWithoutEntry) && !is_taken, "{error}")
                }
            }
        }
    }

    #[test]
    fn a_linux_with_a_pvh_entry_is_entered_as_a_linux() {
        let code = load(0x100_0000, b"code", 0x1000);
        let parts = |note| elf(&[code.clone(), pvh_note(0x100_0000), note]);
        assert_eq!(protocol(&parts(linux_note())).unwrap(), "64-bit Linux");
        assert_eq!(protocol(&parts(pvh_note(0x100_0000))).unwrap(), "PVH");
    }

    #[test]
    fn a_corrupt_payload_is_no_reason_to_try_another_entry() {
        assert!(matches!(protocol(&bzimage(b"\x1f\x8bcorrupt")), Err(BootError::Unpack(_))));
    }

    #[test]
    fn an_unpacked_linux_is_known_by_its_banner() {
        let linux = load(0x100_0000, b"... Linux version 6.1 ...", 0x1000);
        assert_eq!(protocol(&elf(&[linux])).unwrap(), "64-bit Linux");
        let other = elf(&[load(0x100_0000, b"code", 0x1000)]);
        assert!(matches!(protocol(&other), Err(BootError::ElfWithoutEntry)));
    }

    #[test]
    fn the_kind_can_be_forced() {
        let flat = Kernel::parse(&b"\xeb\xfe"[..], Some(KernelKind::BootSector)).unwrap();
        assert_eq!(flat.protocol(), "boot sector");
        let header = multiboot(0x1_0000, &[0x10_0004, 0x10_0000, 0, 0, 0x10_0000], b"");
        assert_eq!(protocol(&header).unwrap(), "multiboot 1");
        assert!(matches!(
            Kernel::parse(&header, Some(KernelKind::Elf)),
            Err(BootError::Elf(ElfError::NotElf))
        ));
    }

    #[test]
    fn flat_images_end_with_low_memory() {
        let parse = |size| Kernel::parse(vec![0; size], Some(KernelKind::BootSector));
        assert!(parse(FLAT_IMAGE_LIMIT).is_ok());
        assert!(matches!(parse(FLAT_IMAGE_LIMIT + 1), Err(BootError::FlatImageSize(_))));
        assert!(matches!(parse(0), Err(BootError::FlatImageSize(0))));
    }
}
