//! The directory with a socket for each running machine, `NAME.sock`, and who has which name.
//!
//! It is the user's own: `$TERN_RUNTIME_DIR`, or `tern` in `$XDG_RUNTIME_DIR` or in `/run/user/UID`, or `/tmp/tern-UID`, with mode 0700.
//! Whoever takes a name holds a lock on the directory meanwhile.

use std::env;
use std::fs::{self, DirBuilder, File};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use crate::exit::Failure;

/// What the names of sockets end in.
const SOCKET: &str = "sock";
/// The longest name of a machine.
const LONGEST: usize = 64;
/// How often another name is thought of.
const ATTEMPTS: u32 = 16;

/// Where the sockets are. The directory may not be there.
pub(super) fn folder() -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user = rustix::process::geteuid().as_raw();
    let usual = PathBuf::from(format!("/run/user/{user}"));
    set("TERN_RUNTIME_DIR")
        .or_else(|| set("XDG_RUNTIME_DIR").map(|folder| folder.join("tern")))
        .or_else(|| is_own(&usual).then(|| usual.join("tern")))
        .unwrap_or_else(|| PathBuf::from(format!("/tmp/tern-{user}")))
}

/// Whether it is a directory of this user's.
fn is_own(path: &Path) -> bool {
    let user = rustix::process::geteuid().as_raw();
    // Not what a link leads to: in a directory that others can write to it may be theirs.
    fs::symlink_metadata(path).is_ok_and(|about| about.is_dir() && about.uid() == user)
}

/// The directory, made if it is not there.
fn make_folder() -> Result<PathBuf, Failure> {
    let folder = folder();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.with_context(|| format!("cannot make the directory '{}' for running machines", folder.display()))
        .map_err(Failure::host)?;
    let is_private = fs::metadata(&folder).is_ok_and(|about| about.mode() & 0o077 == 0);
    if !is_own(&folder) || !is_private {
        return Err(Failure::host(anyhow!(
            "the directory '{}' for running machines is not this user's alone: remove it, or name another in TERN_RUNTIME_DIR",
            folder.display()
        )));
    }
    Ok(folder)
}

/// Reads a machine's name.
///
/// # Errors
/// A text for the user, with what would work.
pub(crate) fn parse_name(text: &str) -> Result<String, String> {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "-._".contains(letter);
    let is_good = text.starts_with(|letter: char| letter.is_ascii_alphanumeric())
        && text.len() <= LONGEST
        && text.chars().all(is_plain);
    if !is_good {
        return Err(format!(
            "a machine's name is of letters, digits, '-', '.' and '_', and begins with a letter or digit; {LONGEST} at most"
        ));
    }
    Ok(text.to_owned())
}

/// The sockets of all machines, by name. What is dead is swept away.
pub(super) fn sockets() -> Vec<(String, UnixStream)> {
    let folder = folder();
    let Ok(lock) = File::open(&folder) else { return Vec::new() };
    // Nobody is about to take a name whose socket is swept away here.
    let _locked = lock.lock();
    alive(&folder)
}

fn alive(folder: &Path) -> Vec<(String, UnixStream)> {
    let mut alive = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = path.file_stem().and_then(|name| name.to_str()).map(str::to_owned);
        let (Some(name), true) = (name, path.extension().is_some_and(|ending| ending == SOCKET)) else {
            continue;
        };
        match UnixStream::connect(&path) {
            Ok(stream) => alive.push((name, stream)),
            // Nobody listens, and nobody can ever again.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => drop(fs::remove_file(&path)),
            Err(_) => {}
        }
    }
    alive.sort_by(|(a, _), (b, _)| a.cmp(b));
    alive
}

/// A name that is this process's, and the socket that goes with it, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    /// The name.
    pub name: String,
    path: PathBuf,
    listener: UnixListener,
}

impl Claim {
    /// Takes a name: this one, or one made from `label`.
    ///
    /// # Errors
    /// A machine of this name runs, or the host has no place for the socket.
    pub(crate) fn take(name: Option<&str>, label: &str) -> Result<Self, Failure> {
        let folder = make_folder()?;
        let cannot = || format!("cannot use the directory '{}' for running machines", folder.display());
        let lock = File::open(&folder).with_context(cannot).map_err(Failure::host)?;
        lock.lock().with_context(cannot).map_err(Failure::host)?;
        let taken: Vec<String> = alive(&folder).into_iter().map(|(name, _)| name).collect();
        let name = match name {
            Some(name) if taken.iter().any(|other| other == name) => {
                return Err(Failure::input(anyhow!(
                    "a machine named '{name}' is running: `tern stop {name}` ends it, --name gives this one another name"
                )));
            }
            Some(name) => name.to_owned(),
            None => (0..ATTEMPTS).map(|_| invented(label)).find(|name| !taken.contains(name)).ok_or_else(
                || Failure::host(anyhow!("there are too many machines: give this one a --name")),
            )?,
        };
        let path = folder.join(format!("{name}.{SOCKET}"));
        let listener = UnixListener::bind(&path)
            .with_context(|| {
                format!(
                    "cannot make the socket '{}'; TERN_RUNTIME_DIR names another directory",
                    path.display()
                )
            })
            .map_err(Failure::host)?;
        Ok(Self { name, path, listener })
    }

    /// Where connections come from.
    pub(super) fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        // Before anybody else can take the name: the listener is still there.
        let _ = fs::remove_file(&self.path);
    }
}

/// A name for a machine of `debian:13`: `debian-3fa9`.
fn invented(label: &str) -> String {
    let kind: String = label
        .split(':')
        .next()
        .unwrap_or_default()
        .chars()
        .map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' })
        .take(LONGEST / 2)
        .collect();
    let kind = kind.trim_start_matches('-');
    let kind = if kind.is_empty() { "machine" } else { kind };
    format!("{kind}-{:04x}", RandomState::new().hash_one(std::process::id()) & 0xffff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invented_names_can_be_used() {
        for label in ["debian:13", "kernel", "My Disk.qcow2", "---", "", &"x".repeat(200)] {
            let name = invented(label);
            assert!(parse_name(&name).is_ok(), "{name}");
        }
        assert!(invented("debian:13").starts_with("debian-"));
    }

    #[test]
    fn names_lead_to_no_other_directory() {
        for name in ["", "..", "../x", "a/b", ".hidden", "-x", "a b", &"x".repeat(65)] {
            assert!(parse_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_dead_socket_is_swept_away_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (dead, living) = (folder.path().join("dead.sock"), folder.path().join("living.sock"));
        drop(UnixListener::bind(&dead).unwrap());
        let _listener = UnixListener::bind(&living).unwrap();
        fs::write(folder.path().join("other.txt"), "").unwrap();
        let names: Vec<_> = alive(folder.path()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["living"]);
        assert!(!dead.exists() && living.exists());
    }
}
