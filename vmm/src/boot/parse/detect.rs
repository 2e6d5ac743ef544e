//! Knowing what kind of kernel a file is, by its bytes.

use thiserror::Error;

use super::bytes::u16_at;
use super::bzimage::Bzimage;
use super::elf::Elf;
use super::multiboot::Multiboot;
use super::unpack::Compression;

/// The kinds of file that can be booted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KernelKind {
    /// A Linux bzImage, the file that distributions install as `vmlinuz`.
    BzImage,
    /// An ELF file that is entered through PVH, or an unpacked Linux kernel (`vmlinux`).
    Elf,
    /// A multiboot 1 kernel.
    Multiboot,
    /// A boot sector or another flat image for real mode.
    BootSector,
}

/// The file is no kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "{0}; expected a Linux bzImage (vmlinuz), an ELF file with a PVH entry, a multiboot 1 kernel or a boot sector"
)]
pub struct NotAKernel(
    /// What it is instead.
    &'static str,
);

/// Signatures of files that are taken for kernels by mistake: offset, bytes, name.
const MISTAKES: [(usize, &[u8], &str); 9] = [
    (0, b"070701", "it is an initramfs: pass it as the initrd"),
    (0, b"QFI\xfb", "it is a qcow2 disk image"),
    (0x8001, b"CD001", "it is an ISO 9660 image"),
    (0, b"!<arch>\n", "it is an archive, perhaps a Debian package: unpack it first"),
    (0, b"\xed\xab\xee\xdb", "it is an RPM package: unpack it first"),
    (0x38, b"ARM\x64", "it is a Linux kernel for 64-bit ARM: build it for x86-64"),
    (0x38, b"RSC\x05", "it is a Linux kernel for RISC-V: build it for x86-64"),
    (0, b"MZ", "it is an EFI program without a Linux boot header"),
    (0, b"#!", "it is a script"),
];

/// Says what kind of kernel `file` is.
///
/// An ELF file that has both a PVH entry and a multiboot header counts as the former.
///
/// # Errors
/// [`NotAKernel`] says what the file seems to be instead.
pub fn detect(file: &[u8]) -> Result<KernelKind, NotAKernel> {
    if Bzimage::is_one(file) {
        return Ok(KernelKind::BzImage);
    }
    let is_elf = file.starts_with(b"\x7fELF");
    let has_pvh_entry = || Elf::parse(file).is_ok_and(|elf| elf.pvh_entry.is_some());
    if Multiboot::is_one(file) && !(is_elf && has_pvh_entry()) {
        return Ok(KernelKind::Multiboot);
    }
    if is_elf {
        return Ok(KernelKind::Elf);
    }
    if file.is_empty() {
        return Err(NotAKernel("the file is empty"));
    }
    let is_mistake = |(offset, bytes, _): &&(usize, &[u8], _)| {
        file.get(*offset..).is_some_and(|rest| rest.starts_with(bytes))
    };
    if let Some((_, _, name)) = MISTAKES.iter().find(is_mistake) {
        return Err(NotAKernel(name));
    }
    if u16_at(file, 510) == Some(0xaa55) {
        return Ok(KernelKind::BootSector);
    }
    match Compression::detect(file) {
        Some(_) => Err(NotAKernel("it is a compressed file: unpack it first")),
        None => Err(NotAKernel("its format is unknown")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::samples::{Part, bzimage, elf, load, multiboot, pvh_note};

    #[test]
    fn every_kind_is_known_by_its_bytes() {
        assert_eq!(detect(&bzimage(b"")), Ok(KernelKind::BzImage));
        assert_eq!(detect(&elf(&[])), Ok(KernelKind::Elf));
        assert_eq!(detect(&multiboot(0, &[], b"")), Ok(KernelKind::Multiboot));
        let mut sector = [0; 512];
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(detect(&sector), Ok(KernelKind::BootSector));
    }

    #[test]
    fn of_two_protocols_pvh_is_preferred() {
        let header = multiboot(0, &[], b"");
        let kernel = |note: Part| {
            let mut file = elf(&[load(0x10_0000, b"code", 4), note]);
            file.resize(file.len().next_multiple_of(4), 0);
            file.extend(&header);
            file
        };
        assert_eq!(detect(&kernel(pvh_note(0x10_0000))), Ok(KernelKind::Elf));
        assert_eq!(detect(&kernel(load(0x20_0000, b"data", 4))), Ok(KernelKind::Multiboot));
    }

    #[test]
    fn files_that_are_no_kernels_are_named() {
        for (file, name) in [
            (&b""[..], "empty"),
            (b"070701000", "initramfs"),
            (b"\x1f\x8b\x08", "compressed"),
            (b"#!/bin/sh", "script"),
            (b"hello", "unknown"),
        ] {
            let error = detect(file).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
