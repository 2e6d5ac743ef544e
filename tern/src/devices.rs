//! From words to the devices on the machine's PCI bus.

use std::path::Path;
use std::sync::Arc;

use tern_disk::DiskOptions;
use tern_virtio::block::Block;
use tern_virtio::device::VirtioDevice;
use tern_virtio::rng::Rng;
use tern_vmm::config::DeviceConfig;

use crate::cli::{RunArguments, Switch};
use crate::exit::Failure;

/// The most queues of a disk: each has a thread of its own on the host.
const MOST_DISK_QUEUES: u32 = 8;

/// The devices that the command line asks for, in the order in which the guest finds them.
///
/// # Errors
/// A disk cannot be opened.
pub(crate) fn of(arguments: &RunArguments) -> Result<Vec<DeviceConfig>, Failure> {
    let mut devices = Vec::new();
    for (number, options) in arguments.disks.iter().enumerate() {
        let disk = tern_disk::open(options)
            .map_err(|error| Failure::input(anyhow::Error::new(error)).context("cannot use a disk"))?;
        // As many as can be used at once.
        let queues = u16::try_from(arguments.cpus.min(MOST_DISK_QUEUES)).unwrap_or(1);
        let device = Block::new(disk, &serial(options), queues);
        devices.push(named(format!("disk{number}"), device));
    }
    if arguments.rng == Switch::On {
        devices.push(named("rng".to_owned(), Rng));
    }
    Ok(devices)
}

fn named(name: String, device: impl VirtioDevice + 'static) -> DeviceConfig {
    DeviceConfig { name, device: Arc::new(device) }
}

/// A disk's serial number is its file's name, by which a guest can tell disks apart (`/dev/disk/by-id`).
fn serial(options: &DiskOptions) -> String {
    let name = Path::new(&options.path).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}
