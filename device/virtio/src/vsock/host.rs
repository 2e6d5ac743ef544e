//! The host's side: a Unix socket on which programs of the host ask for ports of the guest, and one for each port of the
//! host's that the guest asks for. The convention is Firecracker's.
//!
//! ```text
//!  a program of the host ── connects to PATH, sends "CONNECT 5000\n" ──▶ the guest's port 5000; "OK <port>\n" when it accepts
//!  a program of the guest ── connects to port 5000 of CID 2 ──▶ whoever listens at PATH_5000
//! ```

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::event::{Timespec, epoll};
use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, socket_with,
};
use thiserror::Error;

/// The longest request of a program of the host, with its end: the longest port has ten digits.
const LONGEST_REQUEST: usize = 32;

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

/// The socket at `PATH`. It is removed with this.
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
    pub(super) fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.socket.accept()?;
        stream.set_nonblocking(true)?;
        Ok(stream)
    }

    pub(super) const fn socket(&self) -> &UnixListener {
        &self.socket
    }

    /// Connects to whoever serves this port of the host's.
    ///
    /// # Errors
    /// Nobody does, or is too slow to accept.
    pub(super) fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket.into())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Somebody else may have removed it.
        let _ = fs::remove_file(&self.path);
    }
}

/// A program that has connected and not yet said which port it wants.
#[derive(Debug)]
pub(super) struct Handshake {
    socket: UnixStream,
    request: Vec<u8>,
}

/// What has become of one.
#[derive(Debug)]
pub(super) enum Asked {
    /// It has not said everything.
    NotYet(Handshake),
    /// For this port.
    Port(UnixStream, u32),
    /// It has said something else, or is gone.
    Nothing,
}

impl Handshake {
    pub(super) const fn new(socket: UnixStream) -> Self {
        Self { socket, request: Vec::new() }
    }

    pub(super) const fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// Reads on, and no further than the end of the line: what follows is the guest's.
    pub(super) fn read(mut self) -> Asked {
        loop {
            let mut byte = [0];
            match recv(&self.socket, &mut byte, RecvFlags::DONTWAIT) {
                Ok((1, _)) => self.request.extend(byte),
                Err(rustix::io::Errno::AGAIN) => return Asked::NotYet(self),
                Err(rustix::io::Errno::INTR) => continue,
                _ => return Asked::Nothing,
            }
            if let Some(line) = self.request.strip_suffix(b"\n") {
                return match port(line) {
                    Some(port) => Asked::Port(self.socket, port),
                    None => Asked::Nothing,
                };
            }
            if self.request.len() == LONGEST_REQUEST {
                return Asked::Nothing;
            }
        }
    }
}

/// The port in `CONNECT <port>`, in words of any case.
fn port(line: &[u8]) -> Option<u32> {
    let mut words = str::from_utf8(line).ok()?.split_ascii_whitespace();
    let is_connect = words.next()?.eq_ignore_ascii_case("connect");
    let port = words.next()?.parse().ok();
    port.filter(|_| is_connect && words.next().is_none())
}

pub(super) use epoll::EventFlags as Events;

/// How many events are looked at at once.
const BATCH: usize = 32;

/// Waits for many sockets, each once until it is asked for again.
pub(super) struct Waiting(OwnedFd);

impl Waiting {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Waits for this socket, whatever was waited for before.
    pub(super) fn arm(&self, socket: impl AsFd, events: Events, token: u64) -> io::Result<()> {
        let events = events | Events::ONESHOT;
        let data = epoll::EventData::new_u64(token);
        match epoll::modify(&self.0, &socket, data, events) {
            Err(rustix::io::Errno::NOENT) => Ok(epoll::add(&self.0, socket, data, events)?),
            done => Ok(done?),
        }
    }

    /// What has happened: tokens and events. Does not wait.
    pub(super) fn happened(&self) -> Vec<(u64, Events)> {
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
    use std::io::Write;

    use super::*;

    #[test]
    fn a_request_names_a_port() {
        assert_eq!(port(b"CONNECT 5000"), Some(5000));
        assert_eq!(port(b"connect 4294967295"), Some(u32::MAX));
        for line in ["", "CONNECT", "CONNECT x", "CONNECT 1 2", "CONNECT -1", "CONNECT 4294967296", "OK 1"] {
            assert_eq!(port(line.as_bytes()), None, "{line}");
        }
        assert_eq!(port(b"CONNECT \xff"), None);
    }

    #[test]
    fn a_request_may_come_in_pieces_and_what_follows_stays() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"CONN").unwrap();
        let Asked::NotYet(handshake) = Handshake::new(ours).read() else { panic!("it is not all") };
        theirs.write_all(b"ECT 7\nhello").unwrap();
        let Asked::Port(socket, 7) = handshake.read() else { panic!("it is all") };
        let mut bytes = [0; 8];
        let (count, _) = recv(&socket, &mut bytes, RecvFlags::DONTWAIT).unwrap();
        assert_eq!(&bytes[..count], b"hello");
    }

    #[test]
    fn whoever_says_too_much_or_nothing_is_let_go() {
        for said in [&b"CONNECT 0000000000000000000000007"[..], b"hello\n", b""] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(said).unwrap();
            drop(theirs);
            assert!(matches!(Handshake::new(ours).read(), Asked::Nothing), "{said:?}");
        }
    }

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

    #[test]
    fn a_port_of_the_host_is_served_where_somebody_listens() {
        let directory = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&directory.path().join("v.sock")).unwrap();
        assert!(listener.connect(52).is_err());
        let _service = UnixListener::bind(directory.path().join("v.sock_52")).unwrap();
        listener.connect(52).unwrap();
    }
}
