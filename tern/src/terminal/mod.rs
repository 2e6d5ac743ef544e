//! The user's terminal as the guest's serial console.
//!
//! ```text
//! stdin ──► input.rs (thread; escape.rs finds Ctrl-]) ──► ConsoleInput (the machine's UART)
//! stdout ◄── output.rs (thread, one write for many bytes) ◄── Output (io::Write, from a vCPU thread)
//! raw.rs      every key goes to the guest; the terminal is always restored
//! signals.rs  being ended, stopped and continued by others, and the machine's end before that
//! ```
//!
//! Standard input and output may be terminals, pipes, files or closed. Raw mode, Ctrl-] and the line
//! that tells of it are for terminals only: what comes through a pipe is passed on byte by byte.

mod escape;
mod input;
mod output;
mod raw;
mod signals;

use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub(crate) use self::input::read as read_input;

pub(crate) use output::Output;

pub(crate) use output::write_all;
pub(crate) use raw::RawMode;
pub(crate) use signals::{end_later, ignored};

/// Where typed bytes go: the receiving side of the guest's serial port.
pub(crate) trait ConsoleInput: Send + Sync {
    /// Takes as many of `bytes` as there is room for now, and says how many. Never waits.
    fn offer(&self, bytes: &[u8]) -> usize;

    /// Waits until `offer` may take something, at most for `patience`.
    fn wait_for_room(&self, patience: Duration);
}

/// Why the machine was asked to end from this side.
#[derive(Debug)]
pub(crate) enum Leaving {
    /// The user typed Ctrl-].
    Escape,
    /// Standard output takes no more.
    OutputGone(io::Error),
    /// Somebody sent the process this signal, which ends it.
    Signal(i32),
}

/// Ends the machine, from whatever thread; more than one call does no harm.
pub(crate) type Stop = Arc<dyn Fn() + Send + Sync>;

/// Splits what was typed at the first Ctrl-], and says whether there was one.
pub(crate) fn split(bytes: &[u8]) -> (&[u8], bool) {
    let escape::Typed { guest, leave } = escape::split(bytes);
    (guest, leave)
}

/// Makes the terminal raw again if it was, when the process goes on after it was stopped.
pub(crate) fn take_again() {
    // If the terminal is gone, the reader of the input will find out.
    let _ = raw::apply();
}

/// The columns and lines of the terminal that shows the console, if one does and tells.
pub(crate) fn size() -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(rustix::stdio::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// Standard input and output as a serial console, until dropped.
pub(crate) struct Console {
    output: Output,
    leaving: Arc<Mutex<Option<Leaving>>>,
    raw: Option<RawMode>,
    signals: signals::Watch,
}

/// Ends the process as the signal does that it was sent. Call it when there is nothing left to do.
pub(crate) fn end_by_signal(signal: i32) {
    signals::end_by(signal);
}

impl Console {
    /// Takes the terminal over, if there is one, and tells there in one line how to leave.
    ///
    /// # Errors
    /// If the terminal or the handling of signals cannot be set up.
    pub fn open(quiet: bool, how_to_leave: &str) -> io::Result<Self> {
        let output = Output::start(rustix::stdio::stdout())?;
        if io::stdin().is_terminal() && !quiet {
            eprintln!("tern: {how_to_leave}");
        }
        // Whoever is to restore the terminal is there before it changes.
        let signals = signals::Watch::start(io::stdin().is_terminal())?;
        let raw = RawMode::enter()?;
        Ok(Self { output, leaving: Arc::default(), raw, signals })
    }

    /// Where the guest's console output is to be written.
    pub fn output(&self) -> Output {
        self.output.clone()
    }

    /// Gives a way to end the machine with `stop` though its processors wait for room in the output, which could not be stopped.
    pub fn without_waiting(&self, stop: Stop) -> Stop {
        let output = self.output.clone();
        Arc::new(move || {
            output.stop_waiting();
            stop();
        })
    }

    /// Starts passing on what is typed to `input`, and ends the machine with `stop` if the user leaves
    /// or if standard output is gone.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn connect(&self, input: Arc<dyn ConsoleInput>, stop: Stop) -> io::Result<()> {
        let (leaving, stop) = (Arc::clone(&self.leaving), self.without_waiting(stop));
        let leave = move |why| {
            leaving.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
            stop();
        };
        let (gone, ended) = (leave.clone(), leave.clone());
        self.signals.on_signal(move |signal| ended(Leaving::Signal(signal)));
        self.output.on_failure(move |error| gone(Leaving::OutputGone(error)));
        input::start(input, move || leave(Leaving::Escape))
    }

    /// Writes out what is left, gives the terminal back and tells whether the end came from this side.
    pub fn close(mut self) -> Option<Leaving> {
        self.output.finish();
        drop(self.raw.take());
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
