//! The conversation with the agent, from the machine's start to its end.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tern_command_protocol::{Decoder, FromGuest, Message, Start, Stream, VERSION};

use super::Prepared;
use super::outbox::Outbox;
use super::output::Output;
use super::{input, signals};
use crate::terminal::{self, Leaving, RawMode, Stop};
use crate::waiting::{HINT, Waiting};
use tern_engine::start_thread;

/// How the command ended, as far as this side knows.
#[derive(Debug)]
pub(crate) enum Ended {
    /// With this exit code; a reason is told if it was not run.
    Command { code: u8, reason: Option<String> },
    /// What the guest said makes no sense.
    Broken(String),
    /// Its output cannot be written.
    OutputFailed(io::Error),
    /// The machine ended first.
    Machine { had_started: bool },
}

/// What the threads share.
pub(super) struct Shared {
    pub outbox: Arc<Outbox>,
    waiting: Waiting,
    state: Mutex<State>,
    stop: Stop,
}

#[derive(Debug, Default)]
struct State {
    had_started: bool,
    end: Option<Ended>,
    leaving: Option<Leaving>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is a command now.
    pub(super) fn is_running(&self) -> bool {
        let state = self.lock();
        state.had_started && state.end.is_none()
    }

    /// Ends the machine because of the user.
    pub(super) fn leave(&self, why: Leaving) {
        if let Leaving::Signal(signal) = why {
            terminal::end_later(signal);
        }
        self.lock().leaving.get_or_insert(why);
        (self.stop)();
    }
}

/// A conversation.
pub(crate) struct Talk {
    shared: Arc<Shared>,
    stream: UnixStream,
    hearing: JoinHandle<(Output, Output)>,
    raw: Option<RawMode>,
}

impl Talk {
    /// Begins it, for a machine that `stop` ends.
    ///
    /// # Errors
    /// The host has no threads or descriptors left, or the terminal cannot be set up.
    pub(crate) fn start(prepared: Prepared, stop: Stop) -> io::Result<Self> {
        let Prepared { start, stream, is_quiet, ends_at_once, .. } = prepared;
        let has_terminal = start.terminal.is_some();
        let outbox = Arc::new(Outbox::default());
        let waiting = if is_quiet { Waiting::silent() } else { Waiting::start(Some(HINT))? };
        let shared = Arc::new(Shared { outbox: Arc::clone(&outbox), waiting, state: Mutex::default(), stop });
        // Whoever is to restore the terminal is there before it changes.
        signals::start(Arc::clone(&shared), has_terminal)?;
        let raw = if has_terminal { RawMode::enter()? } else { None };
        let leaving = Arc::clone(&shared);
        let leave = move || leaving.leave(Leaving::Escape);
        input::start(Arc::clone(&outbox), has_terminal, leave)?;
        let outputs = (
            Output::start(Stream::Output, rustix::stdio::stdout(), Arc::clone(&outbox))?,
            Output::start(Stream::Error, rustix::stdio::stderr(), Arc::clone(&outbox))?,
        );
        let mut speaking = stream.try_clone()?;
        start_thread("command-speaks", move || {
            while let Some(message) = outbox.next() {
                if speaking.write_all(&message.bytes()).is_err() {
                    return;
                }
            }
        })?;
        let hearing = Hearing {
            stream: stream.try_clone()?,
            start: Some(start),
            ends_at_once,
            shared: Arc::clone(&shared),
        };
        let hearing = start_thread("command-hears", move || hearing.run(outputs))?;
        Ok(Self { shared, stream, hearing, raw })
    }

    /// Ends it when the machine has ended, and all is written that the command wrote.
    pub(crate) fn finish(self) -> (Ended, Option<Leaving>) {
        self.shared.waiting.end();
        // What came before is still heard.
        let _ = self.stream.shutdown(Shutdown::Read);
        let outputs = self.hearing.join();
        self.shared.outbox.end();
        let mut state = self.shared.lock();
        let machine = Ended::Machine { had_started: state.had_started };
        let (mut end, leaving) = (state.end.take().unwrap_or(machine), state.leaving.take());
        drop(state);
        if let (Ok((output, error)), None) = (outputs, &leaving) {
            for failure in [output.finish(), error.finish()].into_iter().flatten() {
                end = Ended::OutputFailed(failure);
            }
        }
        drop(self.raw);
        (end, leaving)
    }
}

/// Hears what the agent says.
struct Hearing {
    stream: UnixStream,
    start: Option<Start>,
    ends_at_once: bool,
    shared: Arc<Shared>,
}

impl Hearing {
    fn run(mut self, outputs: (Output, Output)) -> (Output, Output) {
        let mut decoder = Decoder::<FromGuest>::default();
        let mut piece = vec![0; 32 << 10];
        let ended = 'talk: loop {
            let count = match self.stream.read(&mut piece) {
                Ok(0) => return outputs,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => return outputs,
            };
            decoder.push(&piece[..count]);
            loop {
                match decoder.next() {
                    Ok(Some(message)) => {
                        if let Some(ended) = self.heed(message, &outputs) {
                            break 'talk ended;
                        }
                    }
                    Ok(None) => break,
                    Err(error) => break 'talk Ended::Broken(error.to_string()),
                }
            }
        };
        let is_broken = matches!(ended, Ended::Broken(_));
        self.shared.lock().end.get_or_insert(ended);
        if self.ends_at_once || is_broken {
            (self.shared.stop)();
        }
        outputs
    }

    /// Does what one message means; the end, if it is that.
    fn heed(&mut self, message: FromGuest, outputs: &(Output, Output)) -> Option<Ended> {
        let outbox = &self.shared.outbox;
        let ended = |code, reason| Some(Ended::Command { code, reason });
        match message {
            FromGuest::Hello(VERSION) => {
                // An agent that says it again gets no second command.
                if let Some(start) = self.start.take() {
                    outbox.start(start);
                }
                None
            }
            FromGuest::Hello(version) => {
                Some(Ended::Broken(format!("it speaks version {version}, and this tern {VERSION}")))
            }
            FromGuest::Started => {
                // What it writes comes behind what was shown.
                self.shared.waiting.end();
                self.shared.lock().had_started = true;
                None
            }
            FromGuest::Output(stream, data) => {
                let output = match stream {
                    Stream::Output => &outputs.0,
                    Stream::Error => &outputs.1,
                };
                let is_fine = output.push(data);
                (!is_fine).then(|| Ended::Broken("more output than it may send".to_owned()))
            }
            FromGuest::Credit(count) => {
                outbox.allow(count);
                None
            }
            FromGuest::InputGone => {
                outbox.input_gone();
                None
            }
            FromGuest::Failed { code, reason } => ended(code, Some(reason)),
            FromGuest::Exited(code) => ended(code, None),
            FromGuest::Killed(signal) => ended(signal.saturating_add(128), None),
        }
    }
}
