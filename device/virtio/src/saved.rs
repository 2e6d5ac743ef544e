//! What devices hold beside their queues and registers.

use serde::{Deserialize, Serialize};

use crate::console::{PortState, Say};

/// What a device holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// Nothing.
    Nothing,
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
