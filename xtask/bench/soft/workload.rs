//! What is run in the guest: shell commands for the busybox of the tiny guest.
//!
//! Each keeps QEMU TCG busy for about a second, and together they touch what guests do: arithmetic,
//! table look-ups, floating point, sorting, system calls, page faults, new processes.

/// A shell command that is timed.
#[derive(Debug)]
pub(crate) struct Workload {
    /// Its name in the table, with what makes its time comparable.
    pub name: &'static str,
    /// It may print, to nowhere, and must succeed. Without an unquoted newline; the shell has `pipefail`.
    pub command: &'static str,
}

/// In the order in which they run, in one guest.
pub(crate) const WORKLOADS: [Workload; 10] = [
    Workload { name: "md5sum, 16 MiB", command: "dd if=/dev/zero bs=65536 count=256 | md5sum" },
    Workload { name: "sha256sum, 8 MiB", command: "dd if=/dev/zero bs=65536 count=128 | sha256sum" },
    Workload { name: "gzip, 2 MiB of code", command: "gzip -c /bin/busybox >/tmp/busybox.gz" },
    Workload {
        name: "gunzip, three times",
        command: "for i in 1 2 3; do gunzip -c /tmp/busybox.gz || break; done",
    },
    Workload { name: "sort, 20,000 lines", command: "seq 1 20000 | sort -r" },
    Workload {
        name: "awk, 100,000 rounds in f64",
        command: "awk 'BEGIN { for (i = 1; i <= 100000; i++) s += 1 / i; print s }'",
    },
    Workload {
        name: "shell loop, 50,000 rounds",
        command: "i=0; while [ $i -lt 50000 ]; do i=$((i + 1)); done",
    },
    Workload { name: "fork, 200 times", command: "i=0; while [ $i -lt 200 ]; do ( : ); i=$((i + 1)); done" },
    Workload {
        name: "fork and exec, 200 times",
        command: "i=0; while [ $i -lt 200 ]; do /bin/true; i=$((i + 1)); done",
    },
    Workload { name: "pipe, 10 MiB by 512 bytes", command: "dd if=/dev/zero bs=512 count=20480 | cat" },
];
