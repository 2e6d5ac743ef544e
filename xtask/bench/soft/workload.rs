//! What is measured: the guest's boot, a program of our own, shell commands for the busybox of the tiny guest, and real
//! programs.
//!
//! Each command keeps QEMU TCG busy for about a second; they are what users do: several programs at once, each a mixture. What
//! the program measures, `program.rs` asks it for: each row is one thing. `real/` finds the real programs.

/// One thing that is measured, a row of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Workload {
    /// Its name in the table, with what makes its time comparable.
    pub name: String,
    /// What its number is in, such as "ns/byte".
    pub unit: String,
    pub group: Group,
    pub source: Source,
}

/// Rows that are summed up together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Group {
    Boot,
    Integer,
    Wide,
    Kernel,
    Shell,
    Real,
    Disk,
}

/// Where a row's number comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// The time from starting the command until the guest prints this.
    Boot(&'static str),
    /// The program tells it.
    Program,
    /// The program tells it, of this disk of the guest's.
    Disk(String),
    /// The time that this shell command takes, in a guest: it may print, to nowhere, and must succeed. It has no unquoted
    /// newline; the shell has `pipefail`.
    Shell(&'static str),
    /// The time that this command takes, in a guest or on the host.
    Anywhere(String),
}

/// The groups over whose rows a mean is made.
pub(crate) const SUMMED_UP: [Group; 5] =
    [Group::Integer, Group::Wide, Group::Kernel, Group::Shell, Group::Disk];

impl Group {
    /// In tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Integer => "integer",
            Self::Wide => "wide",
            Self::Kernel => "kernel",
            Self::Shell => "shell",
            Self::Real => "real",
            Self::Disk => "disk",
        }
    }
}

/// The name of the row with the time to the first process.
pub(crate) const INITIALISED: &str = "boot to init";

/// The name of the row with the time to the prompt.
pub(crate) const BOOT: &str = "boot to prompt";

/// What is timed while a guest boots.
pub(crate) fn boot() -> Vec<Workload> {
    use crate::console::{INIT, PROMPT};
    let row = |name: &str, text| seconds(name, Group::Boot, Source::Boot(text));
    vec![row(INITIALISED, INIT), row(BOOT, PROMPT)]
}

/// The shell commands.
pub(crate) fn shell() -> Vec<Workload> {
    COMMANDS.iter().map(|(name, command)| seconds(name, Group::Shell, Source::Shell(command))).collect()
}

fn seconds(name: &str, group: Group, source: Source) -> Workload {
    Workload { name: name.into(), unit: "s".into(), group, source }
}

/// In the order in which they run, each with its name.
const COMMANDS: [(&str, &str); 10] = [
    ("md5sum, 16 MiB", "dd if=/dev/zero bs=65536 count=256 | md5sum"),
    ("sha256sum, 8 MiB", "dd if=/dev/zero bs=65536 count=128 | sha256sum"),
    ("gzip, 2 MiB of code", "gzip -c /bin/busybox >/tmp/busybox.gz"),
    (
        "gunzip, three times",
        "[ -e /tmp/busybox.gz ] || gzip -c /bin/busybox >/tmp/busybox.gz; for i in 1 2 3; do gunzip -c /tmp/busybox.gz || break; done",
    ),
    ("sort, 20,000 lines", "seq 1 20000 | sort -r"),
    ("awk, 100,000 rounds in f64", "awk 'BEGIN { for (i = 1; i <= 100000; i++) s += 1 / i; print s }'"),
    ("shell loop, 50,000 rounds", "i=0; while [ $i -lt 50000 ]; do i=$((i + 1)); done"),
    ("fork, 200 times", "i=0; while [ $i -lt 200 ]; do ( : ); i=$((i + 1)); done"),
    ("fork and exec, 200 times", "i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i + 1)); done"),
    ("pipe, 10 MiB by 512 bytes", "dd if=/dev/zero bs=512 count=20480 | cat"),
];
