//! The page walk on its own: tables in RAM, one access at a time.

use tern_x86::cpu::Cpu;
use tern_x86::cpuid::CpuModel;
use tern_x86::exception::{Exception, PageFault};
use tern_x86::paging::{Access, AccessKind, PhysicalMemory, Rights, Translation, translate};
use tern_x86::state::{Cr0, Cr4, Efer};

use crate::machine::Ram;

const ROOT: u64 = 0x1000;
const P: u64 = 1;
const RW: u64 = 2;
const US: u64 = 4;
const A: u64 = 0x20;
const D: u64 = 0x40;
const PS: u64 = 0x80;
const NX: u64 = 1 << 63;

const READ: Access = Access { kind: AccessKind::Read, user: false, smap_override: false };
const WRITE: Access = Access { kind: AccessKind::Write, ..READ };
const FETCH: Access = Access { kind: AccessKind::Execute, ..READ };

fn user(access: Access) -> Access {
    Access { user: true, ..access }
}

struct Walk {
    cpu: Cpu,
    ram: Ram,
}

impl Walk {
    fn new(cr4: Cr4, efer: Efer) -> Self {
        let mut cpu = Cpu::new(CpuModel::default());
        (cpu.cr0, cpu.cr3) = (Cr0::PE | Cr0::PG | Cr0::WP, ROOT);
        (cpu.cr4, cpu.efer) = (cr4, efer);
        Self { cpu, ram: Ram::new(0x10_000) }
    }

    /// Four levels whose tables lie behind each other; the walk of linear address 0 uses the first entry of each.
    fn long(leaf: u64) -> Self {
        let mut walk = Self::new(Cr4::PAE, Efer::LMA | Efer::LME | Efer::NXE);
        for table in [ROOT, 0x2000, 0x3000] {
            walk.set(table, (table + 0x1000) | P | RW | US);
        }
        walk.set(0x4000, leaf);
        walk
    }

    fn set(&mut self, physical: u64, entry: u64) {
        self.ram.write(physical, &entry.to_le_bytes());
    }

    fn entry(&self, physical: u64) -> u64 {
        self.ram.read(physical)
    }

    fn at(&mut self, linear: u64, access: Access) -> Result<Translation, Exception> {
        translate(&self.cpu, &mut self.ram, linear, access)
    }

    fn fault(&mut self, access: Access) -> PageFault {
        let exception = self.at(0x123, access).expect_err("the access is forbidden");
        assert_eq!(exception.payload, 0x123);
        PageFault::from_bits_retain(exception.error_code.expect("#PF has one"))
    }
}

#[test]
fn without_paging_addresses_are_32_bits_and_everything_is_permitted() {
    let mut walk = Walk::new(Cr4::empty(), Efer::empty());
    walk.cpu.cr0 -= Cr0::PG;
    let translation = walk.at(0x1_2345_6789, user(WRITE)).expect("no tables");
    assert_eq!((translation.physical, translation.rights), (0x2345_6789, Rights::all()));
}

#[test]
fn four_levels_translate_pages_of_all_three_sizes() {
    let linear = 0x0012_5456;
    let mut walk = Walk::long(0);
    walk.set(0x4000 + (linear >> 12 & 0x1ff) * 8, 0x7000 | P);
    walk.set(0x3000 + (linear >> 21 & 0x1ff) * 8, 0x4000 | P);
    let small = walk.at(linear, READ).expect("mapped");
    assert_eq!((small.physical, small.page_bits), (0x7000 | linear & 0xfff, 12));
    walk.set(0x3000 + (linear >> 21 & 0x1ff) * 8, 0x60_0000 | P | PS);
    let medium = walk.at(linear, READ).expect("mapped");
    assert_eq!((medium.physical, medium.page_bits), (0x60_0000 | linear & 0x1f_ffff, 21));
    walk.set(0x2000, 0x8000_0000 | P | PS);
    let large = walk.at(linear, READ).expect("mapped");
    assert_eq!((large.physical, large.page_bits), (0x8000_0000 | linear, 30));
}

#[test]
fn the_walk_sets_accessed_bits_on_the_path_and_dirty_only_for_a_write() {
    let mut walk = Walk::long(0x7000 | P | RW);
    let read = walk.at(0, READ).expect("mapped");
    assert!(!read.rights.intersects(Rights::WRITE), "writing needs another walk for the Dirty bit");
    assert_eq!((walk.entry(ROOT) & A, walk.entry(0x4000) & (A | D)), (A, A));
    let write = walk.at(0, WRITE).expect("writable");
    assert!(write.rights.contains(Rights::SUPERVISOR_WRITE));
    assert_eq!((walk.entry(0x4000) & D, walk.entry(0x3000) & D), (D, 0));
}

#[test]
fn a_refused_access_leaves_the_tables_alone() {
    let mut walk = Walk::long(0x7000 | P | RW);
    assert_eq!(walk.fault(user(WRITE)), PageFault::PRESENT | PageFault::WRITE | PageFault::USER);
    assert_eq!((walk.entry(ROOT) & A, walk.entry(0x4000) & (A | D)), (0, 0));
}

#[test]
fn error_codes_tell_absence_protection_and_reserved_bits_apart() {
    assert_eq!(Walk::long(0).fault(READ), PageFault::empty());
    assert_eq!(Walk::long(0).fault(user(WRITE)), PageFault::WRITE | PageFault::USER);
    let reserved = PageFault::PRESENT | PageFault::RESERVED;
    assert_eq!(Walk::long(0x7000 | P | 1 << 50).fault(READ), reserved);
    let mut large = Walk::long(0);
    large.set(0x3000, P | PS | 1 << 13);
    assert_eq!(large.fault(READ), reserved);
    large.set(ROOT, 0x2000 | P | PS);
    assert_eq!(large.fault(READ), reserved);
    let mut without_nx = Walk::long(0x7000 | P | NX);
    without_nx.cpu.efer -= Efer::NXE;
    assert_eq!(without_nx.fault(READ), reserved);
}

#[test]
fn a_fetch_is_reported_only_where_fetches_can_be_forbidden() {
    assert_eq!(Walk::long(0x7000 | P | NX).fault(FETCH), PageFault::PRESENT | PageFault::FETCH);
    let mut walk = Walk::long(0);
    assert_eq!(walk.fault(FETCH), PageFault::FETCH);
    walk.cpu.efer -= Efer::NXE;
    assert_eq!(walk.fault(FETCH), PageFault::empty());
    walk.cpu.cr4 |= Cr4::SMEP;
    assert_eq!(walk.fault(FETCH), PageFault::FETCH);
}

#[test]
fn write_protection_binds_supervisors_only_with_wp() {
    let mut walk = Walk::long(0x7000 | P | US);
    assert_eq!(walk.fault(WRITE), PageFault::PRESENT | PageFault::WRITE);
    walk.cpu.cr0 -= Cr0::WP;
    let translation = walk.at(0, WRITE).expect("supervisors may write");
    assert!(!translation.rights.contains(Rights::USER_WRITE));
    assert_eq!(walk.fault(user(WRITE)), PageFault::PRESENT | PageFault::WRITE | PageFault::USER);
}

#[test]
fn smep_and_smap_keep_supervisors_off_user_pages() {
    let mut walk = Walk::long(0x7000 | P | RW | US);
    walk.cpu.cr4 |= Cr4::SMEP | Cr4::SMAP;
    assert_eq!(walk.fault(FETCH), PageFault::PRESENT | PageFault::FETCH);
    assert_eq!(walk.fault(READ), PageFault::PRESENT);
    let opened = Access { smap_override: true, ..WRITE };
    assert!(walk.at(0, opened).expect("AC opens it").rights.contains(Rights::SUPERVISOR_WRITE));
    let as_user = walk.at(0, user(FETCH)).expect("its own page");
    assert!(!as_user.rights.intersects(Rights::SUPERVISOR_READ | Rights::SUPERVISOR_EXECUTE));
}

#[test]
fn rights_are_those_of_the_whole_path() {
    let mut walk = Walk::long(0x7000 | P | RW | US | A | D);
    walk.set(0x2000, 0x3000 | P | US | NX);
    let rights = walk.at(0, user(READ)).expect("readable").rights;
    assert_eq!(rights, Rights::SUPERVISOR_READ | Rights::USER_READ);
}

#[test]
fn tables_outside_of_ram_read_as_ones_and_fault() {
    let mut walk = Walk::long(0);
    walk.cpu.cr3 = 0x100_0000;
    assert_eq!(walk.fault(READ), PageFault::PRESENT | PageFault::RESERVED);
}

#[test]
fn legacy_paging_has_two_levels_and_36_bit_large_pages() {
    let mut walk = Walk::new(Cr4::PSE | Cr4::PGE, Efer::empty());
    walk.ram.write(ROOT + 4 * 3, &(0x2000u32 | 7).to_le_bytes());
    walk.ram.write(0x2000 + 4 * 5, &(0x9000u32 | 0x107).to_le_bytes());
    let small = walk.at(0xc0_5123, user(WRITE)).expect("mapped");
    assert_eq!((small.physical, small.page_bits, small.global), (0x9123, 12, true));
    assert_eq!(walk.ram.read_u32(0x2014), Some(0x9167));
    walk.ram.write(ROOT + 4 * 4, &(0x0040_2083u32).to_le_bytes());
    let large = walk.at(0x123_4567, WRITE).expect("mapped");
    assert_eq!((large.physical, large.page_bits), (0x1_0040_0000 | 0x23_4567 & 0x3f_ffff, 22));
    walk.ram.write(ROOT + 4 * 4, &(0x0060_0083u32).to_le_bytes());
    let reserved = walk.at(0x100_0000, READ).expect_err("bit 21");
    assert_eq!(reserved.error_code, Some(9));
}

#[test]
fn pae_takes_rights_from_its_two_lower_levels_and_checks_the_upper_one() {
    let mut walk = Walk::new(Cr4::PAE, Efer::NXE);
    walk.cpu.cr3 = 0x1020;
    walk.set(0x1020 + 8 * 2, 0x2000 | P);
    walk.set(0x2000 + 8 * 3, 0x3000 | P | RW | US);
    walk.set(0x3000 + 8 * 4, 0x8000 | P | RW | US);
    let translation = walk.at(0x8060_4321, user(WRITE)).expect("PDPTEs have no rights");
    assert_eq!(translation.physical, 0x8321);
    assert_eq!(walk.entry(0x1030), 0x2000 | P, "nor an Accessed bit");
    walk.set(0x1030, 0x2000 | P | RW);
    assert_eq!(walk.at(0x8060_4321, READ).expect_err("reserved").error_code, Some(9));
}
