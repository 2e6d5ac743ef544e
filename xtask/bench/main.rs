//! Tern beside its peers, in one run.
//!
//! ```text
//! soft/  the software engine: how fast guests run          kvm/  the KVM engine: how light machines are
//!    │            disk/  disks, and whole runs: both engines                             │
//!    └───────────► console.rs: a guest, driven through its serial port ◄───────────┘
//!                  numbers.rs, table.rs: what is made of the measurements
//!                  rig.rs: a suite that starts itself in the rig
//! ```
//!
//! The contenders take turns, round by round, so that a host that is slow for a while is slow for
//! all of them.

#![forbid(unsafe_code)]

mod console;
mod disk;
mod kvm;
mod numbers;
mod rig;
mod soft;
mod table;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

/// Measures Tern beside its peers.
#[derive(Debug, Parser)]
#[command(name = "tern-bench", bin_name = "cargo xtask bench", subcommand_required = true)]
struct Cli {
    #[command(subcommand)]
    suite: Suite,
}

/// An engine with its peers.
#[derive(Debug, Subcommand)]
enum Suite {
    /// The software engine, QEMU's TCG and the host itself: how fast guests boot and work
    Soft(soft::Options),
    /// The KVM engine, and QEMU on KVM: time to the guest's init, exits until then, memory beside the guest's
    Kvm(kvm::Options),
    /// Disks, a command in a fresh guest and a whole Debian to its login, beside QEMU with the same sort of engine
    Disk(disk::Options),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A table
    Text,
    /// For programs: with every single measurement, times in seconds where no unit is named
    Json,
}

fn main() -> Result<ExitCode> {
    match Cli::parse().suite {
        Suite::Soft(options) => soft::run(&options),
        Suite::Kvm(options) => kvm::run(&options),
        Suite::Disk(options) => disk::run(&options),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }
}
