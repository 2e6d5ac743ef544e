//! What can be measured.

use std::io;

use crate::measure::Repetition;
use crate::{compute, system};

/// One thing that is measured.
#[derive(Debug)]
pub(crate) struct Row {
    pub name: &'static str,
    pub unit: Unit,
    pub group: Group,
    /// Gets ready what is not measured.
    pub prepare: fn() -> io::Result<Repetition>,
}

/// What a row's number is in.
#[derive(Debug)]
pub(crate) struct Unit {
    pub name: &'static str,
    /// How many of its times are a second.
    pub in_a_second: f64,
}

/// Which rows are summed up together.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Group {
    /// The processor's integer unit and memory.
    Integer,
    /// Its wide registers: floating point, vectors, copies.
    Wide,
    /// What a kernel does for programs.
    Kernel,
}

impl Group {
    /// How the list tells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Integer => "integer",
            Self::Wide => "wide",
            Self::Kernel => "kernel",
        }
    }
}

const fn nanoseconds(name: &'static str) -> Unit {
    Unit { name, in_a_second: 1e9 }
}

const MICROSECONDS: Unit = Unit { name: "us", in_a_second: 1e6 };
const MILLISECONDS: Unit = Unit { name: "ms", in_a_second: 1e3 };

/// In the order in which they are measured.
pub(crate) const ROWS: [Row; 14] = [
    Row { name: "crc32", unit: nanoseconds("ns/byte"), group: Group::Integer, prepare: compute::hash::crc32 },
    Row { name: "fib", unit: nanoseconds("ns/call"), group: Group::Integer, prepare: compute::calls::fib },
    Row {
        name: "qsort",
        unit: nanoseconds("ns/element"),
        group: Group::Integer,
        prepare: compute::calls::qsort,
    },
    Row {
        name: "chase",
        unit: nanoseconds("ns/load"),
        group: Group::Integer,
        prepare: compute::memory::chase,
    },
    Row { name: "memcpy", unit: nanoseconds("ns/KiB"), group: Group::Wide, prepare: compute::memory::copy },
    Row {
        name: "sha256",
        unit: nanoseconds("ns/byte"),
        group: Group::Integer,
        prepare: compute::hash::sha256,
    },
    Row {
        name: "deflate",
        unit: nanoseconds("ns/byte"),
        group: Group::Integer,
        prepare: compute::hash::deflate,
    },
    Row { name: "matmul", unit: nanoseconds("ns/step"), group: Group::Wide, prepare: compute::float::matmul },
    Row { name: "x87", unit: nanoseconds("ns/step"), group: Group::Wide, prepare: compute::float::x87 },
    Row { name: "syscall", unit: MICROSECONDS, group: Group::Kernel, prepare: system::syscall },
    Row { name: "fault", unit: MICROSECONDS, group: Group::Kernel, prepare: system::fault },
    Row { name: "fork", unit: MILLISECONDS, group: Group::Kernel, prepare: system::fork },
    Row { name: "exec", unit: MILLISECONDS, group: Group::Kernel, prepare: system::exec },
    Row { name: "pipe", unit: MICROSECONDS, group: Group::Kernel, prepare: system::pipe },
];
