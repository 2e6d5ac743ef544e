//! The tables as an operating system walks them.

use super::*;
use alloc::collections::BTreeMap;

const BASE: u64 = 0x9_f000;

fn config() -> Config {
    Config {
        apic_ids: vec![0, 1, 2, 3],
        pci_memory_64: 0x1_4000_0000..0x2_0000_0000,
        serial_ports: [true, true, true, false],
    }
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes(bytes[offset..offset + 2].try_into().unwrap())
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

impl Tables {
    fn at(&self, address: u64) -> &[u8] {
        let start = usize::try_from(address - BASE).unwrap();
        let length = u32_at(&self.bytes, start + 4) as usize;
        &self.bytes[start..start + length]
    }

    /// The tables that the XSDT lists, and the DSDT.
    fn by_signature(&self) -> BTreeMap<&str, &[u8]> {
        let rsdp = usize::try_from(self.rsdp - BASE).unwrap();
        let xsdt = self.at(u64_at(&self.bytes, rsdp + 24));
        let mut tables: Vec<_> = xsdt[36..].chunks(8).map(|entry| self.at(u64_at(entry, 0))).collect();
        let fadt = tables[0];
        tables.extend([xsdt, self.at(u64_at(fadt, 140))]);
        let mut found = BTreeMap::new();
        for table in tables {
            found.insert(core::str::from_utf8(&table[..4]).unwrap(), table);
        }
        found
    }
}

#[test]
fn every_table_is_found_and_sums_to_zero() {
    let tables = build(&config(), BASE);
    let rsdp = &tables.bytes[..36];
    assert_eq!(tables.rsdp, BASE);
    assert_eq!(&rsdp[..8], b"RSD PTR ");
    assert_eq!((sum(&rsdp[..20]), sum(rsdp)), (0, 0));
    let found = tables.by_signature();
    let names: Vec<_> = found.keys().copied().collect();
    assert_eq!(names, ["APIC", "DSDT", "FACP", "MCFG", "XSDT"]);
    for (name, table) in found {
        assert_eq!(sum(table), 0, "{name}");
    }
}

#[test]
fn the_fadt_points_to_the_fixed_hardware() {
    let tables = build(&config(), BASE);
    let fadt = tables.by_signature()["FACP"];
    assert_eq!((fadt.len(), fadt[8]), (276, 6));
    assert_eq!(u16_at(fadt, 46), 9, "SCI");
    assert_eq!(u32_at(fadt, 48), 0, "no SMI command: ACPI mode is always on");
    assert_eq!([56, 64, 76, 80].map(|at| u32_at(fadt, at)), [0x600, 0x604, 0x608, 0x60c]);
    assert_eq!(fadt[88..93], [4, 2, 0, 4, 4]);
    assert_eq!([148, 172, 208, 220].map(|at| u64_at(fadt, at + 4)), [0x600, 0x604, 0x608, 0x60c]);
    assert_eq!((fadt[116], u64_at(fadt, 120), fadt[128]), (1, 0xcf9, 6));
    let facs = tables.at(u64_at(fadt, 132));
    assert_eq!((&facs[..4], facs.len()), (&b"FACS"[..], 64));
    assert_eq!(u64_at(fadt, 132) % 64, 0);
    assert_eq!(u64::from(u32_at(fadt, 40)), u64_at(fadt, 140));
}

/// The structures of the MADT: type and contents.
fn structures(madt: &[u8]) -> Vec<(u8, &[u8])> {
    let mut rest = &madt[44..];
    let mut structures = Vec::new();
    while let [structure_type, length, ..] = *rest {
        let (structure, after) = rest.split_at(usize::from(length));
        structures.push((structure_type, &structure[2..]));
        rest = after;
    }
    structures
}

#[test]
fn the_madt_lists_processors_and_controllers() {
    let tables = build(&config(), BASE);
    let madt = tables.by_signature()["APIC"];
    assert_eq!((u32_at(madt, 36), u32_at(madt, 40)), (0xfee0_0000, 1));
    let structures = structures(madt);
    let processors = structures.iter().filter(|(kind, _)| *kind == 0);
    let ids: Vec<_> = processors.map(|(_, fields)| (fields[0], fields[1], fields[2])).collect();
    assert_eq!(ids, [(0, 0, 1), (1, 1, 1), (2, 2, 1), (3, 3, 1)]);
    assert_eq!(
        structures[4..],
        [
            (1, &[0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0][..]),
            (2, &[0, 0, 2, 0, 0, 0, 0, 0]),
            (2, &[0, 9, 9, 0, 0, 0, 0x0d, 0]),
            (4, &[0xff, 0, 0, 1]),
        ]
    );
}

#[test]
fn processors_from_255_on_have_x2apic_structures() {
    let apic_ids = vec![0, 254, 255, 300];
    let tables = build(&Config { apic_ids, ..config() }, BASE);
    let madt = tables.by_signature()["APIC"];
    let structures = structures(madt);
    assert_eq!(structures[1], (0, &[1, 254, 1, 0, 0, 0][..]));
    assert_eq!(structures[2], (9, &[0, 0, 255, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0][..]));
    assert_eq!(structures[3].1[2..6], [44, 1, 0, 0]);
    assert_eq!(structures.last().unwrap().0, 10);
}

#[test]
fn the_mcfg_covers_256_buses() {
    let tables = build(&config(), BASE);
    let mcfg = tables.by_signature()["MCFG"];
    assert_eq!((mcfg.len(), u64_at(mcfg, 44)), (60, 0xe000_0000));
    assert_eq!(mcfg[52..56], [0, 0, 0, layout::PCI_LAST_BUS]);
}

#[test]
fn the_dsdt_has_the_devices_that_there_are() {
    let tables = build(&config(), BASE);
    let dsdt = tables.by_signature()["DSDT"];
    let has = |name: &[u8]| dsdt.windows(name.len()).any(|window| window == name);
    for present in [&b"_S5_"[..], b"PCI0", b"_PRT", b"COM1", b"COM3", b"RTC0", b"C003"] {
        assert!(has(present), "{}", alloc::string::String::from_utf8_lossy(present));
    }
    for absent in [&b"COM4"[..], b"C004"] {
        assert!(!has(absent));
    }
}

#[test]
fn many_processors_fit() {
    let apic_ids = (0..1024).collect();
    let tables = build(&Config { apic_ids, ..config() }, BASE);
    for (name, table) in tables.by_signature() {
        assert_eq!(sum(table), 0, "{name}");
    }
}
