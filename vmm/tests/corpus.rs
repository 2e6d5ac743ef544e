//! Every file that fuzzing found worth keeping, read and loaded as the fuzz targets do it.
//!
//! The files and the targets are in the folder `fuzz` of the repository.

use std::path::Path;

use tern_vmm::boot::KernelKind;

#[path = "../../fuzz/src/boot.rs"]
mod boot;

/// Replays the corpus of `target` and returns the number of files.
fn replay(target: &str, kind: KernelKind) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let replay = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.expect("the corpus is readable").path();
        boot::parse_and_load(&std::fs::read(&path).expect("the corpus holds files"), kind);
    };
    files.map(replay).count()
}

#[test]
fn bzimage_corpus_ends_in_states_or_errors() {
    assert!(replay("bzimage", KernelKind::BzImage) > 0);
}

#[test]
fn elf_corpus_ends_in_states_or_errors() {
    assert!(replay("elf", KernelKind::Elf) > 0);
}

#[test]
fn multiboot_corpus_ends_in_states_or_errors() {
    assert!(replay("multiboot", KernelKind::Multiboot) > 0);
}
