//! The block device (virtio 1.2, section 5.2): a disk of the host, with as many queues as it is to have.
//!
//! ```text
//!  queue n ──▶ worker n: request.rs reads what is asked for ──▶ Lane::submit ──▶ the host
//!          ◀── status, used ring ◀── Lane::completions ◀──────────────────────────┘
//! ```

mod config;
mod request;
#[cfg(test)]
mod tests;
mod worker;

use std::io;
use std::sync::Arc;

use tern_disk::Disk;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use crate::device::{Duty, Identity, VirtioDevice};
use crate::feature::bit;
use crate::session::Session;
use worker::Serving;

/// Entries of a queue.
const QUEUE_SIZE: u16 = 256;
/// Pieces of data that a request may have: header and status take a descriptor each.
const SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// The most queues.
pub const MOST_QUEUES: u16 = 64;

/// What the guest may read as the disk's serial number: ASCII, padded with zeros.
type Serial = [u8; VIRTIO_BLK_ID_BYTES as usize];

/// The device.
#[derive(Debug)]
pub struct Block {
    disk: Arc<dyn Disk>,
    serial: Serial,
    queues: Vec<u16>,
}

impl Block {
    /// A device for `disk`, with this serial number, of which what is not printable ASCII is left out and 20 characters are
    /// seen, and 1 to [`MOST_QUEUES`] queues.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, serial: &str, queues: u16) -> Self {
        let mut bytes = Serial::default();
        for (place, character) in bytes.iter_mut().zip(serial.bytes().filter(u8::is_ascii_graphic)) {
            *place = character;
        }
        let queues = vec![QUEUE_SIZE; queues.clamp(1, MOST_QUEUES).into()];
        Self { disk, serial: bytes, queues }
    }
}

impl VirtioDevice for Block {
    fn identity(&self) -> Identity {
        // Mass storage, of no more special kind.
        Identity { id: VIRTIO_ID_BLOCK as u16, class: 0x01_80_00 }
    }

    fn features(&self) -> u64 {
        let may_write = !self.disk.is_read_only();
        let offered = [
            (VIRTIO_BLK_F_SEG_MAX, true),
            (VIRTIO_BLK_F_BLK_SIZE, true),
            (VIRTIO_BLK_F_TOPOLOGY, true),
            (VIRTIO_BLK_F_FLUSH, true),
            (VIRTIO_BLK_F_RO, !may_write),
            (VIRTIO_BLK_F_MQ, self.queues.len() > 1),
            (VIRTIO_BLK_F_DISCARD, may_write && self.disk.discard().is_some()),
            (VIRTIO_BLK_F_WRITE_ZEROES, may_write && self.disk.write_zeroes().is_some()),
        ];
        offered.iter().filter(|(_, is_offered)| *is_offered).map(|(number, _)| bit(*number)).sum()
    }

    fn queues(&self) -> &[u16] {
        &self.queues
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // There are few queues.
        config::read(&*self.disk, self.queues.len() as u16, offset, data);
    }

    fn start(&self, session: &Session) -> io::Result<Vec<Duty>> {
        let mut duties = Vec::new();
        for index in 0..self.queues.len() as u16 {
            let lane = self.disk.open_lane().map_err(io::Error::other)?;
            let worker = Box::new(Serving::new(session.clone(), index, lane, self.serial));
            duties.push(Duty { queues: index..index + 1, worker });
        }
        Ok(duties)
    }
}
