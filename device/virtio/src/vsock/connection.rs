//! One connection: a stream of the guest's on one side, a socket of the host's on the other.
//!
//! ```text
//!  guest ──▶ received ──▶ [ waiting, at most BUFFER bytes ] ──▶ socket       how much was taken: forwarded
//!  guest ◀── next ◀──────────────── as the guest has room ◀──── socket
//!
//!   opened by the guest: Open                 opened by the host: Requested ──RESPONSE──▶ Open
//! ```
//!
//! Each side tells how large its buffer is and how much it has taken out of it (virtio 1.2, section 5.10.6.3): nobody sends
//! what the other has no room for. A guest that does is cut off.

use std::collections::VecDeque;
use std::io;
use std::os::unix::net::UnixStream;

use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::packet::{Ended, Header, Operation};

/// Bytes that wait for the host's socket at most.
pub(super) const BUFFER: u32 = 64 << 10;

/// How far the opening is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The host has asked, the guest has not answered.
    Requested,
    /// Data may flow.
    Open,
}

/// What the guest is to be told when it has a buffer.
#[derive(Debug, Clone, Copy, Default)]
struct Owed {
    request: bool,
    response: bool,
    reset: bool,
    credit_update: bool,
    credit_request: bool,
}

/// A packet for the guest, without its addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Packet {
    pub operation: Operation,
    /// Bytes of data.
    pub length: u32,
    pub flags: u32,
}

impl Packet {
    const fn of(operation: Operation) -> Self {
        Self { operation, length: 0, flags: 0 }
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    socket: UnixStream,
    phase: Phase,
    owed: Owed,
    /// From the guest, on its way to the socket.
    waiting: VecDeque<u8>,
    /// How many bytes the socket has taken, modulo 2^32.
    forwarded: u32,
    /// How many of them the guest knows of.
    told: u32,
    /// The guest's buffer, how much it has taken, and how much was sent, modulo 2^32.
    peer_buffer: u32,
    peer_forwarded: u32,
    sent: u32,
    /// What the guest will not do any more.
    guest_ended: Ended,
    /// What the host will not do any more, and whether the guest knows.
    host_ended: Ended,
    is_end_told: bool,
    /// The socket may have something to read.
    pub is_readable: bool,
    /// It stands in the list of those that have something for the guest.
    pub is_listed: bool,
    /// By which the socket is waited for.
    pub token: u64,
}

impl Connection {
    /// One that the guest has opened, with its credit as in `header`.
    pub(super) fn accepted(socket: UnixStream, header: &Header) -> Self {
        let owed = Owed { response: true, ..Owed::default() };
        let mut connection = Self::new(socket, Phase::Open, owed);
        connection.heed(header);
        connection
    }

    /// One that the host opens.
    pub(super) fn requested(socket: UnixStream) -> Self {
        Self::new(socket, Phase::Requested, Owed { request: true, ..Owed::default() })
    }

    fn new(socket: UnixStream, phase: Phase, owed: Owed) -> Self {
        Self {
            socket,
            phase,
            owed,
            waiting: VecDeque::new(),
            forwarded: 0,
            told: 0,
            peer_buffer: 0,
            peer_forwarded: 0,
            sent: 0,
            guest_ended: Ended::empty(),
            host_ended: Ended::empty(),
            is_end_told: false,
            is_readable: false,
            is_listed: false,
            token: 0,
        }
    }

    pub(super) const fn socket(&self) -> &UnixStream {
        &self.socket
    }

    /// How many bytes the guest is told that the socket has taken.
    pub(super) const fn forwarded(&self) -> u32 {
        self.forwarded
    }

    /// Whether the socket is to be waited for to read: the guest can take something, and nothing is known to be there.
    pub(super) fn wants_readable(&self) -> bool {
        !self.is_readable && self.may_read() && self.credit() > 0
    }

    /// Whether the socket is to be waited for to write.
    pub(super) fn wants_writable(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn may_read(&self) -> bool {
        self.phase == Phase::Open
            && !self.guest_ended.contains(Ended::RECEIVE)
            && !self.host_ended.contains(Ended::SEND)
    }

    /// Bytes that the guest has room for.
    const fn credit(&self) -> u32 {
        let in_flight = self.sent.wrapping_sub(self.peer_forwarded);
        self.peer_buffer.saturating_sub(in_flight)
    }

    /// Whether there is something for the guest.
    pub(super) fn has_something(&self) -> bool {
        let Owed { request, response, reset, credit_update, credit_request } = self.owed;
        let owes = request || response || reset || credit_update || credit_request;
        owes || self.tells_end() || self.may_have_data()
    }

    /// Whether the socket may have data that the guest can take.
    fn may_have_data(&self) -> bool {
        self.is_readable && self.may_read() && self.credit() > 0
    }

    fn tells_end(&self) -> bool {
        self.phase == Phase::Open && !self.host_ended.is_empty() && !self.is_end_told
    }

    /// Takes note of the guest's credit, which every packet tells.
    pub(super) const fn heed(&mut self, header: &Header) {
        self.peer_buffer = header.buffer;
        self.peer_forwarded = header.forwarded;
    }

    /// The guest has accepted; `greeting` is for the socket. Whether it was asked.
    pub(super) fn opened(&mut self, greeting: &str) -> bool {
        if self.phase != Phase::Requested {
            return false;
        }
        self.phase = Phase::Open;
        self.waiting.extend(greeting.as_bytes());
        // It is no data of the guest's.
        self.forwarded = self.forwarded.wrapping_sub(greeting.len() as u32);
        self.told = self.forwarded;
        self.flush();
        true
    }

    /// Data from the guest. Whether there is room for it, as the guest must know.
    pub(super) fn received(&mut self, data: &[u8]) -> bool {
        let has_ended = self.guest_ended.contains(Ended::SEND);
        if self.phase != Phase::Open || has_ended || self.waiting.len() + data.len() > BUFFER as usize {
            return false;
        }
        if self.host_ended.contains(Ended::RECEIVE) {
            // Nobody will read it.
            self.forwarded = self.forwarded.wrapping_add(data.len() as u32);
        } else {
            self.waiting.extend(data);
        }
        self.flush();
        true
    }

    /// The guest asks how much room there is.
    pub(super) const fn credit_requested(&mut self) {
        self.owed.credit_update = true;
    }

    /// The guest ends a direction.
    pub(super) fn shut_down(&mut self, flags: u32) {
        self.guest_ended |= Ended::from_bits_truncate(flags);
        self.flush();
    }

    /// Whether nothing is left to do but to say so: the guest wants nothing more, and the socket has all.
    pub(super) fn is_over(&self) -> bool {
        self.guest_ended.is_all() && self.waiting.is_empty()
    }

    /// Cuts the connection off; the guest is told.
    pub(super) fn cut(&mut self) {
        self.owed = Owed { reset: true, ..Owed::default() };
        self.waiting.clear();
    }

    /// Gives the socket what waits for it.
    pub(super) fn flush(&mut self) {
        while !self.waiting.is_empty() {
            let (front, _) = self.waiting.as_slices();
            match send(&self.socket, front, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => {
                    self.waiting.drain(..count);
                    self.forwarded = self.forwarded.wrapping_add(count as u32);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => break,
                // Whoever read has gone.
                Err(_) => {
                    self.forwarded = self.forwarded.wrapping_add(self.waiting.len() as u32);
                    self.waiting.clear();
                    self.host_has_ended(Ended::RECEIVE);
                }
            }
        }
        if self.waiting.is_empty() && self.guest_ended.contains(Ended::SEND) {
            // An error: the socket has ended by itself.
            let _ = shutdown(&self.socket, Shutdown::Write);
        }
        // Half of the buffer is enough to be told of by itself.
        self.owed.credit_update |= self.forwarded.wrapping_sub(self.told) >= BUFFER / 2;
    }

    fn host_has_ended(&mut self, ended: Ended) {
        if !self.host_ended.contains(ended) {
            self.host_ended |= ended;
            self.is_end_told = false;
        }
    }

    /// The socket's other end is gone altogether.
    pub(super) fn hung_up(&mut self) {
        self.host_has_ended(Ended::RECEIVE);
    }

    /// The next packet for the guest, with its data in `room`; `None` if there is none after all. After a reset the connection
    /// is to be forgotten.
    pub(super) fn next(&mut self, room: &mut [u8]) -> Option<Packet> {
        let owed = &mut self.owed;
        for (is_owed, operation) in [
            (&mut owed.reset, Operation::Reset),
            (&mut owed.request, Operation::Request),
            (&mut owed.response, Operation::Response),
        ] {
            if std::mem::take(is_owed) {
                self.told = self.forwarded;
                return Some(Packet::of(operation));
            }
        }
        if let Some(packet) = self.next_data(room) {
            return Some(packet);
        }
        if self.tells_end() {
            self.is_end_told = true;
            return Some(Packet { flags: self.host_ended.bits(), ..Packet::of(Operation::Shutdown) });
        }
        // Data do not go into a buffer for a header alone. It must not stay first in the queue either; credit may be told at any
        // time.
        let is_in_the_way = room.is_empty() && self.may_have_data();
        if std::mem::take(&mut self.owed.credit_update) || is_in_the_way {
            self.told = self.forwarded;
            return Some(Packet::of(Operation::CreditUpdate));
        }
        std::mem::take(&mut self.owed.credit_request).then_some(Packet::of(Operation::CreditRequest))
    }

    fn next_data(&mut self, room: &mut [u8]) -> Option<Packet> {
        if room.is_empty() || !self.may_have_data() {
            return None;
        }
        let most = room.len().min(self.credit() as usize);
        match recv(&self.socket, &mut room[..most], RecvFlags::DONTWAIT) {
            Ok((0, _)) => {
                self.is_readable = false;
                self.host_has_ended(Ended::SEND);
                None
            }
            Ok((count, _)) => {
                // No more than the guest's credit.
                let length = count as u32;
                self.sent = self.sent.wrapping_add(length);
                self.owed.credit_update = false;
                self.told = self.forwarded;
                // So that it need not wait for the guest to think of it.
                self.owed.credit_request = self.credit() == 0;
                Some(Packet { length, ..Packet::of(Operation::ReadWrite) })
            }
            Err(error) => {
                self.is_readable = false;
                if io::Error::from(error).kind() != io::ErrorKind::WouldBlock {
                    self.host_has_ended(Ended::SEND | Ended::RECEIVE);
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::super::packet::{Address, STREAM};
    use super::*;

    fn header(buffer: u32, forwarded: u32) -> Header {
        let address = Address { cid: 3, port: 1 };
        Header {
            source: address,
            destination: address,
            length: 0,
            kind: STREAM,
            operation: None,
            flags: 0,
            buffer,
            forwarded,
        }
    }

    /// A connection that the guest has opened and knows to be open, with this much room on its side.
    fn open(room: u32) -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut connection = Connection::accepted(ours, &header(room, 0));
        assert_eq!(connection.next(&mut []).unwrap().operation, Operation::Response);
        (connection, theirs)
    }

    fn read(connection: &mut Connection, room: usize) -> Option<(Operation, Vec<u8>, u32)> {
        let mut data = vec![0; room];
        let packet = connection.next(&mut data)?;
        data.truncate(packet.length as usize);
        Some((packet.operation, data, packet.flags))
    }

    fn data(bytes: &[u8]) -> Option<(Operation, Vec<u8>, u32)> {
        Some((Operation::ReadWrite, bytes.to_vec(), 0))
    }

    #[test]
    fn data_goes_both_ways() {
        let (mut connection, mut host) = open(100);
        assert!(connection.received(b"to the host"));
        let mut bytes = [0; 11];
        host.read_exact(&mut bytes).unwrap();
        assert_eq!((&bytes, connection.forwarded()), (b"to the host", 11));
        host.write_all(b"to the guest").unwrap();
        assert!(!connection.has_something() && connection.wants_readable());
        connection.is_readable = true;
        assert!(connection.has_something());
        assert_eq!(read(&mut connection, 6), data(b"to the"));
        assert_eq!(read(&mut connection, 100), data(b" guest"));
        assert_eq!(read(&mut connection, 100), None);
        assert!(connection.wants_readable());
    }

    #[test]
    fn no_more_is_sent_than_the_guest_has_room_for() {
        let (mut connection, mut host) = open(10);
        host.write_all(&[7; 30]).unwrap();
        connection.is_readable = true;
        assert_eq!(read(&mut connection, 100), data(&[7; 10]));
        assert_eq!(read(&mut connection, 100).unwrap().0, Operation::CreditRequest);
        assert!(!connection.has_something() && !connection.wants_readable());
        connection.heed(&header(10, 4));
        assert_eq!(read(&mut connection, 100), data(&[7; 4]));
        // A guest whose numbers make no sense gets nothing.
        connection.heed(&header(10, 15));
        assert_eq!(connection.credit(), 0);
    }

    #[test]
    fn a_guest_that_sends_more_than_there_is_room_for_is_noticed() {
        let (mut connection, _host) = open(10);
        let mut sent = 0;
        // The socket's own buffer takes some.
        while connection.waiting.is_empty() {
            assert!(connection.received(&[1; 4096]));
            sent += 4096;
        }
        while connection.waiting.len() + 4096 <= BUFFER as usize {
            assert!(connection.received(&[1; 4096]));
            sent += 4096;
        }
        assert!(!connection.received(&[1; 4096]));
        assert_eq!(connection.forwarded() as usize, sent - connection.waiting.len());
        assert!(connection.wants_writable());
    }

    #[test]
    fn the_guest_is_told_when_half_of_the_buffer_was_taken() {
        let (mut connection, mut host) = open(10);
        assert!(connection.received(&[1; BUFFER as usize / 2 - 1]));
        assert!(!connection.has_something());
        assert!(connection.received(&[1]));
        assert_eq!(read(&mut connection, 0).unwrap().0, Operation::CreditUpdate);
        assert!(!connection.has_something());
        host.read_exact(&mut [0; BUFFER as usize / 2]).unwrap();
        connection.credit_requested();
        assert_eq!(read(&mut connection, 0).unwrap().0, Operation::CreditUpdate);
    }

    #[test]
    fn a_buffer_for_a_header_alone_tells_of_credit_while_data_wait() {
        let (mut connection, mut host) = open(10);
        host.write_all(b"data").unwrap();
        connection.is_readable = true;
        for _ in 0..2 {
            assert_eq!(read(&mut connection, 0), Some((Operation::CreditUpdate, vec![], 0)));
        }
        assert_eq!(read(&mut connection, 100), data(b"data"));
        assert_eq!(read(&mut connection, 100), None);
        assert_eq!(read(&mut connection, 0), None);
    }

    #[test]
    fn the_hosts_end_of_data_is_told_after_all_data() {
        let (mut connection, mut host) = open(100);
        host.write_all(b"last").unwrap();
        host.shutdown(std::net::Shutdown::Write).unwrap();
        connection.is_readable = true;
        assert_eq!(read(&mut connection, 100), data(b"last"));
        assert_eq!(read(&mut connection, 100), Some((Operation::Shutdown, vec![], 2)));
        assert_eq!(read(&mut connection, 100), None);
        assert!(connection.received(b"still"), "the other direction goes on");
        let mut bytes = [0; 5];
        host.read_exact(&mut bytes).unwrap();
        drop(host);
        connection.hung_up();
        assert_eq!(read(&mut connection, 100), Some((Operation::Shutdown, vec![], 3)));
    }

    #[test]
    fn the_guests_end_of_data_reaches_the_host_after_all_data() {
        let (mut connection, mut host) = open(100);
        assert!(connection.received(b"last"));
        connection.shut_down(2);
        assert!(!connection.received(b"more") && !connection.is_over());
        let mut bytes = Vec::new();
        host.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes, b"last");
        connection.shut_down(1);
        assert!(connection.is_over());
    }

    #[test]
    fn a_host_that_is_gone_takes_everything_and_the_guest_is_told() {
        let (mut connection, host) = open(100);
        drop(host);
        assert!(connection.received(b"into nothing"));
        assert_eq!(connection.forwarded(), 12);
        assert_eq!(read(&mut connection, 100), Some((Operation::Shutdown, vec![], 1)));
    }

    #[test]
    fn a_connection_of_the_hosts_is_greeted_when_the_guest_accepts() {
        let (ours, mut host) = UnixStream::pair().unwrap();
        let mut connection = Connection::requested(ours);
        assert!(!connection.received(b"too early"));
        assert_eq!(read(&mut connection, 0).unwrap().0, Operation::Request);
        assert!(connection.opened("OK 7\n") && !connection.opened("OK 7\n"));
        let mut bytes = [0; 5];
        host.read_exact(&mut bytes).unwrap();
        assert_eq!((&bytes, connection.forwarded()), (b"OK 7\n", 0));
    }
}
