//! The console device (virtio 1.2, section 5.3) with several ports. Each leads to a Unix socket of the host, where one program at
//! a time may connect, or to whoever made the device; a port is a terminal of the guest's (`/dev/hvc0`) or a channel with a name (`/dev/vport0p1`).
//!
//! ```text
//!  control.rs  messages about ports
//!  port.rs     one port: the guest's end and the host's
//!  worker.rs   the queues
//! ```

mod control;
mod port;
#[cfg(test)]
mod tests;
mod worker;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{EventfdFlags, eventfd};
use serde::{Deserialize, Serialize};
use tern_chipset::InvalidState;
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

use crate::device::{Duty, Identity, OTHER_DEVICE, VirtioDevice};
use crate::feature::bit;
use crate::saved::DeviceState;
use crate::session::Session;
use crate::socket::{ListenError, Listener};
use worker::Talking;

pub use control::{Say, Size};

/// `cols` and `rows` are valid.
const F_SIZE: u64 = bit(0);
/// There are several ports, and messages about them.
const F_MULTIPORT: u64 = bit(1);

/// Entries of a queue.
const QUEUE_SIZE: u16 = 64;
/// The most ports.
pub const MOST_PORTS: usize = 31;
/// The most messages that wait for the driver when it is heard once more.
const MOST_MESSAGES: usize = 128;

/// A port, as the machine has it.
#[derive(Debug)]
pub struct PortConfig {
    /// Its name; a console has none.
    name: Option<String>,
    host: HostEnd,
}

/// Where a port leads on the host.
#[derive(Debug)]
enum HostEnd {
    /// To whoever connects.
    Listener(Listener),
    /// To whoever made the device, for good.
    Joined(UnixStream),
}

impl PortConfig {
    /// A channel with a name, reached at the Unix socket `path`.
    ///
    /// # Errors
    /// There can be no such socket.
    pub fn channel(name: &str, path: &Path) -> Result<Self, ListenError> {
        Ok(Self { name: Some(name.to_owned()), host: HostEnd::Listener(Listener::bind(path)?) })
    }

    /// A channel with a name that leads to the stream that is returned, and to nobody else.
    ///
    /// # Errors
    /// The host has no descriptors left.
    pub fn joined(name: &str) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((Self { name: Some(name.to_owned()), host: HostEnd::Joined(ours) }, theirs))
    }

    /// A terminal of the guest's, reached at the Unix socket `path`.
    ///
    /// # Errors
    /// There can be no such socket.
    pub fn terminal(path: &Path) -> Result<Self, ListenError> {
        Ok(Self { name: None, host: HostEnd::Listener(Listener::bind(path)?) })
    }
}

/// What the device holds of a port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortState {
    /// The driver can use it.
    pub is_ready: bool,
    /// A program of the guest has opened it.
    pub is_open: bool,
    /// The guest was told that the host has opened it.
    pub is_told: bool,
    /// The size of its terminal that the guest was told.
    pub told_size: Option<Size>,
}

/// The device.
#[derive(Debug)]
pub struct Console {
    ports: Arc<Vec<PortConfig>>,
    queues: Vec<u16>,
    shared: Arc<Shared>,
}

/// What the device shares with its worker.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There is something new for the worker.
    wake: OwnedFd,
}

#[derive(Debug)]
struct State {
    /// The terminals' size, by port.
    sizes: Vec<Option<Size>>,
    /// Answers to the driver.
    messages: VecDeque<Say>,
    ports: Vec<PortState>,
    session: Option<Session>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Console {
    /// A device with these ports, 1 to [`MOST_PORTS`].
    ///
    /// # Errors
    /// The host has no descriptors left, or there are too many ports or none.
    pub fn new(ports: Vec<PortConfig>) -> io::Result<Self> {
        if !(1..=MOST_PORTS).contains(&ports.len()) {
            return Err(io::Error::other(format!("a console device has 1 to {MOST_PORTS} ports")));
        }
        let state = State {
            sizes: vec![None; ports.len()],
            messages: VecDeque::new(),
            ports: vec![PortState::default(); ports.len()],
            session: None,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            wake: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
        });
        // A pair for each port, and one for messages.
        let queues = vec![QUEUE_SIZE; 2 * ports.len() + 2];
        Ok(Self { ports: Arc::new(ports), queues, shared })
    }

    /// The terminal at a port has this size from now on.
    pub fn resize(&self, port: usize, size: Size) {
        let mut state = self.shared.lock();
        let Some(place) = state.sizes.get_mut(port) else { return };
        if place.replace(size) == Some(size) {
            return;
        }
        // A driver of several ports is told by a message, any other by the configuration.
        if let Some(session) = state.session.as_ref().filter(|session| !session.has(F_MULTIPORT)) {
            session.config_changed();
        }
        drop(state);
        // It fails if nobody has taken 2^64 signals: then one is waiting.
        let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
    }
}

impl VirtioDevice for Console {
    fn identity(&self) -> Identity {
        // Communication, of no more special kind.
        Identity { id: VIRTIO_ID_CONSOLE as u16, class: 0x07_80_00 }
    }

    fn features(&self) -> u64 {
        F_SIZE | F_MULTIPORT
    }

    fn queues(&self) -> &[u16] {
        &self.queues
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let Size { columns, rows } = self.shared.lock().sizes[0].unwrap_or(Size { columns: 80, rows: 25 });
        let mut bytes = [0; 12];
        bytes[..2].copy_from_slice(&columns.to_le_bytes());
        bytes[2..4].copy_from_slice(&rows.to_le_bytes());
        bytes[4..8].copy_from_slice(&(self.ports.len() as u32).to_le_bytes());
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (byte, value) in data.iter_mut().zip(bytes.iter().skip(start)) {
            *byte = *value;
        }
    }

    fn start(&self, session: &Session) -> io::Result<Vec<Duty>> {
        let worker = Talking::new(session.clone(), Arc::clone(&self.ports), Arc::clone(&self.shared))?;
        self.shared.lock().session = Some(session.clone());
        Ok(vec![Duty { queues: 0..self.queues.len() as u16, worker: Box::new(worker) }])
    }

    fn reset(&self) {
        let mut state = self.shared.lock();
        state.session = None;
        state.messages.clear();
        state.ports.fill(PortState::default());
    }

    /// Programs of this host do not go along.
    fn save(&self) -> DeviceState {
        let state = self.shared.lock();
        let messages = state.messages.iter().cloned().collect();
        DeviceState::Console { ports: state.ports.clone(), messages }
    }

    fn restore(&self, saved: &DeviceState) -> Result<(), InvalidState> {
        let DeviceState::Console { ports, messages } = saved else { return Err(OTHER_DEVICE) };
        let invalid = |reason| Err(InvalidState { device: "virtio console device", reason });
        let mut state = self.shared.lock();
        if ports.len() != state.ports.len() {
            return invalid("it has another number of ports");
        }
        // One message of the driver's may have made several.
        if messages.len() > MOST_MESSAGES + 2 * MOST_PORTS {
            return invalid("more messages wait for the driver than can");
        }
        if messages.iter().any(|message| message.port() as usize >= ports.len()) {
            return invalid("a message for the driver is about a port that does not exist");
        }
        state.ports.clone_from(ports);
        state.messages = messages.iter().cloned().collect();
        Ok(())
    }
}
