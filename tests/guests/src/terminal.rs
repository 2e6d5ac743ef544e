//! A terminal for a process, seen from the user's side.

use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;

use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Termios, Winsize, tcgetattr, tcsetwinsize};

/// A pseudo-terminal.
#[derive(Debug)]
pub struct Terminal {
    /// Where the keys are, and what is seen.
    user: File,
    /// Kept open, so that its settings outlive the process.
    process: File,
}

impl Terminal {
    /// Opens a terminal with the system's initial settings.
    ///
    /// # Panics
    /// The host has none.
    #[must_use]
    pub fn open() -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let user = openpt(flags).expect("the host has pseudo-terminals");
        grantpt(&user).expect("a new terminal is ours");
        unlockpt(&user).expect("a new terminal is ours");
        let name = ptsname(&user, Vec::new()).expect("a terminal has a name");
        let process = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(i32::try_from(OFlags::NOCTTY.bits()).expect("a flag of open(2) fits an int"))
            .open(Path::new(std::ffi::OsStr::from_bytes(name.as_bytes())))
            .expect("a new terminal can be opened");
        Self { user: user.into(), process }
    }

    /// The settings, as text that can be compared and shown.
    ///
    /// # Panics
    /// The terminal is gone.
    #[must_use]
    pub fn settings(&self) -> String {
        format!("{:?}", self.termios())
    }

    /// Whether every key goes to the process at once and unseen.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        !self.termios().local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Gives it a size, in characters, as a user does who drags a window's corner.
    ///
    /// # Panics
    /// The terminal is gone.
    pub fn resize(&self, columns: u16, lines: u16) {
        let size = Winsize { ws_col: columns, ws_row: lines, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.user, size).expect("the terminal is open");
    }

    fn termios(&self) -> Termios {
        tcgetattr(&self.process).expect("the terminal is open")
    }

    /// The user's side, once more.
    pub(crate) fn user(&self) -> File {
        self.user.try_clone().expect("a descriptor is to be had")
    }

    /// The process's side, as one of its standard streams.
    pub(crate) fn stdio(&self) -> Stdio {
        self.process.try_clone().expect("a descriptor is to be had").into()
    }
}
