//! What devices hold beside their queues and registers.

use serde::{Deserialize, Serialize};

use crate::console::{PortState, Say};

/// What a device holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// Nothing.
    Nothing,
    /// A balloon.
    Balloon {
        /// How many pages the host wants.
        target: u32,
        /// How many the guest says that it has given.
        actual: u32,
        /// The buffer with which the driver can be asked for statistics.
        held: Option<u16>,
    },
    /// A console device.
    Console {
        /// Its ports.
        ports: Vec<PortState>,
        /// Messages that wait for the driver.
        messages: Vec<Say>,
    },
    /// A socket device.
    Vsock {
        /// The guest's address.
        cid: u64,
    },
}
