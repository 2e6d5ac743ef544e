//! Multiboot 1: machine state and information structure (Multiboot Specification 0.6.96, sections 3.2 and 3.3).
//!
//! The command line is handed over as it was given: a kernel that takes the first word for its own name must be given
//! one.

use tern_x86::state::VcpuState;

use super::structures::set;
use super::{Loader, PlaceError, cpu, modules};
use crate::boot::memory_map::{EXTENDED_MEMORY_START, MemoryMap};
use crate::boot::parse::multiboot::Multiboot;

/// What EAX holds: the kernel was loaded by a multiboot loader.
const LOADER_MAGIC: u64 = 0x2bad_b002;
/// Valid fields: memory sizes, command line, modules, memory map, loader name.
const FLAGS: u32 = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9;

pub(super) fn load(
    loader: &mut Loader<'_>,
    image: &[u8],
    kernel: &Multiboot,
) -> Result<VcpuState, PlaceError> {
    loader.load_segments(image, &kernel.segments)?;
    let parameters = loader.parameters;

    let mut module_list = Vec::new();
    for module in modules(parameters) {
        let length = module.bytes.len() as u64;
        let start = loader.claims.claim_after("module", length)?;
        loader.write(module.bytes, start)?;
        let string = loader.structures.put_string(module.command_line)?;
        for field in [start, start + length, string.into(), 0] {
            // Modules lie below the device hole.
            module_list.extend((field as u32).to_le_bytes());
        }
    }
    let module_count = (module_list.len() / 16) as u32;

    let mut memory_map = Vec::new();
    for region in parameters.memory_map.regions() {
        memory_map.extend(20_u32.to_le_bytes()); // the entry's size without this field
        memory_map.extend(region.base.to_le_bytes());
        memory_map.extend(region.length.to_le_bytes());
        memory_map.extend((region.kind as u32).to_le_bytes());
    }
    let (lower, upper) = memory_sizes(parameters.memory_map);

    let structures = &mut loader.structures;
    let mut information = [0; 116];
    set(&mut information, 0, FLAGS.to_le_bytes());
    set(&mut information, 4, lower.to_le_bytes());
    set(&mut information, 8, upper.to_le_bytes());
    set(&mut information, 16, structures.put_string(parameters.command_line)?.to_le_bytes());
    set(&mut information, 20, module_count.to_le_bytes());
    set(&mut information, 24, structures.put(&module_list, 4)?.to_le_bytes());
    // The room for structures bounds the length.
    set(&mut information, 44, (memory_map.len() as u32).to_le_bytes());
    set(&mut information, 48, structures.put(&memory_map, 4)?.to_le_bytes());
    set(&mut information, 64, structures.put_string("Tern")?.to_le_bytes());
    let information = structures.put(&information, 4)?;
    loader.write_structures()?;

    let mut state = cpu::protected_mode(kernel.entry);
    state.gpr[cpu::RAX] = LOADER_MAGIC;
    state.gpr[cpu::RBX] = information.into();
    Ok(state)
}

/// `mem_lower` and `mem_upper`: KiB of RAM from address 0 and from 1 MiB up to the first hole.
fn memory_sizes(map: &MemoryMap) -> (u32, u32) {
    let kib_from = |start| {
        let length = map.ram().find(|ram| ram.start == start).map_or(0, |ram| ram.end - ram.start);
        u32::try_from(length / 1024).unwrap_or(u32::MAX)
    };
    (kib_from(0), kib_from(EXTENDED_MEMORY_START))
}
