//! The queues: packets to connections and back.
//!
//! What a connection has for the guest waits in the connection. Only refusals of what is no connection need a list, and while
//! that is full, nothing more is taken from the guest: it must give buffers first.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::connection::{BUFFER, Connection, Packet};
use super::host::{Asked, Handshake, connect_to_service};
use super::packet::{Address, HOST_CID, Header, Operation, SIZE, STREAM};
use crate::device::{Served, Worker};
use crate::queue::{Chain, Violation};
use crate::session::Session;
use crate::socket::{Events, Listener, Waiting};

/// The queues.
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
const EVENT: u16 = 2;

/// The most connections, and programs of the host that have not said what they want.
const MOST_CONNECTIONS: usize = 1023;
const MOST_HANDSHAKES: usize = 64;
/// The most refusals that wait for buffers.
const MOST_REFUSALS: usize = 64;
/// Data in a packet to the guest at most, in bytes.
const MOST_DATA: usize = 64 << 10;

/// Ports of the host's end of connections that the host opens begin here, above those that programs choose.
const FIRST_HOST_PORT: u32 = 1 << 30;

/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET: all connections are gone.
const TRANSPORT_RESET: [u8; 4] = [0; 4];

/// Tokens of what is waited for: the listener, then handshakes from their first on, then connections.
const LISTENER: u64 = 0;
const FIRST_HANDSHAKE: u64 = 1;
const FIRST_CONNECTION: u64 = 1 << 32;

/// A connection's name: the host's port and the guest's.
type Key = (u32, u32);

/// The worker.
pub(super) struct Carrying {
    session: Session,
    cid: u64,
    listener: Arc<Listener>,
    has_moved: Arc<AtomicBool>,
    waiting: Waiting,
    handshakes: HashMap<u64, Handshake>,
    connections: HashMap<Key, Connection>,
    /// Connections by the token that is waited for with.
    tokens: HashMap<u64, Key>,
    next_token: u64,
    next_port: u32,
    /// Connections that may have something for the guest.
    listed: VecDeque<Key>,
    refusals: VecDeque<Header>,
    /// Packets were left in the transmit queue.
    has_left: bool,
    data: Vec<u8>,
}

impl Carrying {
    pub(super) fn new(
        session: Session,
        cid: u64,
        listener: Arc<Listener>,
        has_moved: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let waiting = Waiting::new()?;
        waiting.arm(listener.socket(), Events::IN, LISTENER)?;
        Ok(Self {
            session,
            cid,
            listener,
            has_moved,
            waiting,
            handshakes: HashMap::new(),
            connections: HashMap::new(),
            tokens: HashMap::new(),
            next_token: FIRST_CONNECTION,
            next_port: FIRST_HOST_PORT,
            listed: VecDeque::new(),
            refusals: VecDeque::new(),
            has_left: false,
            data: vec![0; MOST_DATA],
        })
    }

    // From the guest.

    /// Takes packets from the guest.
    fn transmit(&mut self) -> Result<(), Violation> {
        // Nothing is left in a queue that the driver has taken away.
        self.has_left = false;
        let session = self.session.clone();
        let Some(mut queue) = session.queue(TRANSMIT) else { return Ok(()) };
        queue.quiet()?;
        self.has_left = true;
        for _ in 0..queue.size() {
            if self.refusals.len() >= MOST_REFUSALS {
                return Ok(());
            }
            let Some(chain) = queue.pop()? else {
                self.has_left = queue.listen()?;
                return Ok(());
            };
            let head = chain.head;
            self.take(chain)?;
            queue.push(head, 0)?;
        }
        Ok(())
    }

    fn take(&mut self, chain: Chain) -> Result<(), Violation> {
        let mut payload = chain.readable;
        let header = payload.take_front(SIZE as u64);
        let header = header.ok_or(Violation::Request("a socket packet is shorter than its header"))?;
        let mut bytes = [0; SIZE];
        header.read(self.session.memory(), &mut bytes).map_err(|_| Violation::Host)?;
        let header = Header::parse(&bytes);
        if u64::from(header.length) > payload.total() {
            return Err(Violation::Request("a socket packet is shorter than it says"));
        }
        // The guest cannot speak for others, and nobody is to be told.
        if header.source.cid != self.cid {
            return Ok(());
        }
        if header.destination.cid != HOST_CID || header.kind != STREAM {
            self.refuse(&header);
            return Ok(());
        }
        let key = (header.destination.port, header.source.port);
        match (header.operation, self.connections.contains_key(&key)) {
            (Some(Operation::Request), false) => self.open(key, &header),
            // One that exists is not opened a second time: something went wrong.
            (Some(Operation::Request), true) => self.cut(key),
            (Some(Operation::Reset), _) => self.remove(key),
            (_, false) | (None, _) => self.refuse(&header),
            (Some(operation), true) => {
                let length = header.length as usize;
                let mut data = Vec::new();
                // What is longer than our buffer is not looked at.
                let fits = length <= BUFFER as usize;
                if operation == Operation::ReadWrite && fits {
                    data.resize(length, 0);
                    payload.read(self.session.memory(), &mut data).map_err(|_| Violation::Host)?;
                }
                self.carry_out(key, operation, &header, fits.then_some(&data));
            }
        }
        Ok(())
    }

    /// Does what a packet of an existing connection asks for.
    fn carry_out(&mut self, key: Key, operation: Operation, header: &Header, data: Option<&Vec<u8>>) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        connection.heed(header);
        let is_right = match operation {
            Operation::Response => connection.opened(&format!("OK {}\n", key.0)),
            Operation::ReadWrite => data.is_some_and(|data| connection.received(data)),
            Operation::Shutdown => {
                connection.shut_down(header.flags);
                true
            }
            Operation::CreditRequest => {
                connection.credit_requested();
                true
            }
            Operation::CreditUpdate => true,
            Operation::Request | Operation::Reset => false,
        };
        if !is_right {
            connection.cut();
        }
        self.settle(key);
    }

    /// The guest opens a connection to a port of the host's.
    fn open(&mut self, key: Key, header: &Header) {
        let socket = match self.connections.len() < MOST_CONNECTIONS {
            true => connect_to_service(&self.listener, key.0).ok(),
            false => None,
        };
        match socket {
            Some(socket) => self.add(key, Connection::accepted(socket, header)),
            None => self.refuse(header),
        }
    }

    fn refuse(&mut self, header: &Header) {
        if header.operation != Some(Operation::Reset) {
            self.refusals.push_back(header.refusal());
        }
    }

    // Connections.

    fn add(&mut self, key: Key, mut connection: Connection) {
        connection.token = self.next_token;
        self.next_token += 1;
        self.tokens.insert(connection.token, key);
        self.connections.insert(key, connection);
        self.settle(key);
    }

    fn cut(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(&key) {
            connection.cut();
            self.list(key);
        }
    }

    /// Drops a connection, and its sockets with it.
    fn remove(&mut self, key: Key) {
        if let Some(connection) = self.connections.remove(&key) {
            self.tokens.remove(&connection.token);
            // A guest that opens and resets connections without end would make the list as long.
            if connection.is_listed {
                self.listed.retain(|listed| *listed != key);
            }
        }
        // There is room for another descriptor now.
        let _ = self.waiting.arm(self.listener.socket(), Events::IN, LISTENER);
    }

    /// Lets a connection be looked at when the guest has a buffer.
    fn list(&mut self, key: Key) {
        if let Some(connection) = self.connections.get_mut(&key)
            && connection.has_something()
            && !std::mem::replace(&mut connection.is_listed, true)
        {
            self.listed.push_back(key);
        }
    }

    /// Follows what has become of a connection.
    fn settle(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(&key) else { return };
        if connection.is_over() {
            connection.cut();
        }
        self.list(key);
        self.arm(key);
    }

    /// Waits for a connection's socket as far as it wants that.
    fn arm(&self, key: Key) {
        let Some(connection) = self.connections.get(&key) else { return };
        let mut events = Events::empty();
        if connection.wants_readable() {
            events |= Events::IN | Events::RDHUP;
        }
        if connection.wants_writable() {
            events |= Events::OUT;
        }
        if !events.is_empty() {
            // Should the host have no room, the connection stands still until its guest does something.
            let _ = self.waiting.arm(connection.socket(), events, connection.token);
        }
    }

    // To the guest.

    fn has_something(&self) -> bool {
        !self.refusals.is_empty() || !self.listed.is_empty()
    }

    /// Fills the guest's buffers with what there is for it.
    fn receive(&mut self) -> Result<Served, Violation> {
        self.tell_of_move()?;
        let session = self.session.clone();
        let Some(mut queue) = session.queue(RECEIVE) else { return Ok(Served::All) };
        queue.quiet()?;
        for _ in 0..queue.size() {
            if !self.has_something() {
                return Ok(Served::All);
            }
            let Some(chain) = queue.pop()? else {
                return Ok(if queue.listen()? { Served::Some } else { Served::All });
            };
            let mut room = chain.writable;
            let header = room.take_front(SIZE as u64);
            let header = header.ok_or(Violation::Request("a buffer for packets has no room for a header"))?;
            let most = usize::try_from(room.total()).unwrap_or(MOST_DATA).min(MOST_DATA);
            let Some(packet) = self.next_packet(most) else {
                queue.put_back()?;
                continue;
            };
            let memory = session.memory();
            header.write(memory, &packet.bytes()).map_err(|_| Violation::Host)?;
            let data = &self.data[..packet.length as usize];
            room.write(memory, data).map_err(|_| Violation::Host)?;
            queue.push(chain.head, SIZE as u32 + packet.length)?;
        }
        Ok(if self.has_something() { Served::Some } else { Served::All })
    }

    /// The next packet for the guest, with at most this many bytes of data in `self.data`.
    fn next_packet(&mut self, most: usize) -> Option<Header> {
        if let Some(refusal) = self.refusals.pop_front() {
            return Some(refusal);
        }
        // Each once, whatever stands in the list again.
        for _ in 0..self.listed.len() {
            let Some(key) = self.listed.pop_front() else { break };
            let Some(connection) = self.connections.get_mut(&key) else { continue };
            connection.is_listed = false;
            let packet = connection.next(&mut self.data[..most]);
            let forwarded = connection.forwarded();
            match packet {
                Some(packet) => {
                    if packet.operation == Operation::Reset {
                        self.remove(key);
                    } else {
                        // Others come first, then it again.
                        self.settle(key);
                    }
                    return Some(self.header(key, packet, forwarded));
                }
                None => self.settle(key),
            }
        }
        None
    }

    const fn header(&self, (host, guest): Key, packet: Packet, forwarded: u32) -> Header {
        Header {
            source: Address { cid: HOST_CID, port: host },
            destination: Address { cid: self.cid, port: guest },
            length: packet.length,
            kind: STREAM,
            operation: Some(packet.operation),
            flags: packet.flags,
            buffer: BUFFER,
            forwarded,
        }
    }

    /// Tells the guest once that it has come here without its connections.
    fn tell_of_move(&self) -> Result<(), Violation> {
        if !self.has_moved.load(Ordering::SeqCst) {
            return Ok(());
        }
        let Some(mut queue) = self.session.queue(EVENT) else { return Ok(()) };
        let Some(chain) = queue.pop()? else { return queue.listen().map(drop) };
        let written = chain.writable.write(self.session.memory(), &TRANSPORT_RESET);
        let written = written.ok().filter(|written| *written == TRANSPORT_RESET.len());
        let written = written.ok_or(Violation::Request("a buffer for an event is too short"))?;
        queue.push(chain.head, written as u32)?;
        self.has_moved.store(false, Ordering::SeqCst);
        Ok(())
    }

    // From the host.

    fn accept(&mut self) {
        while self.handshakes.len() < MOST_HANDSHAKES {
            match self.listener.accept() {
                Ok(socket) => {
                    let token = (FIRST_HANDSHAKE..).find(|token| !self.handshakes.contains_key(token));
                    let Some(token) = token else { return };
                    // Should the host have no room for it, it is let go.
                    if self.waiting.arm(&socket, Events::IN, token).is_ok() {
                        self.handshakes.insert(token, Handshake::new(socket));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let _ = self.waiting.arm(self.listener.socket(), Events::IN, LISTENER);
                    return;
                }
                // No more descriptors: it is tried again when a connection has ended.
                Err(_) => return,
            }
        }
    }

    fn continue_handshake(&mut self, token: u64) {
        let Some(handshake) = self.handshakes.remove(&token) else { return };
        match handshake.read() {
            Asked::NotYet(handshake) => {
                if self.waiting.arm(handshake.socket(), Events::IN, token).is_ok() {
                    self.handshakes.insert(token, handshake);
                }
            }
            Asked::Port(socket, port) if self.connections.len() < MOST_CONNECTIONS => {
                let key = (self.free_port(port), port);
                self.add(key, Connection::requested(socket));
            }
            Asked::Port(..) | Asked::Nothing => {}
        }
        // There is room for another one.
        let _ = self.waiting.arm(self.listener.socket(), Events::IN, LISTENER);
    }

    /// A port for the host's end of a connection to this port of the guest's.
    fn free_port(&mut self, guest: u32) -> u32 {
        loop {
            let port = self.next_port;
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_HOST_PORT);
            // There are far more ports than connections.
            if !self.connections.contains_key(&(port, guest)) {
                return port;
            }
        }
    }

    fn socket_happened(&mut self, token: u64, events: Events) {
        let Some(&key) = self.tokens.get(&token) else { return };
        let Some(connection) = self.connections.get_mut(&key) else { return };
        connection.is_readable |= events.intersects(Events::IN | Events::RDHUP | Events::HUP);
        let is_gone = events.intersects(Events::HUP | Events::ERR);
        if is_gone {
            connection.hung_up();
        }
        // A socket that is gone may never become writable, and would tell of its end for ever as long as something waits for it.
        if is_gone || events.contains(Events::OUT) {
            connection.flush();
        }
        self.settle(key);
    }
}

impl Worker for Carrying {
    fn serve(&mut self, queue: u16) -> Result<Served, Violation> {
        if queue == TRANSMIT || self.has_left {
            self.transmit()?;
        }
        let received = self.receive()?;
        let may_go_on = self.has_left && self.refusals.len() < MOST_REFUSALS;
        Ok(if may_go_on { Served::Some } else { received })
    }

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.waiting.descriptor())
    }

    fn wake(&mut self) -> Result<Served, Violation> {
        for (token, events) in self.waiting.happened() {
            match token {
                LISTENER => self.accept(),
                FIRST_HANDSHAKE..FIRST_CONNECTION => self.continue_handshake(token),
                _ => self.socket_happened(token, events),
            }
        }
        self.receive()
    }

    fn forget(&mut self, queue: u16) {
        // A driver that takes its buffers away has no connections any more that anyone could go on with.
        if queue == RECEIVE || queue == TRANSMIT {
            self.connections.clear();
            self.tokens.clear();
            self.listed.clear();
            self.refusals.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use tempfile::TempDir;
    use tern_engine::GuestMemory;
    use vm_memory::GuestAddress;

    use super::*;
    use crate::driver;

    const KEY: Key = (52, 1000);

    /// A worker of a driver that has taken all its queues away.
    fn without_queues() -> (Carrying, TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let listener = Arc::new(Listener::bind(&directory.path().join("v.sock")).unwrap());
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap();
        let session = driver::session(&memory, 0, &[]);
        (Carrying::new(session, 3, listener, Arc::default()).unwrap(), directory)
    }

    #[test]
    fn connections_that_are_opened_and_reset_leave_nothing_in_the_list() {
        let (mut worker, _directory) = without_queues();
        for _ in 0..3 {
            let (ours, _theirs) = UnixStream::pair().unwrap();
            worker.add(KEY, Connection::requested(ours));
            assert_eq!(worker.listed, [KEY]);
            worker.remove(KEY);
            assert!(worker.listed.is_empty());
        }
    }

    #[test]
    fn packets_left_in_a_queue_that_is_taken_away_are_not_waited_for() {
        let (mut worker, _directory) = without_queues();
        worker.has_left = true;
        worker.forget(TRANSMIT);
        assert_eq!(worker.serve(RECEIVE), Ok(Served::All));
    }
}
