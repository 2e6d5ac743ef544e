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

/// How long the driver may take to find the port. Guests that are compared with the interpreter on a busy host have taken minutes.
const PATIENCE: Duration = Duration::from_secs(600);

/// After how long it is told on the guest's console that there is none yet.
const SOON: Duration = Duration::from_secs(30);

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(3);

/// Opens the port, which may still be on its way.
pub(crate) fn open() -> io::Result<File> {
    let begun = Instant::now();
    let missing = |still| format!("there is {still} port '{PORT}' (is there the driver virtio_console?)");
    let mut is_told = false;
    loop {
        if let Some(path) = find()
            && let Ok(file) = OpenOptions::new().read(true).write(true).open(path)
        {
            return Ok(file);
        }
        if begun.elapsed() > PATIENCE {
            return Err(io::Error::other(missing("no")));
        }
        if !is_told && begun.elapsed() > SOON {
            eprintln!("tern's agent: {}", missing("still no"));
            is_told = true;
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
