//! What a whole system's login is to know of the terminal: a serial port tells neither its kind nor its size.
//!
//! ```text
//! systemd from 254    words on the kernel's command line, systemd(1)
//! before that         settings of the login's unit in /run, systemd.exec(5), which the initramfs puts there
//! ```
//!
//! The initramfs also says that the port may come late: systemd would give it up after 90 seconds, and the login with it, on a host
//! that is slow or busy.

use std::env;
use std::fmt::Write as _;

use tern_image::cpio::Archive;
use tern_image::system::Release;

use crate::initramfs;
use crate::terminal;

/// The first systemd that takes `systemd.tty.*`.
const WITH_WORDS: u32 = 254;

/// The login waits for its port however long that takes, systemd.unit(5).
const PATIENCE: &str = "[Unit]\nJobRunningTimeoutSec=infinity\n";

/// Puts the settings where the system finds them.
const SCRIPT: &str = include_str!("login/place.sh");

/// How wide a terminal is that is none, in characters: lines are not to be broken.
const ENDLESS: u16 = 500;

/// A terminal as a login is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Login {
    /// As in `TERM`: letters, digits and `-+._`.
    kind: String,
    columns: u16,
    rows: u16,
}

impl Login {
    /// The terminal of this command. Where there is none, escape sequences are noise; in the background one is to come, like the one that
    /// the machine is started from.
    pub(crate) fn here(is_detached: bool) -> Self {
        let is_plain = |kind: &String| {
            !kind.is_empty()
                && kind.chars().all(|letter| letter.is_ascii_alphanumeric() || "-+._".contains(letter))
        };
        let size = terminal::size();
        let (columns, rows) = size.unwrap_or(if is_detached { (80, 24) } else { (ENDLESS, 24) });
        let kind = if is_detached || size.is_some() {
            env::var("TERM").ok().filter(is_plain).unwrap_or_else(|| "vt220".to_owned())
        } else {
            "dumb".to_owned()
        };
        Self { kind, columns, rows }
    }

    /// What the kernel's command line says of it, with a space before each word.
    pub(crate) fn words(&self) -> String {
        let Self { kind, columns, rows } = self;
        let mut words = String::new();
        for place in ["console", "ttyS0"] {
            write!(
                words,
                " systemd.tty.term.{place}={kind} systemd.tty.columns.{place}={columns} systemd.tty.rows.{place}={rows}"
            )
            .expect("a string takes everything");
        }
        words
    }

    /// What is put behind the initramfs of a release that is known; nothing for others.
    pub(crate) fn segment(&self, release: Option<Release>) -> Vec<u8> {
        let Some(release) = release else { return Vec::new() };
        let mut archive = Archive::default();
        archive.directory("tern");
        archive.file("tern/patience.conf", 0o644, PATIENCE.as_bytes());
        if release.systemd() < WITH_WORDS {
            archive.file("tern/terminal.conf", 0o644, self.settings().as_bytes());
        }
        initramfs::run_last(&mut archive, SCRIPT);
        archive.finish()
    }

    fn settings(&self) -> String {
        let Self { kind, columns, rows } = self;
        format!("[Service]\nEnvironment=TERM={kind}\nTTYColumns={columns}\nTTYRows={rows}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login() -> Login {
        Login { kind: "xterm-256color".to_owned(), columns: 132, rows: 43 }
    }

    #[test]
    fn the_serial_port_and_the_console_are_told_of() {
        assert_eq!(
            login().words(),
            " systemd.tty.term.console=xterm-256color systemd.tty.columns.console=132 systemd.tty.rows.console=43 \
             systemd.tty.term.ttyS0=xterm-256color systemd.tty.columns.ttyS0=132 systemd.tty.rows.ttyS0=43"
        );
    }

    #[test]
    fn only_a_system_that_does_not_know_the_words_is_given_settings_of_the_terminal() {
        let segment = |name| login().segment(Release::named(name));
        let has =
            |segment: &[u8], text: &str| segment.windows(text.len()).any(|bytes| bytes == text.as_bytes());
        let (older, newer) = (segment("debian:12"), segment("debian:13"));
        assert!(has(&older, "TTYRows=43\n") && !has(&newer, "TTYRows"));
        for each in [older, newer] {
            assert!(has(&each, "scripts/init") && has(&each, "JobRunningTimeoutSec=infinity\n"));
        }
        assert_eq!(segment("a disk of the user's"), b"");
    }
}
