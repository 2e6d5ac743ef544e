//! Messages about ports (virtio 1.2, section 5.3.6.2).

/// Bytes of a message without what follows it.
pub const SIZE: usize = 8;

use serde::{Deserialize, Serialize};

/// A terminal's size, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Characters in a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// What the driver says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It is ready to hear of ports, or (`false`) could not make itself so.
    DeviceReady(bool),
    /// The port can be used, or (`false`) could not be made usable.
    PortReady(u32, bool),
    /// A program has opened (`true`) or closed the port.
    PortOpen(u32, bool),
    /// Something else.
    Other,
}

impl Said {
    /// Reads a message.
    pub fn parse(bytes: &[u8; SIZE]) -> Self {
        let [a, b, c, d, event, high, value @ ..] = *bytes;
        let port = u32::from_le_bytes([a, b, c, d]);
        let value = value != [0; 2];
        match u16::from_le_bytes([event, high]) {
            0 => Self::DeviceReady(value),
            3 => Self::PortReady(port, value),
            6 => Self::PortOpen(port, value),
            _ => Self::Other,
        }
    }
}

/// What the device says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Say {
    /// There is this port.
    PortAdd(u32),
    /// It is a console.
    ConsolePort(u32),
    /// Its terminal has this size.
    Resize(u32, Size),
    /// A program of the host has opened (`true`) or closed it.
    PortOpen(u32, bool),
    /// It has this name.
    PortName(u32, String),
}

impl Say {
    /// The port that it is about.
    pub const fn port(&self) -> u32 {
        match self {
            Self::PortAdd(port)
            | Self::ConsolePort(port)
            | Self::Resize(port, _)
            | Self::PortOpen(port, _)
            | Self::PortName(port, _) => *port,
        }
    }

    /// As it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        let (port, event, value) = match self {
            Self::PortAdd(port) => (port, 1_u16, 1_u16),
            Self::ConsolePort(port) => (port, 4, 1),
            Self::Resize(port, _) => (port, 5, 0),
            Self::PortOpen(port, is_open) => (port, 6, u16::from(*is_open)),
            Self::PortName(port, _) => (port, 7, 1),
        };
        let mut bytes = port.to_le_bytes().to_vec();
        bytes.extend(event.to_le_bytes());
        bytes.extend(value.to_le_bytes());
        match self {
            Self::Resize(_, Size { columns, rows }) => {
                bytes.extend(columns.to_le_bytes());
                bytes.extend(rows.to_le_bytes());
            }
            Self::PortName(_, name) => bytes.extend(name.bytes()),
            _ => {}
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_a_port_an_event_and_a_value() {
        assert_eq!(Say::PortAdd(2).bytes(), [2, 0, 0, 0, 1, 0, 1, 0]);
        assert_eq!(Say::PortOpen(1, false).bytes(), [1, 0, 0, 0, 6, 0, 0, 0]);
        let size = Size { columns: 132, rows: 0x118 };
        assert_eq!(Say::Resize(0, size).bytes(), [0, 0, 0, 0, 5, 0, 0, 0, 132, 0, 0x18, 1]);
        assert_eq!(Say::PortName(3, "org".into()).bytes(), *b"\x03\0\0\0\x07\0\x01\0org");
        assert_eq!(Said::parse(&[0, 0, 0, 0, 0, 0, 1, 0]), Said::DeviceReady(true));
        assert_eq!(Said::parse(&[5, 0, 0, 0, 3, 0, 0, 0]), Said::PortReady(5, false));
        assert_eq!(Said::parse(&[0, 0, 0, 1, 6, 0, 0, 1]), Said::PortOpen(1 << 24, true));
        assert_eq!(Said::parse(&[0; 8]), Said::DeviceReady(false));
        assert_eq!(Said::parse(&[0xff; 8]), Said::Other);
    }
}
