//! `qemu-img` and `qemu-io`, and disks with something on them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use tern_disk::{DiskOptions, Operation};

use crate::client::Client;

/// For how long a lock may outlive what held it: a process that another test starts has copies of this one's descriptors, until it has
/// become the other program, and with them their locks.
const LOCKS_LINGER: Duration = Duration::from_secs(5);

/// Runs a program of QEMU's; what it prints is returned.
pub fn qemu(program: &str, arguments: &[&str], folder: &Path) -> String {
    let begun = Instant::now();
    loop {
        let output = Command::new(program).args(arguments).current_dir(folder).output();
        let output = output.unwrap_or_else(|error| {
            panic!("{program} cannot be started ({error}): install it with `apt-get install qemu-utils`")
        });
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return text;
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        let is_locked = errors.contains("Failed to get") && errors.contains("lock");
        assert!(is_locked && begun.elapsed() < LOCKS_LINGER, "{program} {arguments:?}: {text}{errors}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Runs `qemu-img`.
pub fn img(arguments: &[&str], folder: &Path) -> String {
    qemu("qemu-img", arguments, folder)
}

/// A folder that is gone with the test.
pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Makes a raw disk with data, zeros and holes.
    pub fn raw(&self, name: &str, size: u64, seed: u64) -> Vec<u8> {
        let bytes = contents(size, seed);
        std::fs::write(self.file(name), &bytes).unwrap();
        bytes
    }

    /// What `qemu-img` reads from an image.
    pub fn as_qemu_reads(&self, name: &str, format: &str) -> Vec<u8> {
        img(&["convert", "-f", format, "-O", "raw", name, "converted.raw"], self.path());
        std::fs::read(self.file("converted.raw")).unwrap()
    }

    /// What is read here.
    pub fn as_read_here(&self, name: &str) -> Vec<u8> {
        let mut options = DiskOptions::new(self.file(name));
        options.is_read_only = true;
        read_all(&mut Client::open(&options))
    }

    pub fn writable(&self, name: &str) -> Client {
        Client::open(&DiskOptions::new(self.file(name)))
    }
}

/// Random numbers that are the same in every run.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 24
    }
}

/// A disk's contents: stretches of zeros, of one byte, of text and of noise.
pub fn contents(size: u64, seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = vec![0; usize::try_from(size).unwrap()];
    let mut at = 0;
    while at < bytes.len() {
        let length = (usize::try_from(random.next() % 200).unwrap() + 1) * 512;
        let end = (at + length).min(bytes.len());
        match random.next() % 4 {
            0 => {}
            1 => bytes[at..end].fill(random.next() as u8),
            2 => bytes[at..end].iter_mut().enumerate().for_each(|(index, byte)| *byte = (index / 7) as u8),
            _ => bytes[at..end].iter_mut().for_each(|byte| *byte = random.next() as u8),
        }
        at = end;
    }
    bytes
}

/// Compares two disks, and tells where they begin to differ.
pub fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    if let Some(at) = found.iter().zip(expected).position(|(found, expected)| found != expected) {
        let count = found.iter().zip(expected).filter(|(found, expected)| found != expected).count();
        panic!("{what}: at {at} is {}, not {}; {count} bytes differ", found[at], expected[at]);
    }
}

pub fn read_all(client: &mut Client) -> Vec<u8> {
    let size = client.disk.size();
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < size {
        let left = usize::try_from(size - bytes.len() as u64).unwrap();
        bytes.extend(client.read(bytes.len() as u64, left.min(1 << 20), 65536).unwrap());
    }
    bytes
}

/// Does random writes, zeros and flushes, in the image and in `model`.
pub fn write_randomly(client: &mut Client, model: &mut [u8], seed: u64, count: u32) {
    let mut random = Random(seed);
    let sectors = model.len() as u64 / 512;
    for _ in 0..count {
        let sector = random.next() % sectors;
        let most = if random.next().is_multiple_of(4) { 600 } else { 16 };
        let length = (1 + random.next() % most).min(sectors - sector) * 512;
        let (start, end) =
            (usize::try_from(sector * 512).unwrap(), usize::try_from(sector * 512 + length).unwrap());
        match random.next() % 8 {
            0 if client.disk.write_zeroes().is_some() => {
                let may_unmap = random.next().is_multiple_of(2);
                let zeros = Operation::WriteZeroes { offset: sector * 512, length, may_unmap };
                client.ask(zeros).unwrap();
                model[start..end].fill(0);
            }
            1 => client.flush().unwrap(),
            _ => {
                let byte = random.next() as u8;
                for (index, place) in model[start..end].iter_mut().enumerate() {
                    *place = byte ^ (index / 512) as u8;
                }
                client.write(sector * 512, &model[start..end], 4096).unwrap();
            }
        }
    }
}
