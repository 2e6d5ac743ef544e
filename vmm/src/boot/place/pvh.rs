//! PVH, the entry that Xen defined (`docs/misc/pvh.pandoc` and `arch-x86/hvm/start_info.h` in Xen's sources).

use tern_x86::state::VcpuState;

use super::structures::set;
use super::{Loader, PlaceError, cpu, modules};
use crate::boot::parse::elf::Elf;

/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u32 = 0x336e_c578;
/// The version that has a memory map.
const VERSION: u32 = 1;

pub(super) fn load(
    loader: &mut Loader<'_>,
    image: &[u8],
    elf: &Elf,
    entry: u32,
    initrd_ceiling: u64,
) -> Result<VcpuState, PlaceError> {
    loader.load_segments(image, &elf.segments)?;
    let parameters = loader.parameters;

    let mut module_list = Vec::new();
    let mut owner = if parameters.initrd.is_some() { "initramfs" } else { "module" };
    for module in modules(parameters) {
        let address = loader.load_high(owner, module.bytes, initrd_ceiling)?;
        let command_line = match module.command_line {
            "" => 0,
            string => loader.structures.put_string(string)?,
        };
        // struct hvm_modlist_entry
        for field in [address, module.bytes.len() as u64, command_line.into(), 0] {
            module_list.extend(field.to_le_bytes());
        }
        owner = "module";
    }
    let module_count = (module_list.len() / 32) as u32;

    let mut memory_map = Vec::new();
    let regions = parameters.memory_map.regions();
    for region in regions {
        // struct hvm_memmap_table_entry
        memory_map.extend(region.base.to_le_bytes());
        memory_map.extend(region.length.to_le_bytes());
        memory_map.extend((region.kind as u32).to_le_bytes());
        memory_map.extend([0; 4]);
    }

    let structures = &mut loader.structures;
    let module_list = structures.put(&module_list, 8)?;
    let memory_map = structures.put(&memory_map, 8)?;
    let command_line = structures.put_string(parameters.command_line)?;

    // struct hvm_start_info
    let mut start_info = [0; 56];
    set(&mut start_info, 0, MAGIC.to_le_bytes());
    set(&mut start_info, 4, VERSION.to_le_bytes());
    set(&mut start_info, 12, module_count.to_le_bytes());
    set(&mut start_info, 16, u64::from(module_list).to_le_bytes());
    set(&mut start_info, 24, u64::from(command_line).to_le_bytes());
    set(&mut start_info, 32, parameters.rsdp.to_le_bytes());
    set(&mut start_info, 40, u64::from(memory_map).to_le_bytes());
    // More regions than the room for structures holds were refused above.
    set(&mut start_info, 48, (regions.len() as u32).to_le_bytes());
    let start_info = structures.put(&start_info, 8)?;
    loader.write_structures()?;

    let mut state = cpu::protected_mode(entry);
    state.gpr[cpu::RBX] = start_info.into();
    Ok(state)
}
