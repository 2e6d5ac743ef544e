//! The ACPI tables that describe the machine to its operating system.
//!
//! Follows the ACPI specification 6.5 (ch. 5, tables; ch. 6, device configuration) and the PCI
//! Firmware Specification 3.3 (§ 4.1.2, MCFG). The numbers come from [`crate::layout`] and from the
//! devices themselves, so that what the guest is told is what there is.
//!
//! ```text
//!   RSDP ──▶ XSDT ─┬─▶ FADT ─┬─▶ DSDT   devices, PCI routing, soft-off   (dsdt)
//!                  │ (fadt)  └─▶ FACS
//!                  ├─▶ MADT             processors, interrupt controllers (madt)
//!                  └─▶ MCFG             PCI configuration space
//! ```

mod dsdt;
mod fadt;
mod madt;
#[cfg(test)]
mod tests;

use crate::layout;
use acpi_tables::facs::FACS;
use acpi_tables::mcfg::MCFG;
use acpi_tables::rsdp::Rsdp;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, AmlSink};
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// Who made the tables.
const OEM_ID: [u8; 6] = *b"TERN  ";
/// Which machine they describe.
const OEM_TABLE_ID: [u8; 8] = *b"TERN PC ";
/// Which revision of it.
const OEM_REVISION: u32 = 1;

/// What differs from machine to machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The processors' APIC IDs, the bootstrap processor's first.
    pub apic_ids: Vec<u32>,
    /// Where 64-bit PCI BARs may be placed, above all RAM; may be empty.
    pub pci_memory_64: Range<u64>,
    /// Which of [`layout::SERIAL_PORTS`] there are.
    pub serial_ports: [bool; 4],
}

/// The finished tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// To be copied to the base address that they were built for.
    pub bytes: Vec<u8>,
    /// The guest-physical address of the RSDP, for the boot protocol to hand over.
    pub rsdp: u64,
}

/// Builds the tables for the guest-physical address `base`, a multiple of 64. The memory map
/// must keep that memory from the guest's allocator (as "ACPI" or "reserved").
pub fn build(config: &Config, base: u64) -> Tables {
    // The RSDP comes first, and is known last.
    let mut area = Area { base, bytes: vec![0; Rsdp::len()] };
    let dsdt = area.place(&dsdt::build(config));
    let facs = area.place(&FACS::new());
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(area.place(&fadt::build(dsdt, facs)));
    xsdt.add_entry(area.place(&madt::build(config)));
    xsdt.add_entry(area.place(&mcfg()));
    let rsdp = Rsdp::new(OEM_ID, area.place(&xsdt));
    let mut bytes = Vec::new();
    rsdp.to_aml_bytes(&mut bytes);
    area.bytes[..bytes.len()].copy_from_slice(&bytes);
    Tables { bytes: area.bytes, rsdp: base }
}

/// The memory that the tables are laid out in.
struct Area {
    base: u64,
    bytes: Vec<u8>,
}

impl Area {
    /// The FACS must be aligned so; the others do not mind.
    const ALIGNMENT: usize = 64;

    /// Appends a table and gives its guest-physical address.
    fn place(&mut self, table: &dyn Aml) -> u64 {
        let offset = self.bytes.len().next_multiple_of(Self::ALIGNMENT);
        self.bytes.resize(offset, 0);
        table.to_aml_bytes(&mut self.bytes);
        self.base + offset as u64
    }
}

/// Table or AML code that has been generated already.
struct Generated(Vec<u8>);

impl Generated {
    fn from(source: &dyn Aml) -> Self {
        let mut bytes = Vec::new();
        source.to_aml_bytes(&mut bytes);
        Self(bytes)
    }
}

impl Aml for Generated {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        sink.vec(&self.0);
    }
}

fn mcfg() -> MCFG {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(layout::ECAM.start, 0, 0, layout::PCI_LAST_BUS);
    mcfg
}
