//! The exit codes of `tern`, and how a failure is told.
//!
//! The guest's end is the command's exit code. A guest that ends through the debug-exit port gives
//! `(value << 1) | 1`, which is always odd, so all codes of our own are even and never mistaken for
//! the guest's; but for one, which comes only where a command was to run in the guest. Where they can, they carry the numbers of
//! `sysexits.h`.

use std::fmt::Write as _;
use std::process::ExitCode;

/// An exit code of this command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(u8);

impl Code {
    /// The guest powered off, or the command did what it was asked for.
    pub const SUCCESS: Self = Self(0);
    /// The command line makes no sense, whatever there is on the host (clap's own code).
    pub const USAGE: Self = Self(2);
    /// The guest asked for a reboot, and `--no-reboot` made that the end.
    pub const REBOOT: Self = Self(4);
    /// What the command line names is not there or cannot be used: a file, an image, a machine (`EX_NOINPUT`).
    pub const INPUT: Self = Self(66);
    /// The guest crashed, or the engine gave up on it (`EX_SOFTWARE`).
    pub const CRASH: Self = Self(70);
    /// The host cannot do what is needed (`EX_IOERR`).
    pub const HOST: Self = Self(74);
    /// The user left with Ctrl-], somebody ended the machine by force, or whoever read the output went away.
    pub const LEFT: Self = Self(130);
    /// There was to be a command in a guest, and none was run (docker(1)'s code).
    pub const NOT_RUN: Self = Self(125);

    /// That of a command in a guest.
    pub fn of_command(code: u8) -> Self {
        Self(code)
    }

    /// The status that a guest gave through the debug-exit port.
    pub fn of_guest(status: u8) -> Self {
        Self(status)
    }
}

impl Code {
    /// The code with which another process of this program ended.
    pub fn of_process(code: u8) -> Self {
        Self(code)
    }
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        Self::from(code.0)
    }
}

/// Every code with its meaning, for the help texts and the README.
const TABLE: [(&str, &str); 12] = [
    ("0", "the guest powered off, or `tern` did what it was asked for"),
    ("odd", "the guest ended itself through `--debug-exit`: twice its value, and 1"),
    ("2", "the command line is wrong: no such option, or a value that there cannot be"),
    ("4", "the guest rebooted, under `--no-reboot`"),
    ("66", "a file, an image or a machine that was named is missing, broken or does not fit"),
    ("70", "the guest crashed, or KVM gave up on it; registers and last instruction are shown"),
    ("74", "the host failed: no memory, no space, no engine"),
    ("125", "with a command: it was not run, or the machine ended under it"),
    ("126", "with a command: the guest has it and cannot run it"),
    ("127", "with a command: the guest does not have it"),
    ("any other", "with a command: its own, or 128 and the number of the signal that ended it"),
    ("130", "you left with `Ctrl-]`, `tern stop` ended it by force, or the output's reader went away"),
];

/// The table as a section of a help text.
pub(crate) fn help() -> String {
    let mut text = "Exit codes:\n".to_owned();
    for (code, meaning) in TABLE {
        writeln!(text, "  {code:<9} {meaning}").expect("a string takes everything");
    }
    text
}

/// A failure on its way to the user.
#[derive(Debug)]
pub(crate) struct Failure {
    pub code: Code,
    error: anyhow::Error,
}

impl Failure {
    /// What the user said makes no sense.
    pub fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self { code: Code::USAGE, error: error.into() }
    }

    /// What the user gave cannot be used.
    pub fn input(error: impl Into<anyhow::Error>) -> Self {
        Self { code: Code::INPUT, error: error.into() }
    }

    /// The host did not do what was needed.
    pub fn host(error: impl Into<anyhow::Error>) -> Self {
        Self { code: Code::HOST, error: error.into() }
    }

    /// The guest crashed.
    pub fn crash(error: impl Into<anyhow::Error>) -> Self {
        Self { code: Code::CRASH, error: error.into() }
    }

    /// Puts what was wanted before what went wrong.
    pub fn context(self, wanted: &'static str) -> Self {
        Self { code: self.code, error: self.error.context(wanted) }
    }

    /// With another exit code.
    pub fn with_code(self, code: Code) -> Self {
        Self { code, ..self }
    }

    /// The first cause of this kind.
    pub fn cause<E: std::error::Error + Send + Sync + 'static>(&self) -> Option<&E> {
        self.error.chain().find_map(|cause| cause.downcast_ref())
    }

    /// Tells it on standard error: the error in short, then each cause on its own line.
    pub fn report(&self) {
        eprint!("{}", self.text());
    }

    /// What is told.
    pub fn text(&self) -> String {
        let mut text = format!("error: {}\n", self.error);
        for cause in self.error.chain().skip(1) {
            writeln!(text, "  because: {cause}").expect("a string takes everything");
        }
        text
    }
}

impl From<tern_image::Error> for Failure {
    fn from(error: tern_image::Error) -> Self {
        use tern_image::Error;
        match error {
            Error::Io { .. }
            | Error::NoCacheDir
            | Error::NoStateDir
            | Error::Busybox { .. }
            | Error::NoTool { .. }
            | Error::NoSubordinates
            | Error::Build { .. } => Self::host(error),
            Error::Disk(error) => error.into(),
            Error::BadKey(_) | Error::BadName(_) => Self::usage(error),
            _ => Self::input(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_never_a_guests() {
        let codes =
            [Code::SUCCESS, Code::USAGE, Code::REBOOT, Code::INPUT, Code::CRASH, Code::HOST, Code::LEFT];
        for (index, code) in codes.iter().enumerate() {
            assert_eq!(code.0 % 2, 0, "{code:?} could be a guest's");
            assert!(!codes[..index].contains(code), "{code:?} is there twice");
            assert!(help().contains(&format!("\n  {:<9} ", code.0)), "{code:?} is not in the help");
        }
        assert!(!codes.contains(&Code::NOT_RUN));
        assert!(help().contains(&format!("\n  {:<9} with a command: ", Code::NOT_RUN.0)));
    }

    #[test]
    fn the_readme_says_the_same() {
        let readme = include_str!("../../README.md");
        let rows = readme.lines().skip_while(|line| !line.starts_with("| exit code |")).skip(2);
        let rows: Vec<_> = rows.take_while(|line| line.starts_with('|')).collect();
        let expected = TABLE.map(|(code, meaning)| format!("| {code} | {meaning} |"));
        assert_eq!(rows, expected);
    }

    #[test]
    fn a_failure_is_told_once_with_its_causes_below() {
        let error = anyhow::anyhow!("no such file").context("cannot open 'k'");
        let text = Failure::input(error).text();
        assert_eq!(text, "error: cannot open 'k'\n  because: no such file\n");
    }
}
