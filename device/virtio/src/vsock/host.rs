//! The host's side: a Unix socket on which programs of the host ask for ports of the guest, and one for each port of the
//! host's that the guest asks for. The convention is Firecracker's.
//!
//! ```text
//!  a program of the host ── connects to PATH, sends "CONNECT 5000\n" ──▶ the guest's port 5000; "OK <port>\n" when it accepts
//!  a program of the guest ── connects to port 5000 of CID 2 ──▶ whoever listens at PATH_5000
//! ```

use std::io;
use std::os::unix::net::UnixStream;

use rustix::net::{
    AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, connect, recv, socket_with,
};

use crate::socket::Listener;

/// The longest request of a program of the host, with its end: the longest port has ten digits.
const LONGEST_REQUEST: usize = 32;

/// Connects to whoever serves this port of the host's, beside the socket `listener`.
///
/// # Errors
/// Nobody does, or is too slow to accept.
pub(super) fn connect_to_service(listener: &Listener, port: u32) -> io::Result<UnixStream> {
    let mut path = listener.path().as_os_str().to_owned();
    path.push(format!("_{port}"));
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
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

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixListener;

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
    fn a_port_of_the_host_is_served_where_somebody_listens() {
        let directory = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&directory.path().join("v.sock")).unwrap();
        assert!(connect_to_service(&listener, 52).is_err());
        let _service = UnixListener::bind(directory.path().join("v.sock_52")).unwrap();
        connect_to_service(&listener, 52).unwrap();
    }
}
