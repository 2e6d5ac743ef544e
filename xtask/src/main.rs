//! The developer's commands: `cargo xtask COMMAND`, or `./x COMMAND` on a computer that may still lack
//! a C compiler.
//!
//! A command installs what it needs and does not find, says so, and says in one line each what it
//! does. It knows how to call tools; what is measured and tested is elsewhere: in `bench/`, which is
//! a program of its own so that this one is built quickly, and in the crates' tests.

#![forbid(unsafe_code)]

mod bench;
mod fuzz;
mod install;
mod lint;
mod rig;
mod run;
mod soak;
mod step;
mod test;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, runs and checks Tern.
#[derive(Debug, Parser)]
#[command(name = "xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build tern and start it: `tern run` with the given arguments
    #[command(disable_help_flag = true)]
    Run {
        /// What `tern run` takes; nothing starts the tiny guest
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        arguments: Vec<OsString>,
    },

    /// Check everything; the last line is `N passed, N failed`
    Test {
        /// Leave out the tests that run real guests
        #[arg(long)]
        quick: bool,
        /// Only what runs on KVM, in the rig
        #[arg(long, conflicts_with = "quick", group = "part")]
        kvm: bool,
        /// With --kvm or --translation: also what is left out there only because it takes long, which is half an hour
        #[arg(long, requires = "part")]
        all: bool,
        /// Only what runs on `soft`, with hot code treated so, and real guests too: `verify` takes 40 minutes
        #[arg(long, value_name = "HOW", value_parser = test::TRANSLATIONS, conflicts_with = "quick", group = "part")]
        translation: Option<String>,
    },

    /// Check formatting, clippy's lints and the documentation; warnings are errors
    Lint,

    /// Measure Tern beside QEMU; `cargo xtask bench --help` tells how
    #[command(disable_help_flag = true)]
    Bench {
        /// What the measuring program takes
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        arguments: Vec<OsString>,
    },

    /// Run a command on an emulated computer with virtualization; `cargo xtask rig --help` tells how
    #[command(disable_help_flag = true)]
    Rig {
        /// What the rig takes, such as `kvm --cpus 2 -- tern engines`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
        arguments: Vec<OsString>,
    },

    /// Let machines work on `soft` for long, and compare what they compute with this computer
    Soak(soak::Soak),

    /// Run a fuzz target on stable Rust until it finds something or is stopped
    Fuzz {
        /// The target; without one, they are listed
        target: Option<String>,
        /// What libFuzzer takes, such as -max_total_time=60
        #[arg(last = true, value_name = "ARGUMENTS")]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run { arguments } => run::run(&arguments),
        Command::Test { kvm, quick, all, translation } => {
            let extent = if all { test::Extent::All } else { test::Extent::Short };
            return match translation {
                Some(how) => test::by_translation(&how, extent),
                None if kvm => test::on_kvm(extent),
                None => test::test(quick),
            };
        }
        Command::Lint => lint::lint(),
        Command::Bench { arguments } => bench::bench(&arguments),
        Command::Rig { arguments } => rig::rig(&arguments),
        Command::Soak(soak) => soak::soak(&soak),
        Command::Fuzz { target, arguments } => fuzz::fuzz(target.as_deref(), &arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            step::report(&error);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn arguments_of_run(words: &[&str]) -> Vec<OsString> {
        let line = ["xtask", "run"].iter().chain(words);
        match Cli::parse_from(line).command {
            Command::Run { arguments } => arguments,
            other => panic!("'run' was taken for {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_follows_run_is_for_tern_with_or_without_a_double_hyphen() {
        let expected = ["--cpus", "2", "--help"].map(OsString::from);
        assert_eq!(arguments_of_run(&["--cpus", "2", "--help"]), expected);
        assert_eq!(arguments_of_run(&["--", "--cpus", "2", "--help"]), expected);
    }

    #[test]
    fn the_rigs_own_double_hyphen_reaches_it() {
        let words = ["kvm", "--cpus", "1", "--", "tern", "engines"];
        match Cli::parse_from(["xtask", "rig"].iter().chain(&words)).command {
            Command::Rig { arguments } => assert_eq!(arguments, words.map(OsString::from)),
            other => panic!("'rig' was taken for {other:?}"),
        }
    }
}
