//! From files to a loaded guest: kernel formats, boot protocols and the boot processor's first state.
//!
//! ```text
//!  file ──▶ parse (pure: detect, bzimage + unpack, elf, multiboot) ──▶ Kernel
//!  Kernel + BootParameters ──▶ place (guest memory) ──▶ VcpuState
//! ```
//!
//! | file | how it is entered | source |
//! |---|---|---|
//! | bzImage | unpacked here, then as an ELF file of a Linux; of unknown compression, through its own 64-bit entry point | Linux, `Documentation/arch/x86/boot.rst` |
//! | ELF of an x86-64 Linux | 64-bit Linux protocol | as bzImage |
//! | other ELF with Xen's note 18 | PVH | Xen, `docs/misc/pvh.pandoc`, `xen/include/public/arch-x86/hvm/start_info.h` |
//! | multiboot 1 | 32-bit protected mode | Multiboot Specification 0.6.96 |
//! | boot sector, flat image | real mode at 0000:7C00 | what PC firmware does |
//!
//! To add a format, teach [`detect`] its signature, write its parser in `parse` and its placement in `place`.

pub mod memory_map;

mod kernel;
mod parse;
mod place;
#[cfg(test)]
mod samples;

pub use kernel::{BootError, Kernel};
pub use parse::bzimage::BzimageError;
pub use parse::detect::{KernelKind, NotAKernel, detect};
pub use parse::elf::ElfError;
pub use parse::multiboot::MultibootError;
pub use parse::unpack::{Compression, UnpackError, unpack, unpack_payload};
pub use place::{BootParameters, Module, PlaceError, load};
