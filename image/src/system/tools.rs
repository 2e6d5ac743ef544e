//! Programs of the host that are called, and the packages that bring them.

use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Error;

/// A program.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tool {
    /// What it is called.
    pub name: &'static str,
    /// The package that brings it, in Debian.
    pub package: &'static str,
}

pub(super) const MMDEBSTRAP: Tool = Tool { name: "mmdebstrap", package: "mmdebstrap" };
pub(super) const MKE2FS: Tool = Tool { name: "mke2fs", package: "e2fsprogs" };
pub(super) const UNSHARE: Tool = Tool { name: "unshare", package: "util-linux" };
pub(super) const SETPRIV: Tool = Tool { name: "setpriv", package: "util-linux" };
pub(super) const NEWUIDMAP: Tool = Tool { name: "newuidmap", package: "uidmap" };
pub(super) const CURL: Tool = Tool { name: "curl", package: "curl" };

/// Where administrators' programs are, which other users' PATH does not name.
const FURTHER: [&str; 2] = ["/usr/sbin", "/sbin"];

impl Tool {
    /// Whether the host has it.
    pub(super) fn exists(self) -> bool {
        places().iter().any(|folder| folder.join(self.name).is_file())
    }

    /// It is not there.
    pub(super) fn missing(self) -> Error {
        Error::NoTool { tool: self.name, package: self.package }
    }

    /// What became of starting it.
    pub(super) fn cannot_start(self, error: io::Error) -> Error {
        match error.kind() {
            io::ErrorKind::NotFound => self.missing(),
            _ => Error::io("run", Path::new(self.name))(error),
        }
    }

    /// A command that calls it, and that is asked to end when this process ends, whatever ends it.
    pub(super) fn command(self) -> Command {
        started_by(&["--pdeathsig", "TERM", "--", self.name])
    }

    /// A command that calls it, and that is gone with all that it has started as soon as this process ends: for programs that finish
    /// what they have begun. Only root can have that; from others it is [`Tool::command`].
    pub(super) fn command_alone(self) -> Command {
        // A process namespace ends with its first process, pid_namespaces(7).
        let alone = ["--pdeathsig", "KILL", "--", UNSHARE.name, "--pid", "--fork", "--kill-child=KILL", "--"];
        let mut trial = started_by(&alone);
        let trial = trial.arg("true").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if !trial.status().is_ok_and(|status| status.success()) {
            return self.command();
        }
        let mut command = started_by(&alone);
        command.arg(self.name);
        command
    }
}

/// setpriv(1) with these words; everything that it starts speaks English and finds administrators' programs.
fn started_by(words: &[&str]) -> Command {
    let mut command = Command::new(SETPRIV.name);
    command.args(words).env("LC_ALL", "C").env("PATH", search_path());
    command
}

fn places() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).chain(FURTHER.map(PathBuf::from)).collect()
}

fn search_path() -> OsString {
    // A folder with a colon in its name came from no search path.
    env::join_paths(places()).unwrap_or_default()
}
