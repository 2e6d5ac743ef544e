//! Writes the ACPI tables of a sample machine into files, for `iasl -d` to check:
//!
//! ```text
//! cargo run -p tern-chipset --example acpi-dump DIRECTORY && iasl -d DIRECTORY/*.dat
//! ```

use std::path::PathBuf;
use std::{env, error::Error, fs};
use tern_chipset::acpi::{self, Config};

const BASE: u64 = 0xe_0000;

fn main() -> Result<(), Box<dyn Error>> {
    let directory =
        env::args_os().nth(1).map(PathBuf::from).ok_or("Name the directory to write the tables to")?;
    let config = Config {
        apic_ids: vec![0, 1, 255, 256],
        pci_memory_64: 0x1_4000_0000..0x41_4000_0000,
        serial_ports: [true; 4],
    };
    let tables = acpi::build(&config, BASE);
    for signature in ["DSDT", "FACS", "FACP", "APIC", "MCFG", "XSDT"] {
        let is_here = |window: &[u8]| window == signature.as_bytes();
        let start = tables
            .bytes
            .chunks(64)
            .position(|chunk| is_here(&chunk[..4]))
            .ok_or_else(|| format!("There is no table {signature}"))?
            * 64;
        let length: [u8; 4] = tables.bytes[start + 4..start + 8].try_into()?;
        let end = start + usize::try_from(u32::from_le_bytes(length))?;
        let file = directory.join(format!("{}.dat", signature.to_lowercase()));
        fs::write(file, &tables.bytes[start..end])?;
    }
    Ok(())
}
