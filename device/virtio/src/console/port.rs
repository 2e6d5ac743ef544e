//! One port: the guest's end and the program of the host that is connected to it, one at a time.
//!
//! ```text
//!  guest ── transmit queue ──▶ pending ──▶ socket        a console drops what nobody takes: its guest would spin until it can
//!  guest ◀── receive queue ◀────────────── socket        send; any other port keeps the guest waiting
//! ```

use std::collections::VecDeque;
use std::os::unix::net::UnixStream;

use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::PortState;

/// Bytes of a console that are kept for a program that is slow to read.
const MOST_CONSOLE: usize = 64 << 10;

/// What a port is doing.
#[derive(Debug, Default)]
pub(super) struct Port {
    /// The program of the host.
    pub socket: Option<UnixStream>,
    pub is_console: bool,
    /// What the driver knows.
    pub state: PortState,
    /// From the guest, on its way to the socket.
    pub pending: VecDeque<u8>,
    /// The socket may have something to read.
    pub is_readable: bool,
    /// The socket will not have more to read.
    has_ended: bool,
}

impl Port {
    pub(super) fn new(is_console: bool) -> Self {
        Self { is_console, ..Self::default() }
    }

    /// A program of the host has connected.
    pub(super) fn connect(&mut self, socket: UnixStream) {
        self.socket = Some(socket);
        self.is_readable = false;
        self.has_ended = false;
    }

    /// It is gone.
    pub(super) fn disconnect(&mut self) {
        self.socket = None;
        self.pending.clear();
        self.is_readable = false;
    }

    /// Whether there may be something for the guest, which wants to hear it.
    pub(super) fn has_input(&self) -> bool {
        self.socket.is_some() && self.state.is_open && self.is_readable
    }

    /// Whether the socket is to be waited for to read.
    pub(super) fn wants_readable(&self) -> bool {
        self.state.is_open && !self.is_readable && !self.has_ended
    }

    /// Whether the guest's data are to wait in its queue.
    pub(super) fn holds_back(&self) -> bool {
        !self.is_console && !self.pending.is_empty()
    }

    /// Data from the guest.
    pub(super) fn output(&mut self, data: &[u8]) {
        if self.socket.is_none() {
            return;
        }
        let room = if self.is_console { MOST_CONSOLE.saturating_sub(self.pending.len()) } else { data.len() };
        self.pending.extend(&data[..data.len().min(room)]);
        self.flush();
    }

    /// Gives the socket what waits for it.
    pub(super) fn flush(&mut self) {
        while let Some(socket) = self.socket.as_ref().filter(|_| !self.pending.is_empty()) {
            let (front, _) = self.pending.as_slices();
            match send(socket, front, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                Err(_) => self.disconnect(),
            }
        }
    }

    /// Data for the guest; `None` if there are none after all.
    pub(super) fn input(&mut self, room: &mut [u8]) -> Option<usize> {
        loop {
            match recv(self.socket.as_ref()?, &mut *room, RecvFlags::DONTWAIT) {
                Ok((0, _)) if room.is_empty() => return None,
                Ok((0, _)) => {
                    self.has_ended = true;
                    self.is_readable = false;
                    return None;
                }
                Ok((count, _)) => return Some(count),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    self.is_readable = false;
                    return None;
                }
                Err(_) => {
                    self.disconnect();
                    return None;
                }
            }
        }
    }

    /// The socket's other end is gone altogether. What it has left is still read if the guest wants it; what waits for it is
    /// for nobody, and the socket may never become writable.
    pub(super) fn hung_up(&mut self) {
        self.pending.clear();
        if self.state.is_open && !self.has_ended {
            self.is_readable = true;
        } else {
            self.disconnect();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn connected(is_console: bool) -> (Port, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut port = Port::new(is_console);
        port.state.is_open = true;
        port.connect(ours);
        (port, theirs)
    }

    /// Sends until the socket takes no more.
    fn fill(port: &mut Port) -> usize {
        let mut sent = 0;
        while port.pending.is_empty() {
            port.output(&[b'x'; 4096]);
            sent += 4096;
        }
        sent
    }

    #[test]
    fn a_program_that_does_not_read_holds_a_port_back_and_not_a_console() {
        let (mut port, mut program) = connected(false);
        let sent = fill(&mut port);
        assert!(port.holds_back());
        program.read_exact(&mut vec![0; sent - port.pending.len()]).unwrap();
        port.flush();
        assert!(!port.holds_back());

        let (mut console, _program) = connected(true);
        fill(&mut console);
        for _ in 0..100 {
            console.output(&[b'x'; 4096]);
        }
        assert!(!console.holds_back());
        assert_eq!(console.pending.len(), MOST_CONSOLE);
    }

    #[test]
    fn without_a_program_data_go_nowhere() {
        let mut port = Port::new(false);
        port.output(b"lost");
        assert!(!port.holds_back());
        let (mut port, program) = connected(false);
        drop(program);
        port.output(b"lost");
        assert!(port.socket.is_none() && !port.holds_back());
    }

    #[test]
    fn a_program_that_is_gone_holds_a_port_back_no_more() {
        let (mut port, mut program) = connected(false);
        fill(&mut port);
        program.write_all(b"bye").unwrap();
        program.shutdown(std::net::Shutdown::Both).unwrap();
        port.hung_up();
        assert!(!port.holds_back());
        let mut room = [0; 16];
        assert_eq!(port.input(&mut room), Some(3));
    }

    #[test]
    fn what_a_program_left_is_read_after_it_is_gone() {
        let (mut port, mut program) = connected(false);
        program.write_all(b"bye").unwrap();
        drop(program);
        port.hung_up();
        let mut room = [0; 16];
        assert_eq!(port.input(&mut room), Some(3));
        assert_eq!(&room[..3], b"bye");
        assert_eq!(port.input(&mut room), None);
        port.hung_up();
        assert!(port.socket.is_none());
    }
}
