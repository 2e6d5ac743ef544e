//! The socket device (virtio 1.2, section 5.10): streams between programs of the guest and programs of the host, which use Unix
//! sockets.
//!
//! ```text
//!  packet.rs      headers
//!  connection.rs  one connection: credit, data, ends
//!  host.rs        Unix sockets
//!  worker.rs      the queues, and which packet belongs to which connection
//! ```

mod connection;
mod host;
mod packet;
#[cfg(test)]
mod tests;
mod worker;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tern_chipset::InvalidState;
use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

use crate::device::{Duty, Identity, OTHER_DEVICE, VirtioDevice};
use crate::saved::DeviceState;
use crate::session::Session;
use crate::socket::{ListenError, Listener};
use worker::Carrying;

/// Entries of the queues: receive, transmit, events.
const QUEUES: [u16; 3] = [256, 256, 16];

/// The guest's address if nobody chooses another: the first that is free.
pub const DEFAULT_CID: u32 = 3;

/// The device.
#[derive(Debug)]
pub struct Vsock {
    cid: u64,
    listener: Arc<Listener>,
    /// The guest is to be told that all connections are gone, since it came here without them.
    has_moved: Arc<AtomicBool>,
}

impl Vsock {
    /// A device whose guest has the address `cid`, 3 or more, and is reached at the Unix socket `path`.
    ///
    /// # Errors
    /// There can be no such socket.
    pub fn new(cid: u32, path: &Path) -> Result<Self, ListenError> {
        let listener = Arc::new(Listener::bind(path)?);
        Ok(Self { cid: cid.into(), listener, has_moved: Arc::default() })
    }
}

impl VirtioDevice for Vsock {
    fn identity(&self) -> Identity {
        // Communication, of no more special kind.
        Identity { id: VIRTIO_ID_VSOCK as u16, class: 0x07_80_00 }
    }

    fn features(&self) -> u64 {
        // Without any, the device has streams.
        0
    }

    fn queues(&self) -> &[u16] {
        &QUEUES
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (byte, value) in data.iter_mut().zip(self.cid.to_le_bytes().iter().skip(start)) {
            *byte = *value;
        }
    }

    fn start(&self, session: &Session) -> io::Result<Vec<Duty>> {
        let (listener, has_moved) = (Arc::clone(&self.listener), Arc::clone(&self.has_moved));
        let worker = Carrying::new(session.clone(), self.cid, listener, has_moved)?;
        Ok(vec![Duty { queues: 0..3, worker: Box::new(worker) }])
    }

    fn reset(&self) {
        self.has_moved.store(false, Ordering::SeqCst);
    }

    /// Connections lead to programs of this host, and do not go along.
    fn save(&self) -> DeviceState {
        DeviceState::Vsock { cid: self.cid }
    }

    fn restore(&self, state: &DeviceState) -> Result<(), InvalidState> {
        match state {
            DeviceState::Vsock { cid } if *cid == self.cid => {
                self.has_moved.store(true, Ordering::SeqCst);
                Ok(())
            }
            DeviceState::Vsock { .. } => {
                Err(InvalidState { device: "virtio socket device", reason: "its guest has another address" })
            }
            _ => Err(OTHER_DEVICE),
        }
    }
}
