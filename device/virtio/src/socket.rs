//! Unix sockets of the host, and waiting for many of them.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::{Timespec, epoll};
use thiserror::Error;

/// Why there is no such socket.
#[derive(Debug, Error)]
pub enum ListenError {
    /// Somebody else listens there.
    #[error("'{}' is in use, by another machine perhaps: choose another path", .0.display())]
    InUse(PathBuf),
    /// Something else is there.
    #[error("'{}' exists and is no socket: choose another path", .0.display())]
    NoSocket(PathBuf),
    /// The host refuses.
    #[error("cannot listen at '{}'", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// The host's answer.
        #[source]
        source: io::Error,
    },
}

/// A Unix socket at which programs of the host may connect. It is removed with this.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
    socket: UnixListener,
}

impl Listener {
    /// Listens at `path`, in place of one that has died without removing its socket.
    ///
    /// # Errors
    /// Something is there already, or the host refuses.
    pub fn bind(path: &Path) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Io { path: path.into(), source };
        match fs::symlink_metadata(path) {
            Ok(about) if !about.file_type().is_socket() => return Err(ListenError::NoSocket(path.into())),
            Ok(_) if UnixStream::connect(path).is_ok() => return Err(ListenError::InUse(path.into())),
            Ok(_) => fs::remove_file(path).map_err(failed)?,
            Err(_) => {}
        }
        let socket = UnixListener::bind(path).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        Ok(Self { path: path.into(), socket })
    }

    /// The next program that has connected, if there is one.
    pub(crate) fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.socket.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    pub(crate) const fn socket(&self) -> &UnixListener {
        &self.socket
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody else may have removed it.
        let _ = fs::remove_file(&self.path);
    }
}

pub(crate) use epoll::EventFlags as Events;

/// How many events are looked at at once.
const BATCH: usize = 32;

/// Waits for many sockets, each once until it is asked for again.
pub(crate) struct Waiting(OwnedFd);

impl Waiting {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Waits for this socket, whatever was waited for before.
    pub(crate) fn arm(&self, socket: impl AsFd, events: Events, token: u64) -> io::Result<()> {
        let events = events | Events::ONESHOT;
        let data = epoll::EventData::new_u64(token);
        match epoll::modify(&self.0, &socket, data, events) {
            Err(rustix::io::Errno::NOENT) => Ok(epoll::add(&self.0, socket, data, events)?),
            done => Ok(done?),
        }
    }

    /// What has happened: tokens and events. Does not wait.
    pub(crate) fn happened(&self) -> Vec<(u64, Events)> {
        let mut events = [MaybeUninit::uninit(); BATCH];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        // An error is a signal that was handled meanwhile.
        let happened = epoll::wait(&self.0, &mut events, Some(&at_once));
        let (happened, _) = happened.unwrap_or_default();
        happened.iter().map(|event| (event.data.u64(), event.flags)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_left_behind_is_replaced_and_one_in_use_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("v.sock");
        let first = Listener::bind(&path).unwrap();
        assert!(matches!(Listener::bind(&path), Err(ListenError::InUse(_))));
        drop(first);
        assert!(!path.exists());
        drop(UnixListener::bind(&path).unwrap());
        let again = Listener::bind(&path).unwrap();
        drop(again);
        fs::write(&path, "").unwrap();
        assert!(matches!(Listener::bind(&path), Err(ListenError::NoSocket(_))));
        assert!(path.exists());
    }
}
