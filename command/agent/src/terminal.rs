//! A terminal for the command: a pair of pseudoterminals, pty(7), of which the agent has the one and the command the other.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, mount};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tern_command_protocol::Size;

/// Where pseudoterminals are.
const TERMINALS: &str = "/dev/pts";

/// A new pair: the agent's and the command's.
pub(crate) fn pair(size: Size) -> io::Result<(OwnedFd, OwnedFd)> {
    if !Path::new(TERMINALS).join("ptmx").exists() {
        fs::create_dir_all(TERMINALS)?;
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
        mount("devpts", TERMINALS, "devpts", flags, c"mode=620,ptmxmode=666")?;
    }
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    resize(&ours, size)?;
    let name = ptsname(&ours, Vec::new())?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let theirs = rustix::fs::open(name.as_c_str(), flags, Mode::empty())?;
    Ok((ours, theirs))
}

/// The terminal has this size now.
pub(crate) fn resize(terminal: &OwnedFd, size: Size) -> io::Result<()> {
    let size = Winsize { ws_col: size.columns, ws_row: size.rows, ws_xpixel: 0, ws_ypixel: 0 };
    Ok(tcsetwinsize(terminal, size)?)
}

/// Makes standard input the terminal of a new session, and becomes the command.
pub(crate) fn become_command(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    let Some(program) = words.next() else { return ExitCode::FAILURE };
    let taken =
        rustix::process::setsid().and_then(|_| rustix::process::ioctl_tiocsctty(rustix::stdio::stdin()));
    let error = match taken {
        Ok(()) => Command::new(&program).args(words).exec(),
        Err(error) => error.into(),
    };
    let (code, reason) = why(&program, &error);
    eprint!("tern: {reason}\r\n");
    ExitCode::from(code)
}

/// The exit code that stands for a command that cannot be started, and why, as docker(1) has them.
pub(crate) fn why(program: &OsStr, error: &io::Error) -> (u8, String) {
    let name = String::from_utf8_lossy(program.as_bytes()).into_owned();
    match error.kind() {
        io::ErrorKind::NotFound => (127, format!("there is no command '{name}' in the guest")),
        _ => (126, format!("the guest cannot run '{name}': {error}")),
    }
}
