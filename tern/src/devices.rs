//! From words to the devices on the machine's PCI bus.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use tern_disk::DiskOptions;
use tern_virtio::block::Block;
use tern_virtio::device::VirtioDevice;
use tern_virtio::rng::Rng;
use tern_virtio::vsock::{DEFAULT_CID, Vsock};
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
    if let Some(VsockOptions { path, cid }) = &arguments.vsock {
        let device = Vsock::new(*cid, path).map_err(|error| {
            Failure::input(anyhow::Error::new(error)).context("cannot give the guest sockets")
        })?;
        devices.push(named("vsock".to_owned(), device));
    }
    if arguments.rng == Switch::On {
        devices.push(named("rng".to_owned(), Rng));
    }
    Ok(devices)
}

/// A socket device, as the command line describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct VsockOptions {
    /// The Unix socket.
    path: PathBuf,
    /// The guest's address.
    cid: u32,
}

impl FromStr for VsockOptions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, cid) = match text.rsplit_once(",cid=") {
            // 0 to 2 and the last one have other meanings.
            Some((path, cid)) => match cid.parse() {
                Ok(cid) if (DEFAULT_CID..u32::MAX).contains(&cid) => (path, cid),
                _ => return Err(format!("a guest's address is a number from {DEFAULT_CID} on, not '{cid}'")),
            },
            None => (text, DEFAULT_CID),
        };
        if path.is_empty() {
            return Err("the path of a Unix socket is missing".to_owned());
        }
        Ok(Self { path: path.into(), cid })
    }
}

fn named(name: String, device: impl VirtioDevice + 'static) -> DeviceConfig {
    DeviceConfig { name, device: Arc::new(device) }
}

/// A disk's serial number is its file's name, by which a guest can tell disks apart (`/dev/disk/by-id`).
fn serial(options: &DiskOptions) -> String {
    let name = Path::new(&options.path).file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_device_has_a_path_and_perhaps_an_address() {
        let options = |path: &str, cid| Ok(VsockOptions { path: path.into(), cid });
        assert_eq!("v.sock".parse(), options("v.sock", 3));
        assert_eq!("a,b.sock,cid=42".parse(), options("a,b.sock", 42));
        for wrong in ["", ",cid=4", "v.sock,cid=2", "v.sock,cid=x", "v.sock,cid=4294967295"] {
            assert!(wrong.parse::<VsockOptions>().is_err(), "{wrong}");
        }
    }
}
