//! Files as linkers write them, then contradictory and damaged ones.

use proptest::prelude::*;

use super::*;
use crate::boot::samples::{Part, elf, elf32, load, pvh_note, truncations};

fn kernel() -> Vec<Part> {
    vec![load(0x100_0000, b"text", 4), pvh_note(0x100_0002), load(0x200_0000, b"data", 0x1000)]
}

#[test]
fn both_classes_give_segments_and_pvh_entry() {
    for (file, is_64_bit) in [(elf(&kernel()), true), (elf32(&kernel()), false)] {
        let elf = Elf::parse(&file).unwrap();
        assert_eq!(elf.is_64_bit, is_64_bit);
        assert_eq!(elf.pvh_entry, Some(0x100_0002));
        assert_eq!(elf.entry, 0x100_0000);
        let [text, data] = &elf.segments[..] else { panic!("{:?}", elf.segments) };
        assert_eq!((&file[text.file.clone()], text.address, text.memory_size), (&b"text"[..], 0x100_0000, 4));
        assert_eq!(
            (&file[data.file.clone()], data.address, data.end()),
            (&b"data"[..], 0x200_0000, 0x200_1000)
        );
    }
}

#[test]
fn a_virtual_entry_point_is_translated() {
    let mut text = load(0x100_0000, b"text", 0x1000);
    text.virtual_address = 0xffff_ffff_8100_0000;
    let mut file = elf(&[text]);
    assert_eq!(Elf::parse(&file).unwrap().physical_entry(), Ok(0x100_0000));
    file[24..32].copy_from_slice(&0x100_0004_u64.to_le_bytes());
    assert_eq!(Elf::parse(&file).unwrap().physical_entry(), Ok(0x100_0004));
    file[24..32].copy_from_slice(&0x100_1000_u64.to_le_bytes());
    assert_eq!(Elf::parse(&file).unwrap().physical_entry(), Err(ElfError::EntryOutside(0x100_1000)));
}

#[test]
fn an_entry_point_far_outside_wraps_no_address() {
    let mut text = load(u64::MAX - 1, b"", 1);
    text.virtual_address = 0;
    let mut file = elf(&[text]);
    file[24..32].fill(0xff);
    assert_eq!(Elf::parse(&file).unwrap().physical_entry(), Err(ElfError::EntryOutside(u64::MAX)));
}

#[test]
fn every_truncation_is_refused() {
    for file in [elf(&kernel()), elf32(&kernel())] {
        for part in truncations(&file) {
            assert!(Elf::parse(part).is_err(), "{} bytes", part.len());
        }
    }
}

#[test]
fn segments_must_not_contradict_each_other() {
    let parse = |parts: &[Part]| Elf::parse(&elf(parts));
    let overlap = parse(&[load(0x2000, b"", 1), load(0x1000, b"", 0x1001)]);
    assert_eq!(overlap, Err(ElfError::SegmentsOverlap(0x2000)));
    assert_eq!(parse(&[load(u64::MAX, b"", 1)]), Err(ElfError::SegmentWraps(0)));
    assert_eq!(parse(&[load(0x1000, b"1234", 3)]), Err(ElfError::SegmentLargerInFile(0)));
    assert_eq!(parse(&[load(0x1000, b"", 0)]), Err(ElfError::NothingToLoad));
    assert_eq!(parse(&[]), Err(ElfError::NothingToLoad));
    assert_eq!(parse(&[load(0x1000, b"", 1), pvh_note(0x1001)]), Err(ElfError::EntryOutside(0x1001)));
    assert!(parse(&[load(0x2000, b"", 1), load(0x1000, b"", 0x1000)]).is_ok());
}

#[test]
fn other_files_are_named() {
    let with = |offset: usize, value: u8| {
        let mut file = elf(&kernel());
        file[offset] = value;
        Elf::parse(&file)
    };
    assert_eq!(with(0, 0), Err(ElfError::NotElf));
    assert_eq!(with(EI_DATA, 2), Err(ElfError::Encoding { class: 2, encoding: 2 }));
    assert_eq!(with(16, 1), Err(ElfError::Type(1)));
    assert_eq!(with(18, 183), Err(ElfError::Machine(183)));
    assert_eq!(with(54, 55), Err(ElfError::HeaderTable { count: 3, size: 55 }));
}

#[test]
fn malformed_notes_are_refused() {
    let mut note = pvh_note(0x1000);
    note.bytes[0] = 0xff;
    assert_eq!(Elf::parse(&elf(&[load(0x1000, b"", 1), note])), Err(ElfError::Notes(1)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn what_a_damaged_file_yields_keeps_its_promises(
        is_64_bit: bool,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut file = if is_64_bit { elf(&kernel()) } else { elf32(&kernel()) };
        for (index, value) in damage {
            let index = index.index(file.len());
            file[index] = value;
        }
        if let Ok(elf) = Elf::parse(&file) {
            prop_assert!(!elf.segments.is_empty());
            for segment in &elf.segments {
                prop_assert!(segment.file.end <= file.len());
                prop_assert!(segment.file.len() as u64 <= segment.memory_size);
                prop_assert!(segment.address.checked_add(segment.memory_size).is_some());
            }
            prop_assert!(elf.segments.is_sorted_by(|a, b| a.end() <= b.address));
        }
    }
}
