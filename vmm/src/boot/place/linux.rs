//! The 64-bit Linux boot protocol (Linux, `Documentation/arch/x86/boot.rst`, "64-bit Boot Protocol", and `zero-page.rst`).
//!
//! The kernel starts in 64-bit mode with the first 4 GiB mapped to themselves and RSI at the *zero page*
//! (`struct boot_params`), which holds the bzImage's header and what the loader adds.

use tern_x86::state::VcpuState;

use super::layout::{BZIMAGE, PAGE};
use super::structures::{Structures, set};
use super::{BootParameters, Loader, PlaceError, cpu};
use crate::boot::parse::bzimage::{Bzimage, HEADER_START};
use crate::boot::parse::elf::Elf;

/// The 64-bit entry point's offset in the protected-mode part.
const ENTRY_64: u32 = 0x200;
/// Room in the zero page's memory map.
const E820_LIMIT: usize = 128;
/// `type_of_loader`: none that has a number.
const LOADER_UNDEFINED: u8 = 0xff;
const PAGE_PRESENT: u64 = 1 << 0;
const PAGE_WRITABLE: u64 = 1 << 1;
const PAGE_LARGE: u64 = 1 << 7;

type ZeroPage = [u8; PAGE as usize];

pub(super) fn load_bzimage(
    loader: &mut Loader<'_>,
    image: &[u8],
    bzimage: &Bzimage,
    initrd_ceiling: u64,
) -> Result<VcpuState, PlaceError> {
    let code = &image[bzimage.protected_mode.clone()];
    // It moves itself to its preferred address and unpacks there.
    let fields = &bzimage.fields;
    let end =
        fields.preferred_address.saturating_add(fields.init_size.into()).max(BZIMAGE + code.len() as u64);
    loader.claims.claim("kernel", BZIMAGE, end - BZIMAGE)?;
    loader.write(code, BZIMAGE)?;

    let mut zero_page = with_header(&image[bzimage.header.clone()]);
    set(&mut zero_page, 0x214, (BZIMAGE as u32).to_le_bytes()); // code32_start
    enter(loader, zero_page, BZIMAGE as u32 + ENTRY_64, initrd_ceiling)
}

/// Loads an unpacked kernel, with the header of the bzImage that it came from, if it did.
pub(super) fn load_elf(
    loader: &mut Loader<'_>,
    image: &[u8],
    elf: &Elf,
    entry: u32,
    header: Option<&[u8]>,
    initrd_ceiling: u64,
) -> Result<VcpuState, PlaceError> {
    loader.load_segments(image, &elf.segments)?;
    let zero_page = header.map_or_else(without_header, with_header);
    enter(loader, zero_page, entry, initrd_ceiling)
}

/// A zero page with a header, which fits there.
fn with_header(header: &[u8]) -> ZeroPage {
    let mut zero_page = [0; PAGE as usize];
    zero_page[HEADER_START..HEADER_START + header.len()].copy_from_slice(header);
    zero_page
}

/// A zero page of which these fields say that the loader filled it.
fn without_header() -> ZeroPage {
    let mut zero_page = [0; PAGE as usize];
    set(&mut zero_page, 0x1fe, 0xaa55_u16.to_le_bytes()); // boot_flag
    set(&mut zero_page, 0x202, *b"HdrS");
    set(&mut zero_page, 0x206, 0x020f_u16.to_le_bytes()); // version
    zero_page
}

fn enter(
    loader: &mut Loader<'_>,
    mut zero_page: ZeroPage,
    entry: u32,
    initrd_ceiling: u64,
) -> Result<VcpuState, PlaceError> {
    let parameters = loader.parameters;
    if !parameters.modules.is_empty() {
        return Err(PlaceError::NotTaken { protocol: "64-bit Linux", what: "modules besides the initrd" });
    }
    if let Some(initrd) = parameters.initrd {
        let address = loader.load_high("initramfs", initrd, initrd_ceiling)?;
        // Both are below the device hole.
        set(&mut zero_page, 0x218, (address as u32).to_le_bytes()); // ramdisk_image
        set(&mut zero_page, 0x21c, (initrd.len() as u32).to_le_bytes()); // ramdisk_size
    }
    let structures = &mut loader.structures;
    let command_line = structures.put_string(parameters.command_line)?;
    set(&mut zero_page, 0x228, command_line.to_le_bytes()); // cmd_line_ptr
    set(&mut zero_page, 0x210, [LOADER_UNDEFINED]); // type_of_loader
    set(&mut zero_page, 0x070, parameters.rsdp.to_le_bytes()); // acpi_rsdp_addr
    put_memory_map(&mut zero_page, parameters)?;
    let zero_page = structures.put(&zero_page, PAGE as usize)?;
    let gdt = structures.put(cpu::GDT.map(u64::to_le_bytes).as_flattened(), 8)?;
    let page_tables = identity_map(structures)?;
    loader.write_structures()?;

    let mut state = cpu::long_mode(entry, page_tables, gdt);
    state.gpr[cpu::RSI] = zero_page.into();
    Ok(state)
}

fn put_memory_map(zero_page: &mut ZeroPage, parameters: &BootParameters<'_>) -> Result<(), PlaceError> {
    let regions = parameters.memory_map.regions();
    if regions.len() > E820_LIMIT {
        return Err(PlaceError::MapTooLong { count: regions.len(), limit: E820_LIMIT });
    }
    set(zero_page, 0x1e8, [regions.len() as u8]); // e820_entries
    for (region, entry) in regions.iter().zip(zero_page[0x2d0..].chunks_exact_mut(20)) {
        set(entry, 0, region.base.to_le_bytes());
        set(entry, 8, region.length.to_le_bytes());
        set(entry, 16, (region.kind as u32).to_le_bytes());
    }
    Ok(())
}

/// Page tables that map the first 4 GiB to themselves in 2 MiB pages. Returns the topmost table's address.
fn identity_map(structures: &mut Structures) -> Result<u32, PlaceError> {
    const GIB: u64 = 1 << 30;
    const LARGE_PAGE: u64 = 2 << 20;
    let mut put_table = |entries: &mut dyn Iterator<Item = u64>| {
        let mut table: Vec<u8> = entries.flat_map(u64::to_le_bytes).collect();
        table.resize(PAGE as usize, 0);
        structures.put(&table, PAGE as usize)
    };
    let mut directories = Vec::new();
    for gib in 0..4 {
        let page = |index| (gib * GIB + index * LARGE_PAGE) | PAGE_PRESENT | PAGE_WRITABLE | PAGE_LARGE;
        let directory = put_table(&mut (0..512).map(page))?;
        directories.push(u64::from(directory) | PAGE_PRESENT | PAGE_WRITABLE);
    }
    let pointers = put_table(&mut directories.into_iter())?;
    put_table(&mut std::iter::once(u64::from(pointers) | PAGE_PRESENT | PAGE_WRITABLE))
}
