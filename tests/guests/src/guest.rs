//! A running `tern`, and its end.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::places::Places;
use crate::stream::Stream;

/// What the tiny guest's shell shows when it waits for a command.
pub const PROMPT: &str = "tern:/# ";

/// How often it is looked whether the process still lives.
const MOMENT: Duration = Duration::from_millis(20);

/// How long a terminal that still has users may keep the last of its output.
const AFTERGLOW: Duration = Duration::from_millis(200);

/// How much of the console a failure shows, in bytes.
const TAIL: usize = 6000;

/// A running `tern`. It is killed when this is dropped.
#[derive(Debug)]
pub struct Guest {
    line: String,
    child: Child,
    /// Keeps the input's thread going; without it the input ends.
    input: Option<Sender<Vec<u8>>>,
    console: Stream,
    errors: Stream,
    /// How much of the console was waited for already, in bytes.
    seen: usize,
    started: Instant,
    limit: Duration,
    _places: Places,
}

/// A `tern` that has ended.
#[derive(Debug)]
pub struct End {
    /// How, as the system tells.
    pub status: ExitStatus,
    /// All that it wrote to standard output: the guest's console. On a terminal, errors too.
    pub console: String,
    /// All that it wrote to standard error.
    pub errors: String,
    /// How long it took.
    pub took: Duration,
    line: String,
}

impl Guest {
    pub(crate) fn new(
        line: String,
        mut child: Child,
        terminal: Option<File>,
        limit: Duration,
        places: Places,
    ) -> Self {
        let (console, mut input): (_, Box<dyn Write + Send>) = match terminal {
            Some(terminal) => {
                let keys = terminal.try_clone().expect("a descriptor is to be had");
                (Stream::read(terminal), Box::new(keys))
            }
            None => {
                let console = child.stdout.take().map_or_else(Stream::ended, Stream::read);
                (console, Box::new(child.stdin.take().expect("it was started with a pipe")))
            }
        };
        let errors = child.stderr.take().map_or_else(Stream::ended, Stream::read);
        let (sender, receiver) = channel::<Vec<u8>>();
        // A guest takes its time to read; whoever types must not wait for it.
        thread::spawn(move || {
            for bytes in receiver {
                // A process that ended reads no more.
                if input.write_all(&bytes).is_err() {
                    break;
                }
            }
        });
        let input = Some(sender);
        Self { line, child, input, console, errors, seen: 0, started: Instant::now(), limit, _places: places }
    }

    /// Types `bytes`, or writes them into the pipe.
    ///
    /// # Panics
    /// The input was ended.
    pub fn send(&self, bytes: impl Into<Vec<u8>>) {
        let input = self.input.as_ref().expect("the input is open");
        // If its thread is gone, so is the process, and whoever waits for that will tell.
        let _ = input.send(bytes.into());
    }

    /// Ends the input, once all is written that was sent.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    /// Waits until the console shows `text` after what was waited for before; returns what came up to its end.
    ///
    /// # Panics
    /// It does not appear in time, or the process ends before.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        loop {
            let ended = self.has_ended();
            let patience = if ended { AFTERGLOW } else { MOMENT };
            if let Some(end) = self.console.find(text, self.seen, patience) {
                let shown = self.console.text(self.seen, Some(end));
                self.seen = end;
                return shown;
            }
            if ended {
                let how = self.child.wait().expect("it has ended");
                self.fail(&format!("it ended ({how}) while waiting for {text:?}"));
            }
            self.check_time(&format!("waiting for {text:?}"));
        }
    }

    /// Waits until standard error shows `text`.
    ///
    /// # Panics
    /// It does not in time, or the process ends before.
    #[track_caller]
    pub fn wait_for_error(&mut self, text: &str) {
        while self.errors.find(text, 0, MOMENT).is_none() {
            if self.has_ended() && self.errors.find(text, 0, AFTERGLOW).is_none() {
                self.fail(&format!("it ended without the words {text:?} in standard error"));
            }
            self.check_time(&format!("waiting for {text:?} in standard error"));
        }
    }

    /// Waits for the shell, types a command and waits until it is done; returns its output.
    ///
    /// # Panics
    /// As [`Guest::wait_for`].
    #[track_caller]
    pub fn ask(&mut self, command: &str) -> String {
        self.send(format!("{command}\n"));
        self.wait_for(&format!("{command}\r\n"));
        let output = self.wait_for(PROMPT);
        output.trim_end_matches(PROMPT).replace("\r\n", "\n").trim_end().to_owned()
    }

    /// Waits until the process ends.
    ///
    /// # Panics
    /// It does not in time.
    #[track_caller]
    pub fn end(mut self) -> End {
        while !self.has_ended() {
            self.check_time("waiting for the end");
            thread::sleep(MOMENT);
        }
        let took = self.started.elapsed();
        for stream in [&self.console, &self.errors] {
            stream.wait_for_end(AFTERGLOW);
        }
        End {
            status: self.child.wait().expect("it has ended"),
            console: self.console.text(0, None),
            errors: self.errors.text(0, None),
            took,
            line: self.line.clone(),
        }
    }

    /// Has the guest switch its machine off, and waits for the command to end with 0.
    ///
    /// # Panics
    /// It ends in another way.
    #[track_caller]
    pub fn power_off(self) -> End {
        self.send("poweroff\n");
        self.end().expect_code(0)
    }

    /// Sends the process a signal.
    ///
    /// # Panics
    /// The process was waited for already.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the process is a child of ours");
    }

    /// The process's number.
    #[must_use]
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// How long it runs.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Fails the test, with all that is known.
    ///
    /// # Panics
    /// Always.
    #[track_caller]
    pub fn fail(&self, why: &str) -> ! {
        let took = self.started.elapsed();
        panic!("{}", story(why, &self.line, took, &self.console.text(0, None), &self.errors.text(0, None)))
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("the process is a child of ours").is_some()
    }

    #[track_caller]
    fn check_time(&self, doing: &str) {
        if self.started.elapsed() > self.limit {
            self.fail(&format!("more than {} s went by while {doing}", self.limit.as_secs()));
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It has ended already, or it is to.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl End {
    /// Insists on an exit code.
    ///
    /// # Panics
    /// It is another one, or there is none.
    #[must_use = "what was written is there to be looked at"]
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        if self.status.code() != Some(code) {
            self.fail(&format!("it ended with {}, not with the code {code}", self.status));
        }
        self
    }

    /// Insists on an end by a signal.
    ///
    /// # Panics
    /// It is another one, or there is none.
    #[must_use = "what was written is there to be looked at"]
    #[track_caller]
    pub fn expect_signal(self, signal: Signal) -> Self {
        if self.status.signal() != Some(signal.as_raw()) {
            self.fail(&format!("it ended with {}, not by {signal:?}", self.status));
        }
        self
    }

    /// Insists on words in standard error.
    ///
    /// # Panics
    /// One is missing.
    #[track_caller]
    pub fn expect_errors(&self, parts: &[&str]) {
        for part in parts {
            if !self.errors.contains(part) {
                self.fail(&format!("standard error lacks {part:?}"));
            }
        }
    }

    /// Fails the test, with all that is known.
    ///
    /// # Panics
    /// Always.
    #[track_caller]
    pub fn fail(&self, why: &str) -> ! {
        panic!("{}", story(why, &self.line, self.took, &self.console, &self.errors))
    }
}

fn story(why: &str, line: &str, took: Duration, console: &str, errors: &str) -> String {
    let mut text = format!("{why}\n  {line}\n  after {:.1} s", took.as_secs_f64());
    for (name, content) in [("console", console), ("standard error", errors)] {
        let tail = content.ceil_char_boundary(content.len().saturating_sub(TAIL));
        write!(text, "\n---- {name} ----\n{}", content[tail..].trim_end())
            .expect("a string takes everything");
    }
    text
}
