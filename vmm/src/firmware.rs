//! What firmware would leave in memory: ACPI tables and the memory map. Tern has no firmware; kernels are entered directly.

use std::ops::Range;

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use tern_chipset::{acpi, layout};
use tern_engine::GuestMemory;
use tern_x86::state::VcpuState;

use crate::boot::memory_map::{EXTENDED_MEMORY_START, MemoryKind, MemoryMap, MemoryMapError};
use crate::boot::{BootParameters, Module, PlaceError, load};
use crate::config::MachineConfig;
use crate::device::PRESENT_SERIAL_PORTS;
use crate::guest::SourceError;

/// Where the tables lie: in what a PC's BIOS occupies, where also kernels that nobody tells look for the root pointer
/// (ACPI 6.5, section 5.2.5.1).
const TABLES: Range<u64> = 0xe_0000..EXTENDED_MEMORY_START;

/// Where 64-bit PCI BARs may be placed: above all memory that a machine can have.
pub(crate) const PCI_MEMORY_64: Range<u64> = 0x48_0000_0000..0x80_0000_0000;

/// Why a guest cannot be put into its machine.
#[derive(Debug, Error)]
pub enum LoadError {
    /// Its files cannot be had.
    #[error(transparent)]
    Source(SourceError),
    /// The kernel or what belongs to it does not fit.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The machine cannot be described.
    #[error("cannot describe the machine's memory")]
    MemoryMap(#[from] MemoryMapError),
    /// The tables do not fit.
    #[error("the ACPI tables of {cpus} processors need {length} bytes: give the machine fewer processors")]
    Tables {
        /// Processors.
        cpus: u32,
        /// Bytes.
        length: usize,
    },
    /// There is less memory than the configuration says.
    #[error("cannot write guest memory")]
    Memory(#[from] GuestMemoryError),
}

/// Puts tables, kernel and what belongs to it into `memory`, and returns the first processor's first state.
pub(crate) fn load_guest(config: &MachineConfig, memory: &GuestMemory) -> Result<VcpuState, LoadError> {
    let mut memory_map = MemoryMap::pc(config.memory)?;
    memory_map.insert(layout::ECAM.start, layout::ECAM.end - layout::ECAM.start, MemoryKind::Reserved)?;
    let rsdp = write_tables(config.cpus, memory)?;
    let guest = config.guest.guest().map_err(LoadError::Source)?;
    let modules = guest.modules.iter();
    let modules = modules.map(|module| Module { bytes: &module.bytes, command_line: &module.command_line });
    let parameters = BootParameters {
        command_line: &guest.command_line,
        initrd: guest.initrd.as_deref(),
        modules: &modules.collect::<Vec<_>>(),
        rsdp,
        memory_map: &memory_map,
    };
    Ok(load(&guest.kernel, &parameters, memory)?)
}

/// Writes the ACPI tables and returns the root pointer's address.
fn write_tables(cpus: u32, memory: &GuestMemory) -> Result<u64, LoadError> {
    let config = acpi::Config {
        apic_ids: (0..cpus).collect(),
        pci_memory_64: PCI_MEMORY_64,
        serial_ports: PRESENT_SERIAL_PORTS,
    };
    let tables = acpi::build(&config, TABLES.start);
    let length = tables.bytes.len();
    if length as u64 > TABLES.end - TABLES.start {
        return Err(LoadError::Tables { cpus, length });
    }
    memory.write_slice(&tables.bytes, GuestAddress(TABLES.start))?;
    Ok(tables.rsdp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::{Kernel, KernelKind};
    use crate::config::MOST_CPUS;
    use crate::guest::Guest;
    use crate::memory;
    use std::sync::Arc;

    #[test]
    fn the_smallest_machine_has_room_for_the_most_processors() {
        let kernel = Kernel::parse(vec![0xf4], Some(KernelKind::BootSector)).unwrap();
        let guest = Arc::new(Guest::new(kernel));
        let config = MachineConfig { memory: 1 << 20, cpus: MOST_CPUS, ..MachineConfig::new(guest) };
        let memory = memory::create(config.memory, config.pages).unwrap();
        load_guest(&config, &memory).unwrap();
        let mut root = [0; 8];
        memory.read_slice(&mut root, GuestAddress(TABLES.start)).unwrap();
        assert_eq!(&root, b"RSD PTR ");
    }

    #[test]
    fn pci_memory_lies_above_all_ram() {
        let map = MemoryMap::pc(crate::config::MOST_MEMORY).unwrap();
        assert!(map.ram().all(|range| range.end <= PCI_MEMORY_64.start));
    }
}
