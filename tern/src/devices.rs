//! From words to the devices on the machine's PCI bus.

use std::sync::Arc;

use tern_virtio::rng::Rng;
use tern_vmm::config::DeviceConfig;

use crate::cli::{RunArguments, Switch};

/// The devices that the command line asks for, in the order in which the guest finds them.
pub(crate) fn of(arguments: &RunArguments) -> Vec<DeviceConfig> {
    let mut devices = Vec::new();
    if arguments.rng == Switch::On {
        devices.push(DeviceConfig { name: "rng".to_owned(), device: Arc::new(Rng) });
    }
    devices
}
