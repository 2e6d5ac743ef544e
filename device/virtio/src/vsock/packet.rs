//! A packet's header, `virtio_vsock_hdr` (virtio 1.2, section 5.10.6).

use bitflags::bitflags;

/// Bytes of a header.
pub const SIZE: usize = 44;

/// The host's address.
pub const HOST_CID: u64 = 2;
/// A byte stream, the only type that there is here.
pub const STREAM: u16 = 1;

/// What a packet is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// To open a connection.
    Request,
    /// To accept one.
    Response,
    /// To end one at once, or to refuse it.
    Reset,
    /// To end a direction, or both.
    Shutdown,
    /// Data.
    ReadWrite,
    /// To tell of room in buffers.
    CreditUpdate,
    /// To ask for that.
    CreditRequest,
}

impl Operation {
    const fn from_number(number: u16) -> Option<Self> {
        Some(match number {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::ReadWrite,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }

    const fn number(self) -> u16 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
            Self::Reset => 3,
            Self::Shutdown => 4,
            Self::ReadWrite => 5,
            Self::CreditUpdate => 6,
            Self::CreditRequest => 7,
        }
    }
}

bitflags! {
    /// The flags of a shutdown: what its sender will not do any more.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    pub struct Ended: u32 {
        /// It receives nothing more.
        const RECEIVE = 1 << 0;
        /// It sends nothing more.
        const SEND = 1 << 1;
    }
}

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Who sends it.
    pub source: Address,
    /// Who is to get it.
    pub destination: Address,
    /// Bytes of data that follow.
    pub length: u32,
    /// The type of the socket.
    pub kind: u16,
    /// What it is for; `None` for a number without meaning.
    pub operation: Option<Operation>,
    /// Of a shutdown.
    pub flags: u32,
    /// Bytes of the sender's receive buffer.
    pub buffer: u32,
    /// How many bytes the sender has taken out of it, modulo 2^32.
    pub forwarded: u32,
}

/// An end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    /// The machine.
    pub cid: u64,
    /// The port.
    pub port: u32,
}

impl Header {
    /// Reads a header.
    pub fn parse(bytes: &[u8; SIZE]) -> Self {
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|index| bytes[at + index]));
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self {
            source: Address { cid: long(0), port: word(16) },
            destination: Address { cid: long(8), port: word(20) },
            length: word(24),
            kind: half(28),
            operation: Operation::from_number(half(30)),
            flags: word(32),
            buffer: word(36),
            forwarded: word(40),
        }
    }

    /// As it is sent.
    pub fn bytes(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &self.source.cid.to_le_bytes());
        put(8, &self.destination.cid.to_le_bytes());
        put(16, &self.source.port.to_le_bytes());
        put(20, &self.destination.port.to_le_bytes());
        put(24, &self.length.to_le_bytes());
        put(28, &self.kind.to_le_bytes());
        put(30, &self.operation.map_or(0, Operation::number).to_le_bytes());
        put(32, &self.flags.to_le_bytes());
        put(36, &self.buffer.to_le_bytes());
        put(40, &self.forwarded.to_le_bytes());
        bytes
    }

    /// The packet that refuses this one.
    pub const fn refusal(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            length: 0,
            kind: STREAM,
            operation: Some(Operation::Reset),
            flags: 0,
            buffer: 0,
            forwarded: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_as_it_is_written() {
        let header = Header {
            source: Address { cid: 3, port: 0x1_0001 },
            destination: Address { cid: 0x1_0000_0002, port: 52 },
            length: 7,
            kind: STREAM,
            operation: Some(Operation::ReadWrite),
            flags: 1,
            buffer: 0x4_0000,
            forwarded: u32::MAX,
        };
        let bytes = header.bytes();
        assert_eq!((bytes[0], bytes[12], bytes[24], bytes[28], bytes[30]), (3, 1, 7, 1, 5));
        assert_eq!(Header::parse(&bytes), header);
    }

    #[test]
    fn every_operation_has_a_number_and_others_have_no_meaning() {
        for number in 0..=u16::MAX {
            match Operation::from_number(number) {
                Some(operation) => assert_eq!(operation.number(), number),
                None => assert!(number == 0 || number > 7),
            }
        }
    }
}
