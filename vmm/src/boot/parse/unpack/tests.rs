//! Every format as its own tool writes it, then the same files damaged.
//!
//! The samples hold [`plain`] packed by `gzip -9`, `bzip2 -9`, `lzma -9`, `xz --check=crc32 --x86
//! --lzma2=preset=9,dict=128MiB`, `lzop -9`, `lz4 -l -9` and `zstd --ultra -22`, each followed by its 32-bit size but
//! gzip's, as the kernel's build does it.

use proptest::prelude::*;

use super::*;

const SAMPLES: [(Compression, &[u8]); 7] = [
    (Compression::Gzip, include_bytes!("samples/gzip")),
    (Compression::Bzip2, include_bytes!("samples/bzip2")),
    (Compression::Lzma, include_bytes!("samples/lzma")),
    (Compression::Xz, include_bytes!("samples/xz")),
    (Compression::Lzo, include_bytes!("samples/lzo")),
    (Compression::Lz4, include_bytes!("samples/lz4")),
    (Compression::Zstd, include_bytes!("samples/zstd")),
];
const LIMIT: u32 = 1 << 20;

/// Text among x86 calls, which xz's filter changes.
fn plain() -> Vec<u8> {
    let entry = |i: u32| {
        let mut bytes = vec![0xe8];
        bytes.extend(((i * i) & 0xffff).to_le_bytes());
        bytes.extend(format!("tern{}", i % 7).bytes());
        bytes.extend(vec![0; i as usize % 5]);
        bytes
    };
    (0..200).flat_map(entry).collect()
}

#[test]
fn every_format_unpacks_to_what_was_packed() {
    for (compression, packed) in SAMPLES {
        assert_eq!(Compression::detect(packed), Some(compression));
        assert_eq!(unpack_payload(packed, LIMIT).unwrap(), plain(), "{compression:?}");
    }
    assert_eq!(unpack_payload(b"\x7fELF...", LIMIT).unwrap(), b"\x7fELF...");
}

#[test]
fn the_payload_is_found_in_its_bzimage() {
    let file = crate::boot::samples::bzimage(SAMPLES[0].1);
    assert_eq!(unpack(&file).unwrap(), plain());
}

#[test]
fn another_size_than_claimed_is_an_error() {
    for (compression, packed) in SAMPLES {
        for change in [-1, 1] {
            let (data, size) = packed.split_last_chunk::<4>().unwrap();
            let size = u32::from_le_bytes(*size).wrapping_add_signed(change);
            let wrong = [data, &size.to_le_bytes()].concat();
            assert!(unpack_payload(&wrong, LIMIT).is_err(), "{compression:?} {change}");
        }
    }
}

#[test]
fn more_than_the_limit_is_refused_before_unpacking() {
    for (_, packed) in SAMPLES {
        assert!(matches!(unpack_payload(packed, 100), Err(UnpackError::TooLarge(_))));
    }
}

#[test]
fn every_truncation_is_refused() {
    for (compression, packed) in SAMPLES {
        for length in 0..packed.len() {
            assert!(unpack_payload(&packed[..length], LIMIT).is_err(), "{compression:?} {length}");
        }
    }
}

#[test]
fn a_dictionary_larger_than_any_kernels_is_refused() {
    let mut lzma = include_bytes!("samples/lzma").to_vec();
    lzma[1..5].copy_from_slice(&(1_u32 << 30).to_le_bytes());
    assert!(matches!(unpack_payload(&lzma, LIMIT), Err(UnpackError::Corrupt { .. })));
}

#[test]
fn an_unknown_format_is_said_to_be_unknown() {
    assert!(matches!(unpack_payload(b"what is this?", LIMIT), Err(UnpackError::UnknownCompression)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn damage_does_not_panic_and_never_changes_the_size_unnoticed(
        sample in 0..SAMPLES.len(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut packed = SAMPLES[sample].1.to_vec();
        for (index, value) in damage {
            let index = index.index(packed.len());
            packed[index] ^= value;
        }
        if let Ok(unpacked) = unpack_payload(&packed, LIMIT) {
            let claimed = u32::from_le_bytes(*packed.last_chunk().unwrap());
            prop_assert_eq!(unpacked.len(), claimed as usize);
        }
    }
}
