//! A guest whose serial port is a process's standard input and output: waiting for text, typing
//! lines, and the moments at which text came.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What the tiny guest's init prints first.
pub(crate) const INIT: &str = "busybox shell";

/// The prompt of the tiny guest.
pub(crate) const PROMPT: &str = "tern:/# ";

/// How much of what was not yet waited for is kept: a guest may flood its console.
const KEPT: usize = 1 << 20;

/// A running guest. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Console {
    child: Child,
    input: ChildStdin,
    output: Receiver<(Instant, Vec<u8>)>,
    errors: File,
    /// What came and was not waited for yet.
    pending: Vec<u8>,
    /// When its last bytes came.
    latest: Instant,
}

impl Console {
    /// Starts `command`.
    pub fn start(mut command: Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let errors = tempfile::tempfile().context("cannot make a temporary file")?;
        let for_child = errors.try_clone().context("cannot share a temporary file")?;
        let latest = Instant::now();
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(for_child)
            .spawn()
            .with_context(|| format!("cannot start '{program}'"))?;
        let input = child.stdin.take().expect("its standard input is a pipe");
        let stdout = child.stdout.take().expect("its standard output is a pipe");
        let (sender, output) = mpsc::channel();
        thread::spawn(move || hand_on(stdout, &sender));
        Ok(Self { child, input, output, errors, pending: Vec::new(), latest })
    }

    /// Waits until the guest has printed `text`, and returns what came before it, and when it was complete.
    ///
    /// # Errors
    /// If it does not come within `limit`, or the guest ends: with what came instead.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<(String, Instant)> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(at) = find(&self.pending, text.as_bytes()) {
                let before = String::from_utf8_lossy(&self.pending[..at]).into_owned();
                self.pending.drain(..at + text.len());
                return Ok((before, self.latest));
            }
            match self.output.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok((when, bytes)) => {
                    self.latest = when;
                    self.pending.extend(bytes);
                    let excess = self.pending.len().saturating_sub(KEPT);
                    self.pending.drain(..excess);
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("no {text:?} from the guest within {} s{}", limit.as_secs(), self.last_words())
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the guest ended before it printed {text:?}{}", self.last_words())
                }
            }
        }
    }

    /// The process that runs the guest.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Types a line.
    pub fn type_line(&mut self, line: &str) -> Result<()> {
        let line = format!("{line}\n");
        self.input.write_all(line.as_bytes()).context("the guest takes no input")
    }

    /// Waits until the process has ended, and returns what it wrote to its standard error.
    ///
    /// # Errors
    /// If it does not end within `limit`, or not well.
    pub fn end(mut self, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        // The process has ended, or is about to, when its output has.
        while let Ok((_, bytes)) =
            self.output.recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            self.pending.extend(bytes);
        }
        let Some(status) = self.status_before(deadline)? else {
            bail!("it did not end within {} s{}", limit.as_secs(), self.last_words());
        };
        if !status.success() {
            bail!("it ended with {status}{}", self.last_words());
        }
        Ok(self.read_errors())
    }

    fn status_before(&mut self, deadline: Instant) -> Result<Option<ExitStatus>> {
        loop {
            let status = self.child.try_wait().context("cannot wait for the process")?;
            if status.is_some() || Instant::now() >= deadline {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn last_words(&mut self) -> String {
        let console = String::from_utf8_lossy(&self.pending).into_owned();
        let errors = self.read_errors();
        format!("; its console:\n{}\nits errors:\n{errors}", console.trim_end())
    }

    fn read_errors(&mut self) -> String {
        let mut bytes = Vec::new();
        // What cannot be read is missing in a message that tells of something else.
        let _ = self.errors.rewind().and_then(|()| self.errors.read_to_end(&mut bytes));
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // Neither can fail in a way that matters: it may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn hand_on(mut stdout: impl Read, sender: &Sender<(Instant, Vec<u8>)>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stdout.read(&mut buffer) {
        if sender.send((Instant::now(), buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}

fn find(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> Console {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Console::start(command).unwrap()
    }

    #[test]
    fn text_is_found_in_order_and_lines_are_typed() {
        let mut console = shell("echo ready; read line; echo \"got $line.\"; echo stats >&2");
        console.wait_for("ready\n", LONG).unwrap();
        console.type_line("this").unwrap();
        let (before, _) = console.wait_for(".", LONG).unwrap();
        assert_eq!(before, "got this");
        assert_eq!(console.end(LONG).unwrap(), "stats\n");
    }

    #[test]
    fn a_guest_that_ends_early_is_told_with_its_last_words() {
        let mut console = shell("echo panic; echo broken >&2");
        let error = console.wait_for("ready", LONG).unwrap_err().to_string();
        assert!(error.contains("panic") && error.contains("broken"), "{error}");
    }

    #[test]
    fn a_guest_that_says_nothing_is_not_waited_for_for_ever() {
        let mut console = shell("read line");
        let error = console.wait_for("ready", Duration::ZERO).unwrap_err().to_string();
        assert!(error.starts_with("no \"ready\" from the guest within 0 s"), "{error}");
    }

    #[test]
    fn a_bad_end_is_an_error() {
        assert!(shell("exit 3").end(LONG).is_err());
    }
}
