//! Every file that fuzzing found worth keeping, opened, used and checked as the fuzz targets do it.
//!
//! The files and the targets are in the folder `fuzz` of the repository.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::path::Path;

use tern_disk::{Format, hostile};

/// Replays the corpus of a format, and returns the number of files.
fn replay(format: Format) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(format.name());
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    files.map(|file| hostile::exercise(format, &std::fs::read(file.unwrap().path()).unwrap())).count()
}

#[test]
fn qcow2_corpus_ends_in_disks_or_errors() {
    assert!(replay(Format::Qcow2) > 0);
}

#[test]
fn vmdk_corpus_ends_in_disks_or_errors() {
    assert!(replay(Format::Vmdk) > 0);
}

#[test]
fn vhd_corpus_ends_in_disks_or_errors() {
    assert!(replay(Format::Vhd) > 0);
}

#[test]
fn vhdx_corpus_ends_in_disks_or_errors() {
    assert!(replay(Format::Vhdx) > 0);
}

/// Writes the files that a fuzzer begins with.
#[test]
#[ignore = "writes into the repository"]
fn write_seeds() {
    for format in [Format::Qcow2, Format::Vmdk, Format::Vhd, Format::Vhdx] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(format.name());
        std::fs::create_dir_all(&folder).unwrap();
        for (index, seed) in hostile::seeds(format).into_iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{index}")), seed).unwrap();
        }
    }
}
