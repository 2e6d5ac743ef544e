//! What a driver asks for (virtio 1.2, section 5.2.6).
//!
//! ```text
//!  readable: [ type, reserved, sector ][ data to write, or a range ]      writable: [ data to read ][ status ]
//! ```
//!
//! However the driver cuts this into descriptors, it is taken for what it says.

use tern_engine::GuestMemory;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use super::config::{RANGES, SECTOR};
use crate::queue::{Chain, Segments, Violation};

/// Bytes of a request's header.
const HEADER: usize = 16;
/// Bytes of a range.
const RANGE: usize = 16;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    IoError,
    Unsupported,
}

impl Status {
    /// As the driver reads it.
    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::Ok => VIRTIO_BLK_S_OK as u8,
            Self::IoError => VIRTIO_BLK_S_IOERR as u8,
            Self::Unsupported => VIRTIO_BLK_S_UNSUPP as u8,
        }
    }
}

/// A part of the disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub offset: u64,
    pub length: u64,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// To fill the data with what is at this offset, in bytes.
    Read(u64),
    /// To put the data there.
    Write(u64),
    /// To make all writes last.
    Flush,
    /// The serial number.
    Serial,
    /// To forget a range.
    Discard(Range),
    /// To fill a range with zeros; whether it may lose its place in the image.
    WriteZeroes(Range, bool),
    /// What cannot be done.
    Refused(Status),
}

/// A request, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// What is asked for.
    pub wanted: Wanted,
    /// What is to be written or read.
    pub data: Segments,
    /// How it is answered.
    pub answer: Answer,
}

/// What a request's answer takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// By which the driver knows the request.
    pub head: u16,
    /// Where the status goes.
    pub status: Segments,
    /// Bytes that count as written when the status is: all that may be, since it is the last of them.
    pub written: u32,
}

impl Request {
    /// Takes a buffer apart.
    ///
    /// # Errors
    /// It has no room for a header or a status.
    pub(super) fn read(memory: &GuestMemory, chain: Chain) -> Result<Self, Violation> {
        let Chain { head, mut readable, mut writable } = chain;
        let header = readable.take_front(HEADER as u64);
        let header = header.ok_or(Violation::Request("a block request is shorter than its header"))?;
        let written = u32::try_from(writable.total()).unwrap_or(u32::MAX);
        let status = writable.take_back(1);
        let status = status.ok_or(Violation::Request("a block request has no room for its status"))?;
        let mut bytes = [0; HEADER];
        header.read(memory, &mut bytes).map_err(|_| Violation::Host)?;
        let [kind, _, low, high] = words(&bytes);
        let sector = u64::from(low) | u64::from(high) << 32;
        let offset = sector.checked_mul(SECTOR);
        let refused = |status| Wanted::Refused(status);
        let (wanted, data) = match kind {
            VIRTIO_BLK_T_IN => (offset.map_or(refused(Status::IoError), Wanted::Read), writable),
            VIRTIO_BLK_T_OUT => (offset.map_or(refused(Status::IoError), Wanted::Write), readable),
            VIRTIO_BLK_T_FLUSH => (Wanted::Flush, Segments::default()),
            VIRTIO_BLK_T_GET_ID => (Wanted::Serial, writable),
            VIRTIO_BLK_T_DISCARD => {
                let wanted = range(memory, &readable)?.map_or_else(refused, |(range, flags)| match flags {
                    0 => Wanted::Discard(range),
                    _ => refused(Status::Unsupported),
                });
                (wanted, Segments::default())
            }
            VIRTIO_BLK_T_WRITE_ZEROES => {
                let wanted = range(memory, &readable)?.map_or_else(refused, |(range, flags)| match flags {
                    0 => Wanted::WriteZeroes(range, false),
                    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP => Wanted::WriteZeroes(range, true),
                    _ => refused(Status::Unsupported),
                });
                (wanted, Segments::default())
            }
            _ => (refused(Status::Unsupported), Segments::default()),
        };
        Ok(Self { wanted, data, answer: Answer { head, status, written } })
    }
}

/// The one range of a discard or a write of zeros, with its flags.
fn range(memory: &GuestMemory, data: &Segments) -> Result<Result<(Range, u32), Status>, Violation> {
    if data.total() != RANGE as u64 * u64::from(RANGES) {
        return Ok(Err(Status::IoError));
    }
    let mut bytes = [0; RANGE];
    data.read(memory, &mut bytes).map_err(|_| Violation::Host)?;
    let [low, high, sectors, flags] = words(&bytes);
    let offset = (u64::from(low) | u64::from(high) << 32).checked_mul(SECTOR);
    let range = offset.map(|offset| (Range { offset, length: u64::from(sectors) * SECTOR }, flags));
    Ok(range.ok_or(Status::IoError))
}

fn words(bytes: &[u8; 16]) -> [u32; 4] {
    let (words, _) = bytes.as_chunks::<4>();
    std::array::from_fn(|index| u32::from_le_bytes(words[index]))
}
