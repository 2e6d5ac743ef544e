//! The other half of booting: putting what was parsed into guest memory, and the processor into its first state.
//!
//! One module per protocol; [`claims`] keeps everything apart, [`layout`] says where boot structures lie.

use std::ops::Range;

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use tern_engine::GuestMemory;
use tern_x86::state::VcpuState;

use super::kernel::{Entry, Kernel};
use super::memory_map::MemoryMap;
use super::parse::segment::Segment;

mod boot_sector;
mod claims;
mod cpu;
mod layout;
mod linux;
mod multiboot;
mod pvh;
mod structures;

use claims::Claims;
use layout::{PAGE, STRUCTURES};
use structures::Structures;

/// What a kernel gets besides its own file.
#[derive(Debug, Clone, Copy)]
pub struct BootParameters<'a> {
    /// The command line, without a terminator.
    pub command_line: &'a str,
    /// The initramfs. To a multiboot kernel it is the first module.
    pub initrd: Option<&'a [u8]>,
    /// Modules, for multiboot and PVH kernels.
    pub modules: &'a [Module<'a>],
    /// Physical address of ACPI's root pointer (RSDP).
    pub rsdp: u64,
    /// The memory map, which must describe the memory that is loaded into.
    pub memory_map: &'a MemoryMap,
}

/// A file that a kernel gets, with words about it.
#[derive(Debug, Clone, Copy)]
pub struct Module<'a> {
    /// The contents.
    pub bytes: &'a [u8],
    /// The module's command line, without a terminator.
    pub command_line: &'a str,
}

/// Why a kernel cannot be put into this machine's memory.
#[derive(Debug, Error)]
pub enum PlaceError {
    /// More memory would do.
    #[error(
        "{memory_mib} MiB of memory are too little for the {owner}: at least {needed_mib} MiB are needed; use --memory {needed_mib}M"
    )]
    TooLittleMemory {
        /// What does not fit.
        owner: &'static str,
        /// The memory below the device hole.
        memory_mib: u64,
        /// A size with which everything fits.
        needed_mib: u64,
    },
    /// No amount of memory would do.
    #[error("the {owner} is too large: its {length} bytes do not fit below {ceiling:#x} beside the kernel")]
    TooLarge {
        /// What does not fit.
        owner: &'static str,
        /// Its size in bytes.
        length: u64,
        /// The highest address it may reach.
        ceiling: u64,
    },
    /// A fixed address where there is no RAM.
    #[error("the {owner} wants {:#x} to {:#x}, where the machine has no RAM: link it elsewhere", range.start, range.end)]
    OutsideRam {
        /// What does not fit.
        owner: &'static str,
        /// Where it must lie.
        range: Range<u64>,
    },
    /// Two pieces want the same memory.
    #[error(
        "the {first} ({:#x} to {:#x}) overlaps the {second} ({:#x} to {:#x}): link the kernel elsewhere",
        first_range.start, first_range.end, second_range.start, second_range.end
    )]
    Overlap {
        /// The piece that came later.
        first: &'static str,
        /// Its addresses.
        first_range: Range<u64>,
        /// The piece that was there.
        second: &'static str,
        /// Its addresses.
        second_range: Range<u64>,
    },
    /// The kernel does not take a command line of this length.
    #[error("the command line has {length} bytes, and the kernel takes at most {limit}: shorten it")]
    CommandLineTooLong {
        /// Bytes.
        length: usize,
        /// The kernel's limit.
        limit: usize,
    },
    /// A zero byte would end a command line early.
    #[error("the command line contains a zero byte: remove it")]
    CommandLineZero,
    /// The protocol cannot hand over this.
    #[error("{protocol} kernels take no {what}: leave it out")]
    NotTaken {
        /// The protocol.
        protocol: &'static str,
        /// What was given.
        what: &'static str,
    },
    /// A module without contents has no address.
    #[error("an initrd or module is empty: leave it out")]
    EmptyModule,
    /// Module lists, memory map and command lines are too long together.
    #[error(
        "module list, memory map and command lines do not fit into {room} bytes: pass fewer modules or shorter command lines"
    )]
    StructuresFull {
        /// Bytes there are.
        room: usize,
    },
    /// The zero page holds no more.
    #[error("the memory map has {count} regions, and the boot protocol takes at most {limit}")]
    MapTooLong {
        /// Regions.
        count: usize,
        /// The protocol's limit.
        limit: usize,
    },
    /// Guest memory is smaller than the memory map says.
    #[error("cannot write guest memory")]
    Memory(#[from] GuestMemoryError),
}

/// Puts `kernel` and what belongs to it into `memory`, and returns the state in which the boot processor starts.
///
/// Only what is loaded is written; `memory` need not be zero before.
///
/// # Errors
/// Something does not fit: too little memory, too long a command line, or a kernel linked to where there is no RAM.
pub fn load(
    kernel: &Kernel<'_>,
    parameters: &BootParameters<'_>,
    memory: &GuestMemory,
) -> Result<VcpuState, PlaceError> {
    check_strings(kernel, parameters)?;
    let to_come = modules(parameters).map(|module| (module.bytes.len() as u64).next_multiple_of(PAGE)).sum();
    let mut loader = Loader {
        parameters,
        memory,
        claims: Claims::new(parameters.memory_map, to_come),
        structures: Structures::new(),
    };
    let image = &kernel.image;
    match &kernel.entry {
        Entry::Pvh { elf, entry } => pvh::load(&mut loader, image, elf, *entry, kernel.initrd_ceiling),
        Entry::LinuxElf { elf, entry, header } => {
            linux::load_elf(&mut loader, image, elf, *entry, header.as_deref(), kernel.initrd_ceiling)
        }
        Entry::LinuxBzimage(bzimage) => {
            linux::load_bzimage(&mut loader, image, bzimage, kernel.initrd_ceiling)
        }
        Entry::Multiboot(header) => multiboot::load(&mut loader, image, header),
        Entry::BootSector => boot_sector::load(&mut loader, image),
    }
}

/// All modules in the order in which the kernel gets them: the initramfs first.
fn modules<'a>(parameters: &BootParameters<'a>) -> impl Iterator<Item = Module<'a>> {
    let initrd = parameters.initrd.map(|bytes| Module { bytes, command_line: "" });
    initrd.into_iter().chain(parameters.modules.iter().copied())
}

fn check_strings(kernel: &Kernel<'_>, parameters: &BootParameters<'_>) -> Result<(), PlaceError> {
    let length = parameters.command_line.len();
    if matches!(kernel.entry, Entry::BootSector) && length > 0 {
        return Err(PlaceError::NotTaken { protocol: kernel.protocol(), what: "command line" });
    }
    if length > kernel.command_line_limit {
        return Err(PlaceError::CommandLineTooLong { length, limit: kernel.command_line_limit });
    }
    if modules(parameters).any(|module| module.bytes.is_empty()) {
        return Err(PlaceError::EmptyModule);
    }
    let mut strings = modules(parameters).map(|module| module.command_line);
    if parameters.command_line.contains('\0') || strings.any(|string| string.contains('\0')) {
        return Err(PlaceError::CommandLineZero);
    }
    Ok(())
}

/// What the protocols' modules work with.
struct Loader<'a> {
    parameters: &'a BootParameters<'a>,
    memory: &'a GuestMemory,
    claims: Claims<'a>,
    structures: Structures,
}

impl<'a> Loader<'a> {
    fn write(&self, bytes: &[u8], address: u64) -> Result<(), PlaceError> {
        Ok(self.memory.write_slice(bytes, GuestAddress(address))?)
    }

    /// Loads the kernel: all segments claim their place before the first is written.
    fn load_segments(&mut self, image: &[u8], segments: &[Segment]) -> Result<(), PlaceError> {
        for segment in segments {
            self.claims.claim("kernel", segment.address, segment.memory_size)?;
        }
        for segment in segments {
            let bytes = &image[segment.file.clone()];
            self.write(bytes, segment.address)?;
            self.zero(segment.address + bytes.len() as u64..segment.end())?;
        }
        Ok(())
    }

    fn zero(&self, range: Range<u64>) -> Result<(), PlaceError> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let mut address = range.start;
        while address < range.end {
            let left = usize::try_from(range.end - address).unwrap_or(ZEROS.len());
            let chunk = &ZEROS[..left.min(ZEROS.len())];
            self.write(chunk, address)?;
            address += chunk.len() as u64;
        }
        Ok(())
    }

    /// Loads a module as high as possible below `ceiling` and returns its address, which is below 4 GiB.
    fn load_high(&mut self, owner: &'static str, bytes: &[u8], ceiling: u64) -> Result<u64, PlaceError> {
        let address = self.claims.claim_high(owner, bytes.len() as u64, ceiling)?;
        self.write(bytes, address)?;
        Ok(address)
    }

    /// Writes the boot structures, once all are there.
    fn write_structures(&mut self) -> Result<(), PlaceError> {
        let bytes = self.structures.bytes();
        self.claims.claim("boot structures", STRUCTURES.start.into(), bytes.len() as u64)?;
        self.write(bytes, STRUCTURES.start.into())
    }
}

#[cfg(test)]
mod tests;
