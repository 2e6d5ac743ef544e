//! The port of the console device that leads to the host (virtio 1.2, section 5.3).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tern_command_protocol::{FromGuest, Message, PORT};

/// Where Linux shows the ports of all console devices.
const PORTS: &str = "/sys/class/virtio-ports";

/// How long the driver may take to find the port, and how often it is looked.
const PATIENCE: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(3);

/// Opens the port, which may still be on its way.
pub(crate) fn open() -> io::Result<File> {
    let begun = Instant::now();
    loop {
        if let Some(path) = find()
            && let Ok(file) = OpenOptions::new().read(true).write(true).open(path)
        {
            return Ok(file);
        }
        if begun.elapsed() > PATIENCE {
            return Err(io::Error::other(format!(
                "there is no port '{PORT}' (is there the driver virtio_console?)"
            )));
        }
        thread::sleep(LOOK);
    }
}

fn find() -> Option<PathBuf> {
    let ports = fs::read_dir(PORTS).ok()?.filter_map(Result::ok);
    ports
        .filter(|port| fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim_end() == PORT))
        .map(|port| PathBuf::from("/dev").join(port.file_name()))
        .next()
}

/// The way to the host, for several threads.
#[derive(Debug)]
pub(crate) struct Sender(Mutex<File>);

impl Sender {
    pub(crate) fn new(port: File) -> Self {
        Self(Mutex::new(port))
    }

    pub(crate) fn send(&self, message: &FromGuest) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&message.bytes())
    }
}
