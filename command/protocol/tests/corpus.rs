//! Every file that fuzzing found worth keeping, taken for a conversation as the fuzz target does it.
//!
//! The files and the target are in the folder `fuzz` of the repository.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::{Path, PathBuf};

use tern_command_protocol::{FromGuest, Message, Size, Start, Stream, ToGuest, exercise};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/command")
}

#[test]
fn corpus_ends_in_messages_or_errors() {
    let files = fs::read_dir(folder()).unwrap();
    let messages: Vec<_> = files.map(|file| exercise(&fs::read(file.unwrap().path()).unwrap())).collect();
    assert!(messages.iter().sum::<usize>() > 0, "{messages:?}");
}

/// Writes the files that a fuzzer begins with.
#[test]
#[ignore = "writes into the repository"]
fn write_seeds() {
    let start = Start {
        words: vec![b"sh".to_vec(), b"-c".to_vec(), b"exit 7".to_vec()],
        environment: vec![b"A=b".to_vec()],
        directory: Some(b"/".to_vec()),
        terminal: Some(Size { columns: 80, rows: 24 }),
    };
    let from_guest = [
        FromGuest::Hello(1),
        FromGuest::Started,
        FromGuest::Output(Stream::Error, b"some".to_vec()),
        FromGuest::Credit(4),
        FromGuest::InputGone,
        FromGuest::Failed { code: 127, reason: "why".to_owned() },
        FromGuest::Killed(9),
        FromGuest::Exited(1),
    ];
    let to_guest = [
        ToGuest::Start(start),
        ToGuest::Input(b"in".to_vec()),
        ToGuest::InputEnd,
        ToGuest::Signal(2),
        ToGuest::Credit(Stream::Output, 4),
        ToGuest::Resize(Size { columns: 1, rows: 2 }),
        ToGuest::Gone(Stream::Error),
    ];
    let from_guest: Vec<_> = from_guest.iter().flat_map(Message::bytes).collect();
    let to_guest: Vec<_> = to_guest.iter().flat_map(Message::bytes).collect();
    let seeds = [
        [&[255], &from_guest[..]].concat(),
        [&[1], &from_guest[..]].concat(),
        [&[7], &to_guest[..]].concat(),
        vec![9, 4, 2, 0x40, 0, 0, 1],
        vec![9, 1, 255, 255, 255, 255],
        vec![3, 1, 10, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0, 0, 0],
    ];
    fs::create_dir_all(folder()).unwrap();
    for (index, seed) in seeds.iter().enumerate() {
        fs::write(folder().join(format!("seed-{index}")), seed).unwrap();
    }
}
