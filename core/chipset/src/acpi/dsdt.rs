//! The differentiated system description table: the devices that cannot be discovered, PCI's
//! interrupt routing, and how to switch the machine off. ACPI 6.5 § 5.2.11, ch. 6 and 19.

use super::{Config, Generated, OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::layout::{self, SerialPort, irq, port};
use crate::power::SLP_TYP_S5;
use acpi_tables::Aml;
use acpi_tables::aml::{
    AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package,
    PackageBuilder, Path, ResourceTemplate, Scope,
};
use acpi_tables::sdt::Sdt;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

/// Revision 2: integers are 64 bits wide.
const REVISION: u8 = 2;
/// The length of the table's header, its signature to its creator's revision.
const HEADER: u32 = 36;

/// The pins of a PCI device, INTA# to INTD#.
const PCI_PINS: u8 = 4;
const PCI_DEVICES: u8 = 32;

pub(super) fn build(config: &Config) -> Generated {
    let mut devices = vec![pci_root(config), motherboard(), real_time_clock()];
    devices.extend(serial_ports(config));
    devices.extend((0..config.apic_ids.len()).map(processor));
    let devices = devices.iter().map(|device| device as &dyn Aml).collect();

    let mut table = Sdt::new(*b"DSDT", HEADER, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    let soft_off = Package::new(vec![&SLP_TYP_S5, &SLP_TYP_S5, &0u8, &0u8]);
    table.append_slice(&Generated::from(&Name::new(Path::new("_S5_"), &soft_off)).0);
    table.append_slice(&Generated::from(&Scope::new(Path::new("_SB_"), devices)).0);
    Generated(table.as_slice().to_vec())
}

/// A device with its identification, and what else it has.
fn device(name: &str, hardware_id: &dyn Aml, uid: usize, rest: &[&dyn Aml]) -> Generated {
    let hardware_id = Name::new(Path::new("_HID"), hardware_id);
    let uid = Name::new(Path::new("_UID"), &uid);
    let mut children: Vec<&dyn Aml> = vec![&hardware_id, &uid];
    children.extend(rest);
    Generated::from(&Device::new(Path::new(name), children))
}

/// What a device occupies.
fn resources(resources: Vec<&dyn Aml>) -> Name {
    Name::new(Path::new("_CRS"), &ResourceTemplate::new(resources))
}

/// The PCI Express root, with the windows that functions' BARs may be placed in.
fn pci_root(config: &Config) -> Generated {
    let buses = AddressSpace::new_bus_number(0u16, layout::PCI_LAST_BUS.into());
    let config_ports = IO::new(port::PCI_CONFIG_ADDRESS, port::PCI_CONFIG_ADDRESS, 1, 8);
    let Range { start, end } = layout::PCI_PORTS;
    let ports = AddressSpace::new_io(start as u16, (end - 1) as u16, None);
    let memory_32 = layout::PCI_MEMORY_32.map(|Range { start, end }| {
        let kind = AddressSpaceCacheable::NotCacheable;
        AddressSpace::new_memory(kind, true, start as u32, (end - 1) as u32, None)
    });
    let memory_64 =
        Some(&config.pci_memory_64).filter(|window| !window.is_empty()).map(|Range { start, end }| {
            let kind = AddressSpaceCacheable::NotCacheable;
            AddressSpace::new_memory(kind, true, *start, end - 1, None)
        });
    let mut windows: Vec<&dyn Aml> = vec![&buses, &config_ports, &ports];
    windows.extend(memory_32.iter().map(|window| window as &dyn Aml));
    windows.extend(memory_64.iter().map(|window| window as &dyn Aml));

    device(
        "PCI0",
        &EISAName::new("PNP0A08"),
        0,
        &[
            &Name::new(Path::new("_CID"), &EISAName::new("PNP0A03")),
            &Name::new(Path::new("_SEG"), &0u8),
            &Name::new(Path::new("_BBN"), &0u8),
            &resources(windows),
            &Name::new(Path::new("_PRT"), &interrupt_routing()),
        ],
    )
}

/// Which IO-APIC pin each INTx line is wired to.
fn interrupt_routing() -> PackageBuilder {
    let mut table = PackageBuilder::new();
    for device in 0..PCI_DEVICES {
        // Every function of the device.
        let address = u32::from(device) << 16 | 0xffff;
        for pin in 0..PCI_PINS {
            let interrupt = irq::pci_intx(device, pin);
            // The zero: wired directly, not through a link device.
            table.add_element(&Package::new(vec![&address, &pin, &0u8, &interrupt]));
        }
    }
    table
}

/// What the chipset occupies besides: guests ignore an ECAM that no device claims.
fn motherboard() -> Generated {
    let ecam_length = layout::ECAM.end - layout::ECAM.start;
    let ecam = Memory32Fixed::new(true, layout::ECAM.start as u32, ecam_length as u32);
    let power_length = port::POWER.end - port::POWER.start;
    let power = IO::new(port::POWER.start, port::POWER.start, 1, power_length as u8);
    let elcr = IO::new(port::ELCR.start, port::ELCR.start, 1, 2);
    let resources = resources(vec![&ecam, &power, &elcr]);
    device("MRES", &EISAName::new("PNP0C02"), 0, &[&resources])
}

fn real_time_clock() -> Generated {
    let ports = IO::new(port::RTC.start, port::RTC.start, 1, 2);
    let interrupt = isa_interrupt(irq::RTC, false);
    let resources = resources(vec![&ports, &interrupt]);
    device("RTC0", &EISAName::new("PNP0B00"), 0, &[&resources])
}

fn serial_ports(config: &Config) -> Vec<Generated> {
    let present = |index: &usize| config.serial_ports[*index];
    let ports = || layout::SERIAL_PORTS.iter().enumerate();
    ports()
        .filter(|(index, _)| present(index))
        .map(|(index, SerialPort { port, irq })| {
            let shares =
                |(other, place): (usize, &SerialPort)| other != index && present(&other) && place.irq == *irq;
            let registers = IO::new(*port, *port, 1, 8);
            let interrupt = isa_interrupt(*irq, ports().any(shares));
            let resources = resources(vec![&registers, &interrupt]);
            let name = format!("COM{}", index + 1);
            device(&name, &EISAName::new("PNP0501"), index + 1, &[&resources])
        })
        .collect()
}

/// An ISA interrupt: a rising edge.
fn isa_interrupt(irq: u8, is_shared: bool) -> Interrupt {
    Interrupt::new(true, true, false, is_shared, u32::from(irq))
}

/// A processor; its UID is the MADT's.
fn processor(uid: usize) -> Generated {
    device(&format!("C{uid:03X}"), &String::from("ACPI0007"), uid, &[])
}
