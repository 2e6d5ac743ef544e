//! A disk, around the page cache of whoever runs this (`O_DIRECT`): `tern-workload disk NAME-ROW DEVICE`.
//!
//! Each block of 4 KiB begins with its own number, in eight bytes, little-endian. Whoever makes the disk sees to that, reads find
//! out, and writes leave it so. Several requests are in flight by as many threads.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::data::Random;
use crate::measure::{self, Repetition};

/// Bytes of a random request, and of what has a number.
const BLOCK: usize = 4 << 10;

/// Bytes of a sequential request.
const STRETCH: usize = 1 << 20;

/// Requests of one thread in one repetition.
const REQUESTS: u32 = 128;

/// What is done with the disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub name: &'static str,
    pub unit: &'static str,
    in_a_second: f64,
    is_write: bool,
    /// Threads with random requests; 0 for sequential ones.
    depth: u32,
}

const fn sequential(name: &'static str, is_write: bool) -> Row {
    Row { name, unit: "ms/MiB", in_a_second: 1e3, is_write, depth: 0 }
}

const fn random(name: &'static str, is_write: bool, depth: u32) -> Row {
    Row { name, unit: "us/4KiB", in_a_second: 1e6, is_write, depth }
}

/// In the order in which they are measured.
pub(crate) const ROWS: [Row; 6] = [
    sequential("read", false),
    sequential("write", true),
    random("random-read", false, 1),
    random("random-read-8", false, 8),
    random("random-write", true, 1),
    random("random-write-8", true, 8),
];

/// The row that `name` ends in, behind a word that tells which disk it is.
pub(crate) fn named(name: &str) -> Option<Row> {
    let (_, row) = name.split_once('-')?;
    ROWS.into_iter().find(|known| known.name == row)
}

impl Row {
    /// Measures it on the disk at `path`, for at least `minimum`; in the row's unit.
    ///
    /// # Errors
    /// The disk cannot be used, is smaller than a sequential request, or does not hold what it must.
    pub fn measure(self, path: &Path, minimum: Duration) -> io::Result<f64> {
        let mut options = OpenOptions::new();
        options.read(true).write(self.is_write).custom_flags(libc::O_DIRECT);
        let mut file = options.open(path)?;
        let size = file.seek(SeekFrom::End(0))?;
        if size < STRETCH as u64 {
            return Err(io::Error::other(format!("it has {size} bytes, and {STRETCH} are needed")));
        }
        let repetition = match self.depth {
            0 => self.sequential(file, size),
            _ => self.random(file, size),
        };
        Ok(measure::measure(repetition, minimum)? * self.in_a_second)
    }

    fn sequential(self, file: File, size: u64) -> Repetition {
        let mut buffer = Buffer::new(STRETCH);
        let mut place = 0;
        let work = move || {
            let good = self.request(&file, place, buffer.bytes())?;
            place += STRETCH as u64;
            if place + STRETCH as u64 > size {
                place = 0;
            }
            Ok(good)
        };
        Repetition { units: 1, answer: (STRETCH / BLOCK) as u64, work: Box::new(work) }
    }

    fn random(self, file: File, size: u64) -> Repetition {
        let blocks = usize::try_from(size / BLOCK as u64).unwrap_or(usize::MAX);
        let mut workers: Vec<_> = (0..self.depth)
            .map(|skip| {
                let mut random = Random::new();
                // Everybody goes another way.
                for _ in 0..skip * 1000 {
                    let _ = random.next();
                }
                (random, Buffer::new(BLOCK))
            })
            .collect();
        let requests = self.depth * REQUESTS;
        let work = move || {
            let file = &file;
            thread::scope(|scope| {
                let ask = |(random, buffer): &mut (Random, Buffer)| -> io::Result<u64> {
                    let place = |random: &mut Random| (random.below(blocks) * BLOCK) as u64;
                    (0..REQUESTS).map(|_| self.request(file, place(random), buffer.bytes())).sum()
                };
                match workers.as_mut_slice() {
                    [alone] => ask(alone),
                    all => {
                        let threads: Vec<_> =
                            all.iter_mut().map(|worker| scope.spawn(move || ask(worker))).collect();
                        let end = |thread: thread::ScopedJoinHandle<'_, io::Result<u64>>| {
                            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
                        };
                        threads.into_iter().map(end).sum()
                    }
                }
            })
        };
        Repetition { units: requests, answer: requests.into(), work: Box::new(work) }
    }

    /// One request; how many blocks hold what they must.
    fn request(self, file: &File, place: u64, bytes: &mut [u8]) -> io::Result<u64> {
        let numbers = place / BLOCK as u64..;
        if self.is_write {
            for (number, block) in numbers.zip(bytes.chunks_exact_mut(BLOCK)) {
                block[..8].copy_from_slice(&number.to_le_bytes());
            }
            file.write_all_at(bytes, place)?;
            return Ok((bytes.len() / BLOCK) as u64);
        }
        file.read_exact_at(bytes, place)?;
        let is_good = |(number, block): &(u64, &[u8])| block[..8] == number.to_le_bytes();
        Ok(numbers.zip(bytes.chunks_exact(BLOCK)).filter(is_good).count() as u64)
    }
}

/// Memory aligned to a block, as direct requests want it.
#[derive(Debug)]
struct Buffer {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Buffer {
    fn new(length: usize) -> Self {
        let memory = vec![0x5a; length + BLOCK];
        let start = memory.as_ptr().align_offset(BLOCK).min(BLOCK);
        Self { memory, start, length }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_known_by_what_follows_the_disks_name() {
        assert_eq!(named("raw-random-read-8").unwrap().depth, 8);
        assert_eq!(named("qcow2-read").unwrap().unit, "ms/MiB");
        assert!(named("read").is_none());
    }

    #[test]
    fn every_row_reads_and_leaves_blocks_with_their_numbers() {
        let path = std::env::temp_dir().join(format!("tern-workload-{}", std::process::id()));
        let numbers = 0..(2 * STRETCH / BLOCK) as u64;
        let block = |number: u64| [&number.to_le_bytes()[..], &[0; BLOCK - 8]].concat();
        std::fs::write(&path, numbers.flat_map(block).collect::<Vec<_>>()).unwrap();
        let measured = ROWS.map(|row| row.measure(&path, Duration::ZERO));
        let after = ROWS[0].measure(&path, Duration::ZERO);
        std::fs::write(&path, vec![0xff; 2 * STRETCH]).unwrap();
        let wrong = ROWS[0].measure(&path, Duration::ZERO);
        std::fs::remove_file(&path).unwrap();
        for result in measured.into_iter().chain([after]) {
            match result {
                Ok(value) => assert!(value > 0.0),
                // File systems in memory have nothing to go around.
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{error}"),
            }
        }
        assert!(wrong.is_err());
    }
}
