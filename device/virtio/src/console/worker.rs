//! The queues: a port's data in both directions, and messages about ports.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::control::{SIZE, Said, Say};
use super::port::Port;
use super::{F_MULTIPORT, HostEnd, MOST_MESSAGES, PortConfig, PortState, Shared};
use crate::device::{Served, Worker};
use crate::queue::{Chain, Violation};
use crate::session::Session;
use crate::socket::{Events, Waiting};

/// The queues of messages, from and to the device.
const CONTROL_RECEIVE: u16 = 2;
const CONTROL_TRANSMIT: u16 = 3;

/// Data for the guest that are carried at once, in bytes, and the most that it may send in one buffer.
const CHUNK: usize = 16 << 10;
const MOST_DATA: u64 = 1 << 20;

/// What is waited for: the device's event, then for each port its listener and its socket.
const WAKE: u64 = 0;

const fn listener_token(port: usize) -> u64 {
    2 * port as u64 + 1
}

const fn socket_token(port: usize) -> u64 {
    2 * port as u64 + 2
}

/// What a queue is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Receive(usize),
    Transmit(usize),
    ControlReceive,
    ControlTransmit,
}

impl Purpose {
    /// Port 0 has the first two queues; those of messages follow, then the other ports'.
    const fn of(queue: u16) -> Self {
        let port = match queue {
            CONTROL_RECEIVE => return Self::ControlReceive,
            CONTROL_TRANSMIT => return Self::ControlTransmit,
            0 | 1 => 0,
            _ => queue as usize / 2 - 1,
        };
        if queue.is_multiple_of(2) { Self::Receive(port) } else { Self::Transmit(port) }
    }
}

/// What the driver sends is not to be written (virtio 1.2, section 5.3.6.1).
fn only_readable(chain: &Chain) -> Result<(), Violation> {
    let is_right = chain.writable.list().is_empty();
    is_right.then_some(()).ok_or(Violation::Request("a buffer that is sent to a console is to be written"))
}

/// Where the driver receives, nothing is to be read (ibidem).
fn only_writable(chain: &Chain) -> Result<(), Violation> {
    let is_right = chain.readable.list().is_empty();
    is_right.then_some(()).ok_or(Violation::Request("a buffer for what a console sends is to be read"))
}

const fn receive_queue(port: usize) -> u16 {
    if port == 0 { 0 } else { 2 * port as u16 + 2 }
}

/// The worker.
pub(super) struct Talking {
    session: Session,
    configs: Arc<Vec<PortConfig>>,
    shared: Arc<Shared>,
    waiting: Waiting,
    ports: Vec<Port>,
    /// The host had no descriptor for a program that connects.
    is_short: bool,
    data: Vec<u8>,
}

impl Talking {
    pub(super) fn new(
        session: Session,
        configs: Arc<Vec<PortConfig>>,
        shared: Arc<Shared>,
    ) -> io::Result<Self> {
        let mut ports = Vec::new();
        for (config, state) in configs.iter().zip(&shared.lock().ports) {
            let mut port = Port::new(config.name.is_none());
            port.state = state.clone();
            if let HostEnd::Joined(stream) = &config.host {
                // The device keeps its own for the time after a reset.
                port.connect(stream.try_clone()?);
            }
            ports.push(port);
        }
        if !session.has(F_MULTIPORT) {
            // There is one, and nobody will say that it is open.
            ports[0].state.is_open = true;
        }
        let waiting = Waiting::new()?;
        waiting.arm(&shared.wake, Events::IN, WAKE)?;
        let mut talking =
            Self { session, configs, shared, waiting, ports, is_short: false, data: vec![0; CHUNK] };
        for index in 0..talking.ports.len() {
            // The host's end did not come along.
            talking.settle(index);
        }
        Ok(talking)
    }

    // Messages.

    /// Answers the driver.
    fn say(&self, message: Say) {
        self.shared.lock().messages.push_back(message);
    }

    /// Hears what the driver says.
    fn hear(&mut self) -> Result<Served, Violation> {
        let session = self.session.clone();
        let Some(mut queue) = session.queue(CONTROL_TRANSMIT) else { return Ok(Served::All) };
        queue.quiet()?;
        for _ in 0..queue.size() {
            if self.shared.lock().messages.len() >= MOST_MESSAGES {
                // It goes on when the driver has taken some.
                return Ok(Served::All);
            }
            let Some(chain) = queue.pop()? else {
                return Ok(if queue.listen()? { Served::Some } else { Served::All });
            };
            only_readable(&chain)?;
            let mut bytes = [0; SIZE];
            let count = chain.readable.read(session.memory(), &mut bytes).map_err(|_| Violation::Host)?;
            if count < SIZE {
                return Err(Violation::Request("a message about a port is too short"));
            }
            self.heed(Said::parse(&bytes));
            queue.push(chain.head, 0)?;
        }
        Ok(Served::Some)
    }

    fn heed(&mut self, said: Said) {
        match said {
            Said::DeviceReady(true) => {
                (0..self.ports.len() as u32).for_each(|port| self.say(Say::PortAdd(port)));
            }
            Said::PortReady(port, true) => self.introduce(port),
            Said::PortOpen(port, is_open) => {
                let index = port as usize;
                if let Some(port) = self.ports.get_mut(index) {
                    port.state.is_open = is_open;
                    self.settle(index);
                }
            }
            // What the driver cannot use is left alone, and so is what does not exist.
            Said::DeviceReady(false) | Said::PortReady(_, false) | Said::Other => {}
        }
    }

    /// Tells about a port that the driver can use now.
    fn introduce(&mut self, number: u32) {
        let index = number as usize;
        let Some(port) = self.ports.get_mut(index) else { return };
        // It hears everything again, since it asks again.
        port.state = PortState { is_ready: true, is_open: port.state.is_open, ..PortState::default() };
        self.say(match &self.configs[index].name {
            Some(name) => Say::PortName(number, name.clone()),
            None => Say::ConsolePort(number),
        });
        self.settle(index);
    }

    /// What the driver is to be told next: answers first, then what is not as it was told. The latter is not kept anywhere, so
    /// that it costs no memory however often it changes.
    fn next_message(&self) -> Option<Say> {
        let shared = self.shared.lock();
        if let Some(answer) = shared.messages.front() {
            return Some(answer.clone());
        }
        (0..).zip(self.ports.iter().zip(&shared.sizes)).find_map(|(number, (port, size))| {
            let PortState { is_ready, is_told, told_size, .. } = port.state;
            match *size {
                _ if !is_ready => None,
                Some(size) if port.is_console && told_size != Some(size) => Some(Say::Resize(number, size)),
                _ => (is_told != port.socket.is_some()).then_some(Say::PortOpen(number, !is_told)),
            }
        })
    }

    fn was_told(&mut self, message: &Say) {
        let index = message.port() as usize;
        let mut shared = self.shared.lock();
        match (message, self.ports.get_mut(index)) {
            (Say::Resize(_, size), Some(port)) => port.state.told_size = Some(*size),
            (Say::PortOpen(_, is_open), Some(port)) => port.state.is_told = *is_open,
            _ => drop(shared.messages.pop_front()),
        }
        if let (Some(port), Some(place)) = (self.ports.get(index), shared.ports.get_mut(index)) {
            place.clone_from(&port.state);
        }
    }

    /// Gives the driver the messages that there are.
    fn speak(&mut self) -> Result<(), Violation> {
        let session = self.session.clone();
        if !session.has(F_MULTIPORT) {
            return Ok(());
        }
        let Some(mut queue) = session.queue(CONTROL_RECEIVE) else { return Ok(()) };
        while let Some(message) = self.next_message() {
            let Some(chain) = queue.pop()? else {
                if queue.listen()? {
                    continue;
                }
                return Ok(());
            };
            only_writable(&chain)?;
            let bytes = message.bytes();
            let written = chain.writable.write(session.memory(), &bytes).map_err(|_| Violation::Host)?;
            if written < bytes.len() {
                return Err(Violation::Request("a buffer for messages about ports is too short"));
            }
            queue.push(chain.head, written as u32)?;
            self.was_told(&message);
        }
        Ok(())
    }

    // Data.

    /// Takes what the guest sends from a port.
    fn transmit(&mut self, queue: u16, index: usize) -> Result<Served, Violation> {
        let session = self.session.clone();
        let Some(mut queue) = session.queue(queue) else { return Ok(Served::All) };
        let Some(port) = self.ports.get_mut(index) else { return Ok(Served::All) };
        queue.quiet()?;
        for _ in 0..queue.size() {
            if port.holds_back() {
                // It goes on when the socket takes more.
                return Ok(Served::All);
            }
            let Some(chain) = queue.pop()? else {
                return Ok(if queue.listen()? { Served::Some } else { Served::All });
            };
            only_readable(&chain)?;
            let total = chain.readable.total();
            if total > MOST_DATA {
                return Err(Violation::Request("more than a mebibyte is sent from a port at once"));
            }
            // Not more than that.
            let mut data = vec![0; total as usize];
            chain.readable.read(session.memory(), &mut data).map_err(|_| Violation::Host)?;
            port.output(&data);
            queue.push(chain.head, 0)?;
        }
        Ok(Served::Some)
    }

    /// Gives the guest what the program at a port sends.
    fn receive(&mut self, index: usize) -> Result<Served, Violation> {
        let session = self.session.clone();
        let Some(mut queue) = session.queue(receive_queue(index)) else { return Ok(Served::All) };
        let Some(port) = self.ports.get_mut(index) else { return Ok(Served::All) };
        for _ in 0..queue.size() {
            if !port.has_input() {
                queue.quiet()?;
                return Ok(Served::All);
            }
            let Some(chain) = queue.pop()? else {
                return Ok(if queue.listen()? { Served::Some } else { Served::All });
            };
            only_writable(&chain)?;
            let Chain { head, writable, .. } = chain;
            let most = usize::try_from(writable.total()).unwrap_or(CHUNK).min(CHUNK);
            match port.input(&mut self.data[..most]) {
                Some(count) => {
                    writable.write(session.memory(), &self.data[..count]).map_err(|_| Violation::Host)?;
                    queue.push(head, count as u32)?;
                }
                None => queue.put_back()?,
            }
        }
        Ok(if port.has_input() { Served::Some } else { Served::All })
    }

    // The host's end.

    /// Waits for what a port wants, and notes what would be saved.
    fn settle(&mut self, index: usize) {
        let Some(port) = self.ports.get(index) else { return };
        // Should the host have no room, nothing happens at the port until the guest does something.
        let _ = match &port.socket {
            Some(_) if port.has_input() && port.pending.is_empty() => Ok(()),
            Some(socket) => {
                let mut events = Events::empty();
                if port.wants_readable() {
                    events |= Events::IN | Events::RDHUP;
                }
                if !port.pending.is_empty() {
                    events |= Events::OUT;
                }
                // Also without any of these it is noticed when the program is gone.
                self.waiting.arm(socket, events, socket_token(index))
            }
            // Its program may have just left, so that there is a descriptor for another port's.
            None if std::mem::take(&mut self.is_short) => {
                (0..self.ports.len()).try_for_each(|index| self.listen(index))
            }
            None => self.listen(index),
        };
        self.shared.lock().ports[index].clone_from(&self.ports[index].state);
    }

    /// Waits for a program that connects to a port, if it has none.
    fn listen(&self, index: usize) -> io::Result<()> {
        match &self.configs[index].host {
            HostEnd::Listener(listener) if self.ports[index].socket.is_none() => {
                self.waiting.arm(listener.socket(), Events::IN, listener_token(index))
            }
            // Nobody else comes.
            HostEnd::Listener(_) | HostEnd::Joined(_) => Ok(()),
        }
    }

    fn accept(&mut self, index: usize) {
        let (Some(config), Some(port)) = (self.configs.get(index), self.ports.get(index)) else { return };
        match &config.host {
            HostEnd::Listener(listener) if port.socket.is_none() => {
                let accepted = listener.accept();
                self.accepted(index, accepted);
            }
            HostEnd::Listener(_) | HostEnd::Joined(_) => {}
        }
    }

    fn accepted(&mut self, index: usize, accepted: io::Result<UnixStream>) {
        match accepted {
            Ok(socket) => self.ports[index].connect(socket),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // No more descriptors. The program would be there again at once: it is looked for when another port's has left, or
            // when the guest does something at a port without one.
            Err(_) => {
                self.is_short = true;
                return;
            }
        }
        self.settle(index);
    }

    fn socket_happened(&mut self, index: usize, events: Events) -> Result<Served, Violation> {
        let Some(port) = self.ports.get_mut(index) else { return Ok(Served::All) };
        if events.contains(Events::OUT) {
            port.flush();
        }
        if events.intersects(Events::HUP | Events::ERR) {
            port.hung_up();
        }
        port.is_readable |= events.intersects(Events::IN | Events::RDHUP) && port.socket.is_some();
        self.go_on(index)
    }

    /// Gives the guest what there is for it. What it sends may go on, too, if it was held back: the socket has taken some, or is
    /// found to be gone.
    fn go_on(&mut self, index: usize) -> Result<Served, Violation> {
        let received = self.receive(index)?;
        let transmitted = self.transmit(receive_queue(index) + 1, index)?;
        self.settle(index);
        Ok(if received == Served::Some { received } else { transmitted })
    }
}

impl Worker for Talking {
    fn serve(&mut self, queue: u16) -> Result<Served, Violation> {
        let served = match Purpose::of(queue) {
            Purpose::Receive(port) => self.go_on(port)?,
            Purpose::Transmit(port) => {
                let served = self.transmit(queue, port)?;
                self.settle(port);
                served
            }
            Purpose::ControlTransmit => self.hear()?,
            Purpose::ControlReceive => {
                self.speak()?;
                self.hear()?
            }
        };
        self.speak()?;
        Ok(served)
    }

    fn wait_descriptor(&self) -> Option<BorrowedFd<'_>> {
        Some(self.waiting.descriptor())
    }

    fn wake(&mut self) -> Result<Served, Violation> {
        let mut served = Served::All;
        for (token, events) in self.waiting.happened() {
            match token {
                WAKE => {
                    // An error: it was read already.
                    let _ = rustix::io::read(&self.shared.wake, &mut [0; 8]);
                    let _ = self.waiting.arm(&self.shared.wake, Events::IN, WAKE);
                }
                token if token.is_multiple_of(2) => {
                    if self.socket_happened(token as usize / 2 - 1, events)? == Served::Some {
                        served = Served::Some;
                    }
                }
                token => self.accept(token as usize / 2),
            }
        }
        self.speak()?;
        Ok(served)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tempfile::TempDir;
    use tern_engine::GuestMemory;
    use vm_memory::GuestAddress;

    use super::super::{Console, QUEUE_SIZE};
    use super::*;
    use crate::driver::{self, Ring};

    const BUFFER: u32 = 0x1_0000;

    /// A worker with a terminal at port 0 and a channel at port 1, both open to the guest, and the channel's queues.
    fn worker() -> (Talking, [Ring; 2], TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let ports = vec![
            PortConfig::terminal(&directory.path().join("terminal")).unwrap(),
            PortConfig::channel("org.tern.test", &directory.path().join("channel")).unwrap(),
        ];
        let Console { ports, shared, .. } = Console::new(ports).unwrap();
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x10_0000)]).unwrap();
        let rings =
            [4, 5].map(|index| Ring::new(&memory, index, u64::from(index) * 0x1_0000, 64, QUEUE_SIZE));
        let session = driver::session(&memory, F_MULTIPORT, &rings.each_ref());
        let mut worker = Talking::new(session, ports, shared).unwrap();
        worker.ports.iter_mut().for_each(|port| port.state.is_open = true);
        (worker, rings, directory)
    }

    /// A program connects to a port.
    fn connect(worker: &mut Talking, directory: &TempDir, name: &str) -> UnixStream {
        let program = UnixStream::connect(directory.path().join(name)).unwrap();
        worker.wake().unwrap();
        program
    }

    #[test]
    fn what_was_held_back_goes_on_when_reading_shows_that_the_program_is_gone() {
        let (mut worker, [mut receive, mut transmit], directory) = worker();
        let mut program = connect(&mut worker, &directory, "channel");
        program.write_all(b"x").unwrap();
        worker.wake().unwrap();
        assert!(worker.ports[1].has_input(), "the guest has given no buffer");
        let mut sent = 0;
        while !worker.ports[1].holds_back() {
            transmit.send(0, &[(0x8_0000, BUFFER, false)]);
            worker.serve(5).unwrap();
            assert!(transmit.used().is_some() && sent < 100);
            sent += 1;
        }
        transmit.offer(0);
        worker.serve(5).unwrap();
        assert_eq!(transmit.used(), None);
        // It has not read what it was sent, which reading from it tells.
        drop(program);
        for index in 0..2 {
            receive.send(index, &[(0x9_0000, BUFFER, true)]);
        }
        worker.serve(4).unwrap();
        assert_eq!(receive.used(), Some((0, 1)));
        assert_eq!(transmit.used(), Some((0, 0)));
    }

    #[test]
    fn a_program_that_the_host_has_no_descriptor_for_waits_until_another_leaves() {
        let (mut worker, _rings, directory) = worker();
        let program = connect(&mut worker, &directory, "channel");
        let _terminal = UnixStream::connect(directory.path().join("terminal")).unwrap();
        assert_eq!(worker.waiting.happened(), [(listener_token(0), Events::IN)]);
        worker.accepted(0, Err(rustix::io::Errno::MFILE.into()));
        assert_eq!(worker.waiting.happened(), []);
        // Nobody is to read what it has left.
        worker.ports[1].state.is_open = false;
        drop(program);
        worker.wake().unwrap();
        assert!(worker.ports[1].socket.is_none());
        worker.wake().unwrap();
        assert!(worker.ports[0].socket.is_some());
    }

    #[test]
    fn queues_come_in_pairs_and_the_second_pair_is_for_messages() {
        let purposes: Vec<_> = (0..8).map(Purpose::of).collect();
        assert_eq!(
            purposes,
            [
                Purpose::Receive(0),
                Purpose::Transmit(0),
                Purpose::ControlReceive,
                Purpose::ControlTransmit,
                Purpose::Receive(1),
                Purpose::Transmit(1),
                Purpose::Receive(2),
                Purpose::Transmit(2),
            ]
        );
        for port in 0..31 {
            assert_eq!(Purpose::of(receive_queue(port)), Purpose::Receive(port));
            assert_eq!(Purpose::of(receive_queue(port) + 1), Purpose::Transmit(port));
        }
    }
}
