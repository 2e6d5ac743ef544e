//! Who may open an image together with whom: one writer, or any number of readers.
//!
//! Open file description locks (fcntl(2), `F_OFD_SETLK`) on single bytes of the file, by the convention that QEMU follows too, so
//! that neither opens what the other writes: a shared lock on byte 100 + *n* says "I do *n*", one on byte 200 + *n* says "nobody else
//! may do *n*", where *n* is 0 for reading, 1 for writing and 3 for resizing. A process takes its locks, then looks whether
//! anybody else's contradict.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use super::holder::{self, Holder};

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Reading; others may read as well.
    Read,
    /// Reading, writing and resizing; nobody else may do anything.
    Write,
}

/// Why a file could not be locked.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Somebody else has it.
    Taken {
        /// Who, if that can be known.
        by: Option<Holder>,
        /// Whether they write it.
        is_written: bool,
    },
    /// The file system does not do locks.
    Impossible(io::Error),
}

const READING: i64 = 0;
const WRITING: i64 = 1;
const RESIZING: i64 = 3;

/// The byte that says "I do this".
const fn does(permission: i64) -> i64 {
    100 + permission
}

/// The byte that says "nobody else may do this".
const fn forbids(permission: i64) -> i64 {
    200 + permission
}

impl Purpose {
    /// What is done, with what others may not do meanwhile.
    fn permissions(self) -> (&'static [i64], &'static [i64]) {
        match self {
            Self::Read => (&[READING], &[WRITING, RESIZING]),
            Self::Write => (&[READING, WRITING, RESIZING], &[WRITING, RESIZING]),
        }
    }
}

/// A killed process's locks end when the kernel has finished its last requests: that is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Locks `file` until it is closed.
pub(super) fn lock(file: &File, purpose: Purpose) -> Result<(), LockError> {
    let begin = Instant::now();
    loop {
        let conflict = match attempt(file, purpose) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let is_final = !matches!(conflict, LockError::Taken { .. }) || begin.elapsed() >= PATIENCE;
        if is_final {
            return Err(match conflict {
                LockError::Taken { is_written, .. } => LockError::Taken { by: holder::of(file), is_written },
                other => other,
            });
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn attempt(file: &File, purpose: Purpose) -> Result<(), LockError> {
    let (done, forbidden) = purpose.permissions();
    let bytes = || done.iter().map(|n| does(*n)).chain(forbidden.iter().map(|n| forbids(*n)));
    for byte in bytes() {
        set(file, byte, libc::F_RDLCK).map_err(LockError::Impossible)?;
    }
    let contradicted = || -> io::Result<bool> {
        for permission in done {
            if is_locked(file, forbids(*permission))? {
                return Ok(true);
            }
        }
        for permission in forbidden {
            if is_locked(file, does(*permission))? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    match contradicted() {
        Ok(false) => Ok(()),
        Ok(true) => {
            let is_written = is_locked(file, does(WRITING)).unwrap_or(false);
            for byte in bytes() {
                // Whoever cannot unlock cannot have locked.
                let _ = set(file, byte, libc::F_UNLCK);
            }
            Err(LockError::Taken { by: None, is_written })
        }
        Err(error) => Err(LockError::Impossible(error)),
    }
}

fn request(byte: i64, kind: i32) -> libc::flock {
    // SAFETY: the structure is made of integers, for which zeros are valid; `l_pid` must be 0 for these locks.
    let mut request: libc::flock = unsafe { mem::zeroed() };
    request.l_type = kind as libc::c_short;
    request.l_whence = libc::SEEK_SET as libc::c_short;
    request.l_start = byte;
    request.l_len = 1;
    request
}

fn set(file: &File, byte: i64, kind: i32) -> io::Result<()> {
    let request = request(byte, kind);
    // SAFETY: the descriptor is open, and the call only reads the structure, which lives until it returns.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether another open file has a lock on the byte.
fn is_locked(file: &File, byte: i64) -> io::Result<bool> {
    let mut request = request(byte, libc::F_WRLCK);
    // SAFETY: the descriptor is open, and the call fills in the structure, which lives until it returns.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut request) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(i32::from(request.l_type) != libc::F_UNLCK)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::path::Path;

    use super::*;

    fn open(path: &Path) -> File {
        OpenOptions::new().read(true).write(true).open(path).unwrap()
    }

    fn image() -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk");
        std::fs::write(&path, [0; 512]).unwrap();
        (directory, path)
    }

    #[test]
    fn readers_come_together_and_a_writer_is_alone() {
        let (_directory, path) = image();
        let (first, second, third) = (open(&path), open(&path), open(&path));
        attempt(&first, Purpose::Read).unwrap();
        attempt(&second, Purpose::Read).unwrap();
        assert!(matches!(attempt(&third, Purpose::Write), Err(LockError::Taken { is_written: false, .. })));
        drop((first, second));
        attempt(&third, Purpose::Write).unwrap();
        let fourth = open(&path);
        for purpose in [Purpose::Read, Purpose::Write] {
            assert!(matches!(attempt(&fourth, purpose), Err(LockError::Taken { is_written: true, .. })));
        }
    }

    #[test]
    fn whoever_has_it_is_named() {
        let (_directory, path) = image();
        let (first, second) = (open(&path), open(&path));
        attempt(&first, Purpose::Write).unwrap();
        let Err(LockError::Taken { by: Some(holder), is_written: true }) = lock(&second, Purpose::Read)
        else {
            panic!("the lock was given twice, or nobody has it");
        };
        assert_eq!(holder.process, std::process::id());
    }

    #[test]
    fn a_lock_that_ends_soon_is_waited_for() {
        let (_directory, path) = image();
        let (first, second) = (open(&path), open(&path));
        attempt(&first, Purpose::Write).unwrap();
        let waiting = thread::spawn(move || lock(&second, Purpose::Write));
        thread::sleep(Duration::from_millis(50));
        drop(first);
        assert!(waiting.join().unwrap().is_ok());
    }
}
