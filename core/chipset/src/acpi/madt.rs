//! The multiple APIC description table: processors and interrupt controllers. ACPI 6.5 § 5.2.12.

use super::{Config, Generated, OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::layout::{self, irq};
use acpi_tables::sdt::Sdt;
use alloc::vec::Vec;

/// Revision 5, of ACPI 6.5.
const REVISION: u8 = 5;
/// The length of the table's header, its signature to its creator's revision.
const HEADER: u32 = 36;

/// There are two 8259s to be disabled.
const PCAT_COMPAT: u32 = 1;
/// The processor is there.
const ENABLED: u32 = 1;

/// The polarity and trigger mode that the bus implies: for ISA, rising edges.
const CONFORMING: u16 = 0;
/// Level-triggered, active high.
const LEVEL_HIGH: u16 = 0b1101;

/// All processors, by their ACPI UID, in structures of 8 and 32 bits.
const ALL_8: u8 = 0xff;
const ALL_32: u32 = u32::MAX;
/// The local APIC's pin that NMIs arrive at.
const LINT1: u8 = 1;

/// The types of the structures in the table.
const LOCAL_APIC: u8 = 0;
const IO_APIC: u8 = 1;
const INTERRUPT_SOURCE_OVERRIDE: u8 = 2;
const LOCAL_APIC_NMI: u8 = 4;
const LOCAL_X2APIC: u8 = 9;
const LOCAL_X2APIC_NMI: u8 = 10;

/// The address of a controller below 4 GiB.
const fn address(address: u64) -> [u8; 4] {
    assert!(address <= u32::MAX as u64);
    (address as u32).to_le_bytes()
}

const LOCAL_APIC_ADDRESS: [u8; 4] = address(layout::LOCAL_APIC);
const IO_APIC_ADDRESS: [u8; 4] = address(layout::IO_APIC.start);

pub(super) fn build(config: &Config) -> Generated {
    let mut body = Vec::new();
    body.extend(LOCAL_APIC_ADDRESS);
    body.extend(PCAT_COMPAT.to_le_bytes());
    let mut has_x2apic = false;
    for (uid, apic_id) in (0u32..).zip(&config.apic_ids) {
        has_x2apic |= processor(&mut body, uid, *apic_id);
    }
    // ID 0, and its pins are the global system interrupts from 0 on.
    structure(&mut body, IO_APIC, &[&[0, 0], &IO_APIC_ADDRESS, &[0; 4]]);
    interrupt_override(&mut body, irq::TIMER, irq::TIMER_PIN, CONFORMING);
    interrupt_override(&mut body, irq::SCI, irq::SCI, LEVEL_HIGH);
    let conforming = CONFORMING.to_le_bytes();
    structure(&mut body, LOCAL_APIC_NMI, &[&[ALL_8], &conforming, &[LINT1]]);
    if has_x2apic {
        let fields: [&[u8]; 4] = [&conforming, &ALL_32.to_le_bytes(), &[LINT1], &[0; 3]];
        structure(&mut body, LOCAL_X2APIC_NMI, &fields);
    }

    let mut table = Sdt::new(*b"APIC", HEADER, REVISION, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    table.append_slice(&body);
    Generated(table.as_slice().to_vec())
}

/// Adds a processor, and says whether only the wider structure has room for its ID.
fn processor(body: &mut Vec<u8>, uid: u32, apic_id: u32) -> bool {
    let flags = ENABLED.to_le_bytes();
    match (u8::try_from(uid), u8::try_from(apic_id)) {
        // 255 is the address of all.
        (Ok(uid), Ok(id)) if id < 255 && uid < ALL_8 => {
            structure(body, LOCAL_APIC, &[&[uid, id], &flags]);
            false
        }
        _ => {
            let fields: [&[u8]; 4] = [&[0; 2], &apic_id.to_le_bytes(), &flags, &uid.to_le_bytes()];
            structure(body, LOCAL_X2APIC, &fields);
            true
        }
    }
}

/// An ISA interrupt arrives at another pin, or in another way, than its number says.
fn interrupt_override(body: &mut Vec<u8>, irq: u8, pin: u8, flags: u16) {
    let interrupt = u32::from(pin).to_le_bytes();
    let fields: [&[u8]; 3] = [&[0, irq], &interrupt, &flags.to_le_bytes()];
    structure(body, INTERRUPT_SOURCE_OVERRIDE, &fields);
}

/// Appends a structure: its type, its length, its fields.
fn structure(body: &mut Vec<u8>, structure_type: u8, fields: &[&[u8]]) {
    let start = body.len();
    body.extend([structure_type, 0]);
    for field in fields {
        body.extend_from_slice(field);
    }
    // None is longer than 16 bytes.
    body[start + 1] = (body.len() - start) as u8;
}
