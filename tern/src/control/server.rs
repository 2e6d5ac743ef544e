//! The machine's side of its socket: a thread that waits for connections, and one for each of them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use tern_virtio::balloon::Balloon;
use tern_vmm::console::ConsoleInput;
use tern_vmm::machine::MachineHandle;

use super::hub::Hub;
use super::places::Claim;
use super::protocol::{Greeting, GuestMemory, LONGEST_LINE, Reply, Request, State, Status};
use crate::exit::Failure;
use crate::terminal::Stop;
use tern_engine::start_thread;

/// Connections at a time. More are closed at once.
const MOST_CONNECTIONS: usize = 64;

/// How long a guest that takes no input is waited for before it is looked whether there is still a machine.
const PATIENCE: Duration = Duration::from_millis(50);

/// How long a guest is waited for that is to tell of its memory. One that is slower has its last answer told.
const GUESTS_PATIENCE: Duration = Duration::from_millis(300);

/// What those who connect are told and given.
#[derive(Clone)]
pub(crate) struct Served(Arc<Shared>);

/// A machine that runs.
struct Running {
    machine: MachineHandle,
    /// Ends it by force.
    stop: Stop,
    input: ConsoleInput,
    /// It is the machine's.
    balloon: Weak<Balloon>,
}

struct Shared {
    status: Mutex<Status>,
    hub: Hub,
    running: OnceLock<Running>,
    connections: AtomicUsize,
}

impl Served {
    /// Begins to answer for a machine that is not there yet.
    ///
    /// # Errors
    /// The host gives no thread.
    pub(crate) fn start(claim: &Claim, status: Status, hub: &Hub) -> Result<Self, Failure> {
        let served = Self(Arc::new(Shared {
            status: Mutex::new(status),
            hub: hub.clone(),
            running: OnceLock::new(),
            connections: AtomicUsize::new(0),
        }));
        let answering = served.clone();
        let started = claim.listener().and_then(|listener| {
            start_thread("control", move || {
                for stream in listener.incoming() {
                    match stream {
                        Ok(stream) => answering.accept(stream),
                        // No descriptors are left; that passes.
                        Err(_) => thread::sleep(PATIENCE),
                    }
                }
            })
        });
        started.context("cannot answer for the machine").map_err(Failure::host)?;
        Ok(served)
    }

    /// The machine runs from now on, and is ended by force with `stop`. Its guest may tell of its memory by `balloon`.
    pub(crate) fn runs(
        &self,
        machine: MachineHandle,
        stop: Stop,
        input: ConsoleInput,
        balloon: &Weak<Balloon>,
    ) {
        // It is called once.
        let _ = self.0.running.set(Running { machine, stop, input, balloon: Weak::clone(balloon) });
        self.set(State::Running);
    }

    /// The machine has ended.
    pub(crate) fn ends(&self) {
        self.set(State::Ending);
    }

    fn set(&self, state: State) {
        self.0.status.lock().unwrap_or_else(PoisonError::into_inner).state = state;
    }

    fn status(&self) -> Status {
        self.0.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the guest, if there is a balloon.
    fn guest_memory(&self) -> Option<GuestMemory> {
        let balloon = self.0.running.get()?.balloon.upgrade()?;
        let told = balloon.statistics(GUESTS_PATIENCE)?;
        Some(GuestMemory {
            total: told.total,
            free: told.free,
            available: told.available,
            caches: told.caches,
            lent: balloon.actual(),
        })
    }

    fn accept(&self, stream: UnixStream) {
        let served = self.clone();
        if self.0.connections.fetch_add(1, Ordering::AcqRel) < MOST_CONNECTIONS {
            let talk = move || {
                // Whoever goes away in the middle has no use for an answer.
                let _ = served.talk(stream);
                served.0.connections.fetch_sub(1, Ordering::AcqRel);
            };
            if start_thread("connection", talk).is_ok() {
                return;
            }
        }
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
    }

    fn talk(&self, stream: UnixStream) -> io::Result<()> {
        let mut writer = stream.try_clone()?;
        let mut reader = BufReader::new(stream);
        say(&mut writer, &Greeting::of(&self.status().name))?;
        loop {
            let mut line = Vec::new();
            reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)?;
            if line.is_empty() {
                return Ok(());
            }
            match serde_json::from_slice(&line) {
                Ok(Request::Console) if self.0.running.get().is_some() => {
                    say(&mut writer, &Reply::done())?;
                    return self.console(writer, reader);
                }
                Ok(request) => say(&mut writer, &self.answer(request))?,
                Err(error) => {
                    let version = env!("CARGO_PKG_VERSION");
                    say(
                        &mut writer,
                        &Reply::refused(format!("tern {version} does not know this request: {error}")),
                    )?;
                    // Nobody knows where the next line of something else begins.
                    if !line.ends_with(b"\n") {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn answer(&self, request: Request) -> Reply {
        match (request, self.0.running.get()) {
            (Request::Status, _) => {
                Reply::status(Status { guest_memory: self.guest_memory(), ..self.status() })
            }
            (_, None) => Reply::refused("the machine is not running yet"),
            (Request::PowerButton, Some(Running { machine, .. })) => {
                machine.press_power_button();
                Reply::done()
            }
            (Request::Stop, Some(Running { stop, .. })) => {
                stop();
                Reply::done()
            }
            (Request::Console, Some(_)) => Reply::done(),
        }
    }

    /// Shows the console on this connection, and types what comes from it.
    fn console(&self, stream: UnixStream, mut reader: BufReader<UnixStream>) -> io::Result<()> {
        let Some(Running { input, .. }) = self.0.running.get() else { return Ok(()) };
        self.0.hub.show(stream)?;
        let mut buffer = [0; 4096];
        loop {
            let count = reader.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            let mut bytes = &buffer[..count];
            while !bytes.is_empty() {
                bytes = &bytes[input.offer(bytes).min(bytes.len())..];
                if !bytes.is_empty() {
                    input.wait_for_room(PATIENCE);
                }
            }
        }
    }
}

/// Sends a line.
fn say(writer: &mut impl Write, words: &impl serde::Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(words)?;
    line.push(b'\n');
    writer.write_all(&line)
}
