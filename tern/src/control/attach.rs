//! `tern console`: the terminal as the console of a machine that runs elsewhere.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::Context;

use super::client::Machine;
use super::protocol::Request;
use crate::exit::{Code, Failure};
use crate::terminal::{self, Console, ConsoleInput, Leaving};
use tern_engine::start_thread;

/// How long a machine that takes no input is waited for before the terminal is looked at again.
const PATIENCE: Duration = Duration::from_millis(20);

/// Shows the console of the machine of this name until it ends, or the user leaves.
pub(crate) fn attach(name: &str, quiet: bool) -> Result<Code, Failure> {
    let mut machine = Machine::find(name)?;
    machine.ask(Request::Console)?;
    let failed =
        |error: io::Error| Failure::host(anyhow::Error::new(error).context("cannot show the console"));
    let (mut reader, writer) = machine.into_console().map_err(failed)?;
    writer.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    let console = Console::open(quiet, "Ctrl-] leaves, and the machine goes on")
        .context("cannot use standard input and output as a console")
        .map_err(Failure::host)?;
    let (over, wait) = mpsc::channel();
    let left = over.clone();
    let stop = move || {
        let _ = left.send(());
    };
    console.connect(Arc::new(Typing(Mutex::new(writer))), Arc::new(stop)).map_err(failed)?;
    let mut output = console.output();
    let show = move || {
        let mut buffer = [0; 4096];
        loop {
            match reader.read(&mut buffer) {
                Ok(count) if count > 0 => drop(output.write_all(&buffer[..count])),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The machine has ended.
                _ => break,
            }
        }
        let _ = over.send(());
    };
    start_thread("console-show", show).map_err(failed)?;
    // Whichever comes first; there is always somebody to send.
    let _ = wait.recv();
    match console.close() {
        None => {
            if !quiet {
                eprintln!("tern: the machine '{name}' has ended");
            }
            Ok(Code::SUCCESS)
        }
        Some(Leaving::Escape) => {
            if !quiet {
                eprintln!("\ntern: left '{name}', which goes on");
            }
            Ok(Code::SUCCESS)
        }
        Some(Leaving::OutputGone(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Code::LEFT),
        Some(Leaving::OutputGone(error)) => Err(failed(error)),
        Some(Leaving::Signal(signal)) => {
            terminal::end_by_signal(signal);
            Ok(Code::LEFT)
        }
    }
}

/// What is typed, on its way to the machine.
struct Typing(Mutex<UnixStream>);

impl ConsoleInput for Typing {
    fn offer(&self, bytes: &[u8]) -> usize {
        let written = self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes);
        match written {
            Ok(count) => count,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) =>
            {
                0
            }
            // Nobody hears it any more, and whoever shows the output finds out.
            Err(_) => bytes.len(),
        }
    }

    fn wait_for_room(&self, patience: Duration) {
        thread::sleep(patience);
    }
}
