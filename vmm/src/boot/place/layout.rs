//! Where boot structures lie in the guest's low memory.
//!
//! ```text
//! 0x00000 ┌ interrupt vectors and data of a BIOS that is not there: left alone
//! 0x07c00 │ boot sector (its protocol uses nothing else of this)
//! 0x10000 ├ STRUCTURES: what the protocol hands to the kernel, packed from the bottom:
//!         │   command lines, module list, memory map, start info / multiboot information / zero page,
//!         │   for 64-bit entries also the GDT and the page tables
//! 0x30000 ├ free
//! 0x9fc00 └ end of low RAM
//! 0x100000  kernels
//! ```
//!
//! The initramfs and other modules of PVH and Linux go as high as possible below the device hole; a multiboot
//! kernel's modules follow the kernel, as its authors expect. All addresses are physical.

use std::ops::Range;

/// Pages are this long.
pub(super) const PAGE: u64 = 4096;
/// The boot structures.
pub(super) const STRUCTURES: Range<u32> = 0x1_0000..0x3_0000;
/// Where a boot sector is loaded and entered.
pub(super) const BOOT_SECTOR: u16 = 0x7c00;
/// Where a bzImage's protected-mode part is loaded.
pub(super) const BZIMAGE: u64 = 0x10_0000;
