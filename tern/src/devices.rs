//! From words to the devices on the machine's PCI bus.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Weak};

use signal_hook::consts::SIGWINCH;
use signal_hook::iterator::Signals;
use tern_disk::DiskOptions;
use tern_virtio::balloon::Balloon;
use tern_virtio::block::Block;
use tern_virtio::console::{Console, PortConfig, Size};
use tern_virtio::device::VirtioDevice;
use tern_virtio::rng::Rng;
use tern_virtio::vsock::{DEFAULT_CID, Vsock};
use tern_vmm::config::DeviceConfig;

use crate::cli::{RunArguments, Switch};
use crate::exit::Failure;
use crate::panics;
use crate::terminal;
use tern_engine::start_thread;

/// The most queues of a disk: each has a thread of its own on the host.
const MOST_DISK_QUEUES: u32 = 8;

/// The machine's devices.
pub(crate) struct Devices {
    /// All of them, in the order in which the guest finds them.
    pub all: Vec<DeviceConfig>,
    /// The balloon among them, for whoever wants to know of the guest's memory.
    pub balloon: Weak<Balloon>,
}

/// The devices that the command line asks for, in the order in which the guest finds them; before them the disk `system`, if the
/// guest's image has one. The console device has the port `joined`, too.
///
/// # Errors
/// A disk cannot be opened.
pub(crate) fn of(
    arguments: &RunArguments,
    system: Option<&DiskOptions>,
    cpus: u32,
    joined: Option<PortConfig>,
) -> Result<Devices, Failure> {
    let mut devices = Vec::new();
    let mut balloon = Weak::new();
    for (number, options) in system.into_iter().chain(&arguments.disks).enumerate() {
        let disk = tern_disk::open(options)
            .map_err(|error| Failure::input(anyhow::Error::new(error)).context("cannot use a disk"))?;
        panics::protect(&disk);
        // As many as can be used at once.
        let queues = u16::try_from(cpus.min(MOST_DISK_QUEUES)).unwrap_or(1);
        let device = Block::new(disk, &serial(options), queues);
        devices.push(named(format!("disk{number}"), device));
    }
    if !arguments.consoles.is_empty() || joined.is_some() {
        let device = console(&arguments.consoles, joined)?;
        devices.push(DeviceConfig { name: "console".to_owned(), device });
    }
    if let Some(VsockOptions { path, cid }) = &arguments.vsock {
        let device = Vsock::new(*cid, path).map_err(|error| {
            Failure::input(anyhow::Error::new(error)).context("cannot give the guest sockets")
        })?;
        devices.push(named("vsock".to_owned(), device));
    }
    if let Some(target) = arguments.balloon {
        let device = Balloon::new(target).map_err(|error| {
            Failure::host(anyhow::Error::new(error)).context("cannot make a balloon for the guest's memory")
        })?;
        let device = Arc::new(device);
        balloon = Arc::downgrade(&device);
        devices.push(DeviceConfig { name: "balloon".to_owned(), device });
    }
    if arguments.rng == Switch::On {
        devices.push(named("rng".to_owned(), Rng));
    }
    Ok(Devices { all: devices, balloon })
}

/// The console device with all its ports. The guest's terminals are as large as the user's.
fn console(options: &[ConsoleOptions], joined: Option<PortConfig>) -> Result<Arc<Console>, Failure> {
    let refused =
        |error: anyhow::Error| Failure::input(error).context("cannot give the guest terminals and channels");
    let mut ports = Vec::new();
    for ConsoleOptions { path, name } in options {
        let port = match name {
            Some(name) => PortConfig::channel(name, path),
            None => PortConfig::terminal(path),
        };
        ports.push(port.map_err(|error| refused(error.into()))?);
    }
    ports.extend(joined);
    let console = Arc::new(Console::new(ports).map_err(|error| refused(error.into()))?);
    follow_size(&console, options.len());
    Ok(console)
}

/// Lets the ports be as large as the user's terminal, now and whenever that changes.
fn follow_size(console: &Arc<Console>, ports: usize) {
    let follow = move |console: &Console| {
        if let Some((columns, rows)) = terminal::size() {
            (0..ports).for_each(|port| console.resize(port, Size { columns, rows }));
        }
    };
    follow(console);
    // Without the host's help the size stays as it is now. The thread must not keep the device.
    let console = Arc::downgrade(console);
    if let Ok(mut changes) = Signals::new([SIGWINCH]) {
        let wait = move || {
            for _ in changes.forever() {
                let Some(console) = console.upgrade() else { return };
                follow(&console);
            }
        };
        let _ = start_thread("size", wait);
    }
}

/// A port of the console device, as the command line describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConsoleOptions {
    /// The Unix socket.
    path: PathBuf,
    /// A channel's name; a terminal has none.
    name: Option<String>,
}

/// As long as the driver has room for, in bytes.
const LONGEST_NAME: usize = 64;

impl FromStr for ConsoleOptions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, name) = match text.rsplit_once(",name=") {
            Some((path, name)) => (path, Some(name)),
            None => (text, None),
        };
        if path.is_empty() {
            return Err("the path of a Unix socket is missing".to_owned());
        }
        let is_good = |name: &str| {
            !name.is_empty() && name.len() <= LONGEST_NAME && name.bytes().all(|byte| byte.is_ascii_graphic())
        };
        if let Some(name) = name.filter(|name| !is_good(name)) {
            return Err(format!(
                "a channel's name is 1 to {LONGEST_NAME} printable characters, not '{name}'"
            ));
        }
        Ok(Self { path: path.into(), name: name.map(str::to_owned) })
    }
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
    fn a_port_is_a_terminal_or_a_channel_with_a_name() {
        let options = |path: &str, name: Option<&str>| {
            Ok(ConsoleOptions { path: path.into(), name: name.map(str::to_owned) })
        };
        assert_eq!("t.sock".parse(), options("t.sock", None));
        assert_eq!("c,d.sock,name=org.tern.agent".parse(), options("c,d.sock", Some("org.tern.agent")));
        for wrong in ["", ",name=x", "c.sock,name=", "c.sock,name=a b"] {
            assert!(wrong.parse::<ConsoleOptions>().is_err(), "{wrong}");
        }
    }

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
