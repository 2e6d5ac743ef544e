//! A device that stands still, as a value.

use serde::{Deserialize, Serialize};
use tern_chipset::pci::EndpointState;

use super::status::Status;
use crate::interrupts;
use crate::queue::{Progress, QueueSetup};
use crate::saved::DeviceState;

/// A virtio device on the PCI bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The configuration space.
    pub endpoint: EndpointState,
    /// Its interrupts.
    pub interrupts: interrupts::State,
    /// The common configuration.
    pub common: CommonState,
    /// How often the device's configuration has changed, modulo 256.
    pub generation: u8,
    /// Whether the device needs a reset.
    pub is_broken: bool,
    /// The queues.
    pub queues: Vec<QueueState>,
    /// What is the device's own.
    pub device: DeviceState,
}

/// The common configuration's registers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommonState {
    /// Which half of the device's features is shown.
    pub device_feature_select: u32,
    /// Which half of the driver's features is shown.
    pub driver_feature_select: u32,
    /// The features that the driver accepts.
    pub driver_features: u64,
    /// Whether it accepts some that do not exist.
    pub accepted_unknown: bool,
    /// How far driver and device have come.
    pub status: Status,
    /// The selected queue.
    pub queue_select: u16,
}

/// A queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    /// How it is set up.
    pub setup: QueueSetup,
    /// Whether it is used.
    pub is_enabled: bool,
    /// How far it is.
    pub progress: Progress,
}
