//! What the software engine is measured with. `cargo xtask bench soft` runs this program in Tern, in QEMU and on the host
//! itself, and compares what it prints:
//!
//! ```text
//! $ tern-workload crc32 fork
//! row crc32 2.4012 ns/byte
//! row fork 0.1630 ms
//! took 0.915 s
//!
//! rows.rs      what can be measured, and in which unit
//!   compute/   arithmetic, memory, floating point: the processor alone
//!   system.rs  system calls, page faults, processes, pipes: the processor and a kernel
//! disk.rs      reading and writing a disk
//! measure.rs   how often it is repeated, and what a repetition took
//! ```
//!
//! It is linked statically, so that it runs where there is nothing else, and knows its answers, so that an engine that
//! computes nonsense quickly is not praised for it.

// fork(2), execv(3), mmap(2) and qsort(3) have no safe form, and x87 none but assembly.
#![allow(unsafe_code)]

mod compute;
mod data;
mod disk;
mod measure;
mod rows;
mod system;

use std::env;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rows::{ROWS, Row};

/// How long a row is repeated at least.
const DEFAULT_MINIMUM: Duration = Duration::from_millis(300);

const USAGE: &str = "\
Usage: tern-workload [--least MILLISECONDS] [ROW ...]    measures these rows, or all
       tern-workload --list                              lists them: name, unit, group
       tern-workload disk DISK-ROW DEVICE                measures a row of a disk's
       tern-workload disk --list                         lists those: name, unit";

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (minimum, names) = match words.as_slice() {
        // What the rows that start a program start.
        [system::NOTHING] => return ExitCode::SUCCESS,
        ["--list"] => {
            for Row { name, unit, group, .. } in &ROWS {
                println!("{name} {} {}", unit.name, group.name());
            }
            return ExitCode::SUCCESS;
        }
        ["disk", "--list"] => {
            for disk::Row { name, unit, .. } in disk::ROWS {
                println!("{name} {unit}");
            }
            return ExitCode::SUCCESS;
        }
        ["disk", name, device] => return measure_disk(name, device),
        ["--least", milliseconds, names @ ..] => match milliseconds.parse() {
            Ok(milliseconds) => (Duration::from_millis(milliseconds), names),
            Err(_) => return wrong_usage(),
        },
        names => (DEFAULT_MINIMUM, names),
    };
    if names.iter().any(|name| ROWS.iter().all(|row| row.name != *name)) {
        return wrong_usage();
    }
    let start = Instant::now();
    let mut code = ExitCode::SUCCESS;
    for row in ROWS.iter().filter(|row| names.is_empty() || names.contains(&row.name)) {
        match (row.prepare)().and_then(|repetition| measure::measure(repetition, minimum)) {
            Ok(seconds) => {
                println!("row {} {:.4} {}", row.name, seconds * row.unit.in_a_second, row.unit.name)
            }
            Err(error) => {
                eprintln!("tern-workload: {}: {error}", row.name);
                code = ExitCode::FAILURE;
            }
        }
    }
    // Whoever started it can tell whether the clock that all of this was measured with is right.
    println!("took {:.3} s", start.elapsed().as_secs_f64());
    code
}

fn measure_disk(name: &str, device: &str) -> ExitCode {
    let Some(row) = disk::named(name) else { return wrong_usage() };
    let start = Instant::now();
    match row.measure(Path::new(device), DEFAULT_MINIMUM) {
        Ok(value) => {
            println!("row {name} {value:.4} {}", row.unit);
            println!("took {:.3} s", start.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tern-workload: {name}: {device}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn wrong_usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}
