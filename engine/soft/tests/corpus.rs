//! Every input that fuzzing found worth keeping, decoded and executed as the fuzz targets do it.
//!
//! The files and the targets are in the folder `fuzz` of the repository.

use std::path::Path;

#[path = "../../../fuzz/src/guest.rs"]
mod guest;

/// Replays the corpus of `target` and returns the number of files.
fn replay(target: &str, run: impl Fn(&[u8])) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let read = |file: std::io::Result<std::fs::DirEntry>| std::fs::read(file?.path());
    files.map(|file| run(&read(file).expect("the corpus is readable"))).count()
}

#[test]
fn decode_corpus_gives_instructions_or_nothing() {
    assert!(replay("decode", guest::decode_everywhere) > 0);
}

#[test]
fn guest_corpus_leaves_the_engine_running() {
    assert!(replay("guest", guest::execute) > 0);
}
