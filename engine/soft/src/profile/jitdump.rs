//! Translated code as perf(1) reads it: the file `jit-PID.dump`, in which each unit has a record with its name and bytes
//! (`tools/perf/Documentation/jitdump-specification.txt` in Linux's sources).
//!
//! perf finds the file by a mapping of it that may be executed, which shows in the recorded process. Times are those of
//! CLOCK_MONOTONIC, which perf must be told (`perf record -k mono`); `perf inject --jit` then makes of each record an object file,
//! and reports show units by their names.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::ptr::NonNull;

use rustix::time::{ClockId, clock_gettime};

/// "JiTD".
const MAGIC: u32 = 0x4a69_5444;
const VERSION: u32 = 1;
const HEADER_SIZE: u32 = 40;
/// ELF's number for x86-64.
const EM_X86_64: u32 = 62;
/// JIT_CODE_LOAD, and the bytes of its record before the name.
const CODE_LOAD: u32 = 0;
const CODE_LOAD_SIZE: usize = 56;

/// A file of records.
#[derive(Debug)]
pub struct JitDump {
    /// Each record is one write, so that the file is whole however this process ends.
    file: File,
    /// The mapping that perf finds it by.
    mark: NonNull<libc::c_void>,
    /// How many records there are.
    records: u64,
}

// SAFETY: the mapping belongs to this value alone, and nothing reads it.
unsafe impl Send for JitDump {}

/// Bytes of the mapping; it need not hold anything.
const MARK_SIZE: usize = 4096;

impl JitDump {
    /// Makes the file of this process in `folder`.
    ///
    /// # Errors
    /// The host refuses.
    pub fn create(folder: &Path) -> io::Result<Self> {
        let path = folder.join(format!("jit-{}.dump", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
        // SAFETY: a new mapping of an open file, which nothing reads or runs.
        let mark = unsafe {
            let protection = libc::PROT_READ | libc::PROT_EXEC;
            libc::mmap(std::ptr::null_mut(), MARK_SIZE, protection, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
        };
        if mark == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mark = NonNull::new(mark).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut dump = Self { file, mark, records: 0 };
        for word in [MAGIC, VERSION, HEADER_SIZE, EM_X86_64, 0, std::process::id()] {
            dump.file.write_all(&word.to_ne_bytes())?;
        }
        for word in [now(), 0] {
            dump.file.write_all(&word.to_ne_bytes())?;
        }
        Ok(dump)
    }

    /// Records code that lies at `address` from now on, by a thread of this process.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn record(&mut self, name: &str, address: u64, code: &[u8]) -> io::Result<()> {
        let size = CODE_LOAD_SIZE + name.len() + 1 + code.len();
        let size = u32::try_from(size).map_err(io::Error::other)?;
        self.records += 1;
        let (process, thread) = (std::process::id(), rustix::thread::gettid().as_raw_nonzero().get() as u32);
        let mut record = Vec::with_capacity(CODE_LOAD_SIZE + name.len() + 1 + code.len());
        record.extend([CODE_LOAD, size].iter().flat_map(|word| word.to_ne_bytes()));
        record.extend(now().to_ne_bytes());
        record.extend([process, thread].iter().flat_map(|word| word.to_ne_bytes()));
        let places = [address, address, code.len() as u64, self.records];
        record.extend(places.iter().flat_map(|word| word.to_ne_bytes()));
        record.extend(name.bytes());
        record.push(0);
        record.extend(code);
        self.file.write_all(&record)
    }
}

impl Drop for JitDump {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this size, and nothing uses it.
        unsafe { libc::munmap(self.mark.as_ptr(), MARK_SIZE) };
    }
}

/// CLOCK_MONOTONIC, in nanoseconds.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    (now.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(now.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_its_header_and_a_record_for_each_unit() {
        let folder = tempfile::tempdir().unwrap();
        let mut dump = JitDump::create(folder.path()).unwrap();
        dump.record("guest 0x1000", 0x7f00_0000_1000, &[0x90, 0xc3]).unwrap();
        drop(dump);
        let path = folder.path().join(format!("jit-{}.dump", std::process::id()));
        let bytes = std::fs::read(path).unwrap();
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!((word(0), word(8) as usize, word(12)), (MAGIC, 40, EM_X86_64));
        let record = 40;
        assert_eq!((word(record), word(record + 4) as usize), (CODE_LOAD, bytes.len() - record));
        assert_eq!(
            (long(record + 24), long(record + 32), long(record + 40)),
            (0x7f00_0000_1000, 0x7f00_0000_1000, 2)
        );
        assert!(bytes.ends_with(b"guest 0x1000\0\x90\xc3"));
    }
}
