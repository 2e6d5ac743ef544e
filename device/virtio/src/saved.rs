//! What devices hold beside their queues and registers.

use serde::{Deserialize, Serialize};

/// What a device holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceState {
    /// Nothing.
    Nothing,
    /// A socket device.
    Vsock {
        /// The guest's address.
        cid: u64,
    },
}
